"""An OCR pipeline: one network finds the lines of a page, another one reads them.

    swapnet models run ppocrv4_det ppocrv4_rec           # builds both engines
    python examples/ocr.py engines/ppocrv4_det engines/ppocrv4_rec --image page.png --budget 96MiB

Both networks share one budget. Without `--image` a scanned page of the zoo is read.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

import swapnet
from swapnet.models.ctc import decode
from swapnet.models.images import picture, pixels
from swapnet.models.ppocr import characters
from swapnet.models.ppocr_det import regions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("detector", help="engine that gives the probability of text, by pixel")
    parser.add_argument("reader", help="engine that gives the probabilities of characters")
    parser.add_argument("--image", help="picture file")
    parser.add_argument("--budget", default="96MiB", help="memory of both networks")
    arguments = parser.parse_args()
    page = Image.open(arguments.image).convert("RGB") if arguments.image else picture("page.png")

    detecting, reading = map(swapnet.Engine.open, (arguments.detector, arguments.reader))
    (*_, height, width) = detecting.manifest.planned_shapes["x"]
    (*_, line_height, line_width) = reading.manifest.planned_shapes["x"]

    with swapnet.SwapRuntime(arguments.budget) as runtime:
        detector = runtime.load(detecting, name="detector")
        reader = runtime.load(reading, name="reader", rate_per_s=8.0)  # lines of a page
        (probabilities,) = detector({"x": pixels(page, width, height)[None] * 2 - 1}).values()
        futures = []
        for found in regions(probabilities[0, 0]):
            scale = np.array([page.width / width, page.height / height] * 2)
            box = np.array([found.left, found.top, found.right, found.bottom]) * scale
            line = page.crop(tuple(box.round().astype(int).tolist()))
            used = min(line_width, round(line_height * line.width / line.height))
            planes = np.zeros((1, 3, line_height, line_width), np.float32)
            planes[0, :, :, :used] = pixels(line, used, line_height) * 2 - 1
            futures.append(reader.submit({"x": planes}))
        for future in futures:
            (steps,) = future.result().values()
            text, confidence = decode(steps[0], characters())
            print(f"{confidence:4.0%}  {text}")


if __name__ == "__main__":
    main()
