"""An engine at other input shapes than those of its build."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from swapnet.errors import EngineError, ModelError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.probing.activations import measure
from swapnet.manifest import sizes_at
from swapnet.shapes import MeasuredShapes, as_title, save_shapes, shapes_key, shapes_of
from swapnet.symbols import as_sizes, model_symbols, refusal_text

__all__ = ["ensure_shapes", "to_stderr"]


def to_stderr(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{line}\n")


def ensure_shapes(
    engine: Engine | str | Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    device: Device | None = None,
    say: Callable[[str], None] = to_stderr,
) -> Engine:
    """The engine at input shapes, measured first where it was not.

    Parameters
    ----------
    engine
        Engine directory, or an open engine.
    shapes, dims
        Input shapes, by input, and sizes by symbol; by default those of the build.
    device
        As for `Engine.open`.
    say
        Called with one line when something is measured.

    Raises
    ------
    EngineError
        The folder is not an engine directory, or TensorRT built it for other shapes.
    InputError
        A shape is not what the model takes.
    ModelError
        The model does not run at these shapes.
    StorageError
        The engine directory can't be written.
    """
    opened = Engine.open(engine, device=device)
    if not shapes and not dims:
        return opened
    folder, manifest = opened.folder, opened.built
    sizes = sizes_at(manifest, shapes, dims)
    planned = shapes_of(manifest.inputs, sizes)
    try:
        return opened.at(shapes, dims)
    except EngineError:
        if manifest.is_tensorrt:
            raise EngineError(
                f"{folder} can't be planned for other shapes than those of its build",
                why=f"{manifest.compiled.backend} compiled it for inputs up to "
                f"{as_title(manifest.planned_shapes)}",
                hint="leave --shapes and --dims out for smaller inputs; build it again for larger",
            ) from None
        say(f"{folder}: measuring activations at {as_title(planned)} …")
    try:
        measured = measure(folder, planned)
    except ModelError as error:
        raise ModelError(
            f"{folder} does not run at {as_sizes(sizes) or as_title(planned)}",
            why=refusal_text(error.why),
            hint="give sizes that belong together: --dims "
            + ",".join(f"{symbol}=SIZE" for symbol in model_symbols(manifest.inputs)),
        ) from error
    save_shapes(
        folder,
        shapes_key(manifest.inputs, planned),
        MeasuredShapes(
            engine=manifest.identity,
            planned_shapes=planned,
            nbytes=measured.nbytes,
            activation_bytes=measured.limiting_activation_bytes,
        ),
    )
    return opened.at(shapes, dims)
