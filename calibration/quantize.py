"""The model in lower precision, as a file for any library."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx

from swapnet.builder.importing.source import PROTOBUF_LIMIT_BYTES, check_apart, open_source
from swapnet.builder.precision.convert import PrecisionOptions, interchange, library_of
from swapnet.errors import InputError
from swapnet.files import (
    folder_of_temporaries,
    make_folder,
    replacing,
    working_folder,
    writing,
)
from swapnet.manifest import Precision
from swapnet.ranges import RangeCache

__all__ = ["quantize"]


def quantize(
    model: str | Path,
    output: str | Path,
    *,
    precision: Precision = "int8",
    ranges: RangeCache | None = None,
    weight_only: bool = False,
    per_channel: bool = True,
    block_size: int | None = None,
    exclude: Sequence[str] = (),
) -> Path:
    """Write a model in lower precision, in standard ONNX operators that TensorRT takes too.

    int8 is written as Q/DQ pairs with zero point 0; float16 keeps the types of inputs and outputs.
    int4 is written in operators of ONNX Runtime, for it alone.

    Parameters
    ----------
    model
        ONNX file.
    output
        File to write; an existing one is replaced when the new one is whole. Weights of 2 GiB or
        more lie in a file beside it, named after it.
    precision
        ``"int8"``, ``"fp16"`` or ``"int4"``.
    ranges
        Ranges from `swapnet.calibration.calibrate_model`: int8 needs them, float16 uses them to
        leave values that overflow in float32.
    weight_only
        Weights in int8, widened where they are used; no ranges are needed.
    per_channel
        One scale for each output channel of an int8 weight, else one for the whole weight.
    block_size
        Number of int4 weights that share a scale: 32 (the default), 64 or 128.
    exclude
        Names of operators that stay in float32.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        Ranges are missing or of another model, or an excluded operator does not exist.
    ModelError
        The model can't be read, or has no operator that computes in int8.
    StorageError
        The file can't be written.
    """
    if precision == "fp32":
        raise InputError(
            "the model is in fp32 already", why="quantize lowers it", hint="give fp16, int8 or int4"
        )
    options = PrecisionOptions(
        precision, weight_only, ranges, tuple(exclude), per_channel, block_size
    )
    options.check(library_of(precision))
    source = open_source(Path(model))
    target = Path(output)
    check_apart(source, target)
    make_folder(target.absolute().parent)
    with (
        writing(target),
        working_folder(f".{target.name}.", folder_of_temporaries(target)) as folder,
    ):
        proto = interchange(source, options, folder)
        onnx.load_external_data_for_model(proto, str(folder))
        large = proto.ByteSize() >= PROTOBUF_LIMIT_BYTES
        data = f"{target.name}.data"
        written = folder / "written"
        written.mkdir()
        onnx.save_model(proto, written / target.name, save_as_external_data=large, location=data)
        for name in (data, target.name) if large else (target.name,):
            with replacing(target.parent / name) as temporary:
                shutil.move(written / name, temporary)
    return target
