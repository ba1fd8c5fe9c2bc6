"""The model in lower precision, as a file for any library."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from swapnet.errors import InputError, StorageError
from swapnet.files import folder_of_temporaries, make_folder, replacing
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
    exclude: Sequence[str] = (),
) -> Path:
    """Write a model in lower precision, of standard ONNX operators that TensorRT takes too.

    int8 is Q/DQ pairs with zero point 0; float16 keeps the types of inputs and outputs.

    Parameters
    ----------
    model
        ONNX file.
    output
        File to write; one that is there is replaced when the new one is whole. Weights of 2 GiB or
        more lie in a file beside it, named after it.
    precision
        ``"int8"`` or ``"fp16"``.
    ranges
        Of `swapnet.calibration.calibrate_model`: int8 needs them, float16 leaves in float32 what
        overflows.
    weight_only
        Weights in int8, widened where they are used; no ranges are needed.
    per_channel
        A scale for each output channel of a weight, else one for all of it.
    exclude
        Names of operators that stay in float32.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        There are no ranges, they are of another model, or an excluded operator does not exist.
    ModelError
        The model can't be read, or nothing of it computes in int8.
    StorageError
        The file can't be written.
    """
    import onnx

    from swapnet.builder.importing.source import PROTOBUF_LIMIT_BYTES, check_apart, open_source
    from swapnet.builder.precision.convert import PrecisionOptions, interchange

    if precision == "fp32":
        raise InputError(
            "fp32 is what the model is", why="there is nothing to do", hint="give fp16 or int8"
        )
    options = PrecisionOptions(precision, weight_only, ranges, tuple(exclude), per_channel)
    options.check("tensorrt")
    source = open_source(Path(model))
    target = Path(output)
    check_apart(source, target)
    make_folder(target.absolute().parent)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=folder_of_temporaries(target)
        ) as hidden:
            folder = Path(hidden)
            proto = interchange(source, options, folder)
            onnx.load_external_data_for_model(proto, str(folder))
            large = proto.ByteSize() >= PROTOBUF_LIMIT_BYTES
            data = f"{target.name}.data"
            written = folder / "written"
            written.mkdir()
            onnx.save_model(
                proto, written / target.name, save_as_external_data=large, location=data
            )
            for name in (data, target.name) if large else (target.name,):
                with replacing(target.parent / name) as temporary:
                    shutil.move(written / name, temporary)
    except OSError as error:
        raise StorageError(
            f"{target} can't be written",
            why=error.strerror or str(error),
            hint="choose another place, or free some space",
        ) from error
    return target
