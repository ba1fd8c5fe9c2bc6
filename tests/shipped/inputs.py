"""Inputs of the shipped models: made as their packages make them, of seeded sounds and real pages.

Each function returns arrays by input name, without a sample axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swapnet.arrays import Array
from swapnet.models import ddddocr, minilm
from swapnet.models.images import normalise, picture, pixels

__all__ = [
    "document",
    "hibari",
    "joe",
    "letters",
    "minilm_int8",
    "pitch",
    "silero",
    "slanet",
    "turn",
    "words",
]

Inputs = dict[str, Array]

_SPEECH_PER_S = 16_000
_MUSIC_PER_S = 22_050


def sound(samples: int, samples_per_s: int) -> NDArray[np.float32]:
    """A voice that hums: gliding harmonics in syllables, with some noise; (samples,), -1 to 1."""
    seconds = np.arange(samples) / samples_per_s
    cycles = np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * seconds)) / samples_per_s
    harmonics = [np.sin(2 * np.pi * n * cycles) / n for n in range(1, 9)]
    loudness = np.clip(np.sin(2 * np.pi * 2.3 * seconds), 0, None)
    noise = np.random.default_rng(1).normal(0, 0.005, samples)
    heard: NDArray[np.float32] = (0.3 * loudness * sum(harmonics) + noise).astype(np.float32)
    return heard


def silero() -> Inputs:
    """One window of 512 samples behind 64 earlier ones, and an empty state."""
    return {
        "input": sound(4096, _SPEECH_PER_S)[None, -576:],
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(_SPEECH_PER_S, np.int64),
    }


def pitch() -> Inputs:
    """Two seconds less one hop, as the package cuts them."""
    return {"serving_default_input_2:0": sound(43_844, _MUSIC_PER_S)[None, :, None]}


def turn() -> Inputs:
    """Logarithmic mel spectrum of eight seconds, as Whisper has it: (1, 80, 800)."""
    heard = np.pad(sound(8 * _SPEECH_PER_S, _SPEECH_PER_S), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(heard, 400)[::160][:800]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1])) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    rising = (np.linspace(0, 8000, 201) - edges[:-1, None]) / np.diff(edges)[:, None]
    filters = np.clip(np.minimum(rising[:-1], 1 - rising[1:]), 0, None)
    mel = np.log10(np.maximum(filters @ power.T, 1e-10))
    return {"input_features": ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)[None]}


def document() -> Inputs:
    """A scanned page of 608 by 800 pixels."""
    return {"image": normalise(pixels(picture("page.png"), 608, 800))[None]}


def words() -> Inputs:
    """The same page for a reader of text lines: 736 by 384 pixels, -1 to 1."""
    return {"x": pixels(picture("page.png"), 736, 384)[None] * 2 - 1}


def slanet() -> Inputs:
    """A ruled table of three by four words of the page, 488 by 488 pixels."""
    page = picture("page.png")
    table = page.resize((488, 488))
    table.paste((255, 255, 255), (0, 0, 488, 488))
    for row in range(4):
        table.paste((0, 0, 0), (4, 4 + 80 * row, 484, 6 + 80 * row))
        for column in range(4) if row < 3 else ():
            left, top = 4 + 120 * column, 4 + 80 * row
            left_of_word = 40 * column
            word = page.crop((left_of_word, 46 + 20 * row, left_of_word + 50, 66 + 20 * row))
            table.paste(word.resize((100, 40)), (left + 10, top + 20))
    for column in range(5):
        table.paste((0, 0, 0), (4 + 120 * column, 4, 6 + 120 * column, 246))
    return {"x": normalise(pixels(table, 488, 488))[None]}


def letters() -> Inputs:
    """The first line of the page, as `swapnet.models.ddddocr` has it."""
    return {"input1": ddddocr.samples()["input1"][0]}


def hibari() -> Inputs:
    """Phonemes of "Hello, the model does not fit in memory.", and the usual speed."""
    phonemes = [
        *(0, 50, 83, 54, 156, 31, 3, 16, 81, 83, 16, 55, 156, 69, 46, 42, 54, 16, 46, 157, 138, 68),
        *(16, 56, 157, 69, 62, 16, 48, 156, 102, 62, 16, 102, 56, 16, 55, 156, 86, 55, 83, 123, 51),
        *(4, 0),
    ]
    return {"ids": np.array([phonemes]), "speed": np.ones(1, np.float32)}


def joe() -> Inputs:
    """The same sentence in Piper's phonemes. Without noise: values have to repeat themselves."""
    phonemes = [
        *(20, 59, 24, 59, 100, 8, 3, 41, 59, 3, 25, 120, 51, 122, 17, 59, 24, 3, 17, 102, 38, 3),
        *(26, 121, 51, 122, 32, 3, 19, 120, 74, 32, 3, 74, 26, 3, 25, 120, 61, 25, 60, 88, 21, 10),
    ]
    ids = np.zeros((1, 2 * len(phonemes) + 3), np.int64)
    ids[0, 2:-1:2] = phonemes
    ids[0, 0], ids[0, -1] = 1, 2
    return {
        "input": ids,
        "input_lengths": np.array([ids.size]),
        "scales": np.array([0, 1, 0], np.float32),
    }


def minilm_int8() -> Inputs:
    """Six sentences, padded."""
    return {name: array[0] for name, array in minilm.samples().items()}
