"""An engine at other input shapes than those of its build."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from swapnet.data.samples import Data, samples_of
from swapnet.data.spool import samples_to_plan, spool
from swapnet.errors import EngineError, ModelError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.probing.activations import measure
from swapnet.executor.repacking import ensure_packed
from swapnet.executor.samples import MOST_SAMPLES, save_samples
from swapnet.executor.state import CONTEXT, Cache, find_cache
from swapnet.files import working_folder
from swapnet.manifest import sizes_at
from swapnet.shapes import MeasuredShapes, as_title, save_shapes, shapes_key, shapes_of
from swapnet.symbols import as_sizes, known_sizes, model_symbols, refusal_text
from swapnet.token_rows import IDS

__all__ = ["ensure_context", "ensure_shapes", "to_stderr"]


def to_stderr(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{line}\n")


def ensure_shapes(
    engine: Engine | str | Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    data: Data | None = None,
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
    data
        Real inputs, as `swapnet.build` takes them. Sizes that are not given are the largest of
        them. The engine keeps the largest samples, and is measured on them.
    device
        As for `Engine.open`.
    say
        Called with one line when something is measured.

    Raises
    ------
    EngineError
        The folder is not an engine directory, or TensorRT built it for other shapes.
    InputError
        A shape or the data is not what the model takes.
    ModelError
        The model does not run at these shapes, or on the data.
    StorageError
        The engine directory can't be written.
    """
    opened = Engine.open(engine, device=device)
    packed = ensure_packed(opened, say)
    if packed is not opened and opened.shaped is not opened.built:
        shapes = {**opened.shaped.planned_shapes, **(shapes or {})}
    opened = packed
    if data is not None:
        return _on_data(opened, shapes or {}, dims or {}, data, say)
    if not shapes and not dims:
        return opened
    return _ensure(opened, shapes or {}, dims or {}, say)


def ensure_context(
    engine: Engine | str | Path,
    context: int = CONTEXT,
    *,
    state: str = "",
    rows: int = 0,
    conversations: int = 1,
    device: Device | None = None,
    say: Callable[[str], None] = to_stderr,
) -> Engine:
    """A decoder's engine with a cache that the executor keeps, measured first where it was not.

    Parameters
    ----------
    engine, device, say
        As for `ensure_shapes`.
    context
        Most tokens in the cache.
    state
        Names of the cache's outputs and inputs, as ``present.*=past.*``; by default those that
        exporters use.
    rows
        Most tokens of an inference whose logits are wanted, the last ones; 0 for all.
    conversations
        Number of caches.

    Raises
    ------
    InputError
        The model has no cache, or only one of one conversation.
    SwapnetError
        As `ensure_shapes`.
    """
    opened = Engine.open(engine, device=device)
    opened = ensure_packed(opened, say)
    cache = find_cache(opened.built, context, state, rows, conversations)
    if opened.built.is_tensorrt:
        _check_context(opened, cache)
        return opened.keeping(cache)
    return _ensure(opened, cache.shapes(opened.built), {}, say, cache).keeping(cache)


def _check_context(engine: Engine, cache: Cache) -> None:
    """Compare a cache with the shapes that TensorRT compiled an engine for."""
    built, pair = engine.built, cache.pairs[0]
    before = 0 if pair.in_place else built.planned_shapes[IDS][-1]
    most = built.planned_shapes[pair.past][pair.axis] + before
    fits = (
        size <= limit
        for name, shape in cache.shapes(built).items()
        for size, limit in zip(shape, built.planned_shapes[name], strict=True)
    )
    if cache.context > most or not all(fits):
        raise EngineError(
            f"{engine.folder} has no context of {cache.context} tokens",
            why=f"{built.compiled.backend} compiled it for a cache of {most} tokens, and inputs up "
            f"to {as_title(built.planned_shapes)}",
            hint="give a smaller context, or build it again for a larger one: --dims "
            f"{built.tensors[pair.past].shape[pair.axis]}={cache.context - before}",
        )


def _ensure(
    engine: Engine,
    shapes: Mapping[str, Sequence[int]],
    dims: Mapping[str, int],
    say: Callable[[str], None],
    cache: Cache | None = None,
) -> Engine:
    planned = shapes_of(engine.built.inputs, sizes_at(engine.built, shapes, dims))
    try:
        return engine.at(shapes, dims, cache)
    except EngineError:
        _say_measured(engine, planned, say)
    return _measured(engine, planned, cache)


def _on_data(
    engine: Engine,
    shapes: Mapping[str, Sequence[int]],
    dims: Mapping[str, int],
    data: Data,
    say: Callable[[str], None],
) -> Engine:
    """The engine at the shapes of data, which it keeps; measured on it, unless built for them."""
    folder, inputs = engine.folder, engine.built.inputs
    with working_folder("swapnet-data-") as work:
        spooled = spool(samples_of(data, inputs, shapes), inputs, work)
        planned, samples = samples_to_plan(spooled, inputs, shapes, dims)
        chosen = [*samples[: MOST_SAMPLES - 1], *samples[MOST_SAMPLES - 1 :][-1:]]
        kept = [sample.arrays(inputs) for sample in chosen]
    if planned == engine.built.planned_shapes:
        say(f"{folder}: memory is planned as in its build; to plan on this data, build it again")
        save_samples(folder, kept)
        return engine.at(planned)
    _say_measured(engine, planned, say)
    key = shapes_key(inputs, planned)
    save_samples(folder, kept, key)
    try:
        return _measured(engine, planned)
    except ModelError:
        if not samples[-1].optional:
            save_samples(folder, (), key)
            raise
    save_samples(folder, kept[:-1], key)
    return _measured(engine, planned)


def _say_measured(
    engine: Engine, planned: Mapping[str, Sequence[int]], say: Callable[[str], None]
) -> None:
    """Say that an engine is measured at input shapes; raises an EngineError for TensorRT."""
    if engine.built.is_tensorrt:
        raise EngineError(
            f"{engine.folder} can't be planned for other shapes than those of its build",
            why=f"{engine.built.compiled.backend} compiled it for inputs up to "
            f"{as_title(engine.built.planned_shapes)}",
            hint="leave --shapes, --dims and --data out for smaller inputs; build it again for "
            "larger ones",
        ) from None
    say(f"{engine.folder}: measuring activations at {as_title(planned)} …")


def _measured(
    engine: Engine, planned: dict[str, tuple[int, ...]], cache: Cache | None = None
) -> Engine:
    folder, inputs = engine.folder, engine.built.inputs
    try:
        measured = measure(folder, planned, cache)
    except ModelError as error:
        sizes = known_sizes(inputs, planned, {}, {})
        raise ModelError(
            f"{folder} does not run at {as_sizes(sizes) or as_title(planned)}",
            why=refusal_text(error.why),
            hint=f"give a context that the model has: fewer tokens than {cache.context}"
            if cache is not None
            else "give sizes that belong together: --dims "
            + ",".join(f"{symbol}=SIZE" for symbol in model_symbols(inputs))
            + f"; or inputs that it runs on: swapnet measure {folder} --data inputs.npz",
        ) from error
    save_shapes(
        engine.folder,
        shapes_key(engine.built.inputs, planned, cache.conversations if cache else 1),
        MeasuredShapes(
            engine=engine.built.identity,
            planned_shapes=planned,
            nbytes=measured.nbytes,
            activation_bytes=measured.activation_bytes,
            session_memory=measured.session_memory,
            stripings=measured.stripings,
        ),
    )
    return engine.at(planned, cache=cache)
