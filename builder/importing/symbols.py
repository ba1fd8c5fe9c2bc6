"""Sizes of a model's symbols: those that the graph fixes, and those to assume."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import onnx

from swapnet.builder.importing.graph import Graph, Value, bodies
from swapnet.builder.importing.inputs import inputs_of
from swapnet.errors import InputError, ModelError
from swapnet.shapes import given_sizes, shapes_of
from swapnet.symbols import is_nameless, model_symbols, symbols_in
from swapnet.tensors import ModelInput

__all__ = [
    "cached_sizes",
    "candidates",
    "context_sizes",
    "fixed_sizes",
    "likely_shapes",
    "with_fixed",
]

Fixed = Iterator[tuple[str, int, int]]
"""A value, one of its axes, and the size that an operator needs there."""


def fixed_sizes(graph: Graph) -> dict[str, int]:
    """Sizes of input symbols that weights and attributes of operators leave no choice for.

    Operators in bodies of If, Loop and Scan count where they agree: a branch may never run.
    """
    symbols = set(model_symbols(graph.inputs))
    sizes: dict[str, int] = {}
    inside: dict[str, set[int]] = {}
    for scope in _scopes(graph):
        for node in scope.nodes:
            for name, axis, size in _needs(scope, node):
                shape = _shape(scope, name)
                if -len(shape) <= axis < len(shape) and shape[axis] in symbols and size > 0:
                    symbol = str(shape[axis])
                    if scope is graph:
                        sizes.setdefault(symbol, size)
                    else:
                        inside.setdefault(symbol, set()).add(size)
    return {**{s: size for s, (size, *others) in inside.items() if not others}, **sizes}


def _scopes(graph: Graph) -> Iterator[Graph]:
    """The graph, then each body with what it sees of the graph around it."""
    yield graph
    for node in graph.nodes:
        scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        outer = node.input[: len(node.input) - scanned]  # a body gets slices of those
        for body in bodies(node):
            values = {
                value.name: graph.values[name]
                for value, name in zip(body.input, outer, strict=False)
                if name in graph.values
            }
            yield from _scopes(
                replace(
                    graph,
                    nodes=body.node,
                    values={**graph.values, **values},
                    inline={**graph.inline, **{t.name: t for t in body.initializer}},
                )
            )


def with_fixed(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with numbers in place of symbols that it fixes."""

    def fixed(value: Value) -> Value:
        shape = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in value.shape)
        return replace(value, shape=shape)

    return replace(
        graph,
        values={name: fixed(value) for name, value in graph.values.items()},
        inputs=tuple(map(fixed, graph.inputs)),
        outputs=tuple(map(fixed, graph.outputs)),
    )


def _shape(graph: Graph, name: str) -> tuple[int | str, ...]:
    known = name in graph.values or name in graph.constants or name in graph.inline
    return graph.shapes(name)[0] if known else ()


def _size(graph: Graph, name: str, axis: int) -> int:
    """A size that is known; 0 for others."""
    shape = _shape(graph, name)
    size = shape[axis] if -len(shape) <= axis < len(shape) else 0
    return size if isinstance(size, int) else 0


def _needs(graph: Graph, node: onnx.NodeProto) -> Fixed:
    given = [*node.input, *[""] * 8]
    numbers = {a.name: a.i for a in node.attribute}
    kind = node.op_type.removeprefix("Fused")
    if kind in _WEIGHT_OF_CONVOLUTION:
        weight, axis = given[_WEIGHT_OF_CONVOLUTION[kind]], 0 if kind == "ConvTranspose" else 1
        groups = 1 if kind == "ConvTranspose" else numbers.get("group", 1)
        yield given[0], 1, groups * _size(graph, weight, axis)
    elif kind in _SECOND_OF_PRODUCT:
        second = given[_SECOND_OF_PRODUCT[kind]]
        inner = -2 if numbers.get("transA") else -1, -1 if numbers.get("transB") else -2
        if len(_shape(graph, second)) > 1:
            yield given[0], inner[0], _size(graph, second, inner[1])
            yield second, inner[1], _size(graph, given[0], inner[0])
    elif kind == "MatMulNBits":
        yield given[0], -1, numbers["K"]
    elif kind == "BatchNormalization":
        yield given[0], 1, _size(graph, given[1], 0)
    elif kind in ("LSTM", "GRU", "RNN"):
        yield given[0], 2, _size(graph, given[1], 2)
        for state in given[5:7]:
            yield state, 0, _size(graph, given[1], 0)
            yield state, 2, numbers.get("hidden_size", 0)
    elif kind == "Concat":
        for axis, size in _common(graph, node.input, numbers.get("axis", 0)):
            yield from ((name, axis, size) for name in node.input)
    elif "Attention" in kind:
        yield from _attention(graph, kind, given, numbers)


_WEIGHT_OF_CONVOLUTION: Final = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_SECOND_OF_PRODUCT: Final = {"MatMul": 1, "Gemm": 1, "MatMulInteger": 1, "QLinearMatMul": 3}


def _common(graph: Graph, names: Sequence[str], joined: int) -> Iterator[tuple[int, int]]:
    """Axes of joined values where one of them is fixed, but for the axis that they lie along."""
    rank = max(len(_shape(graph, name)) for name in names)
    for axis in set(range(rank)) - {joined % rank if rank else 0}:
        yield from ((axis, size) for n in names if (size := _size(graph, n, axis)))


def _attention(graph: Graph, kind: str, given: Sequence[str], numbers: Mapping[str, Any]) -> Fixed:
    """Number of heads and their size behind the axes of a past."""
    query, key = given[:2]
    width = _size(graph, query, -1) if len(_shape(graph, query)) == 3 else 0
    heads = numbers.get("num_heads", numbers.get("q_num_heads", 0))
    keys = numbers.get("kv_num_heads", heads)
    if not heads:
        return
    if kind == "Attention" and "num_heads" in numbers:
        inner = _size(graph, given[1], 1) // 3
        yield query, -1, _size(graph, given[1], 0)
        yield given[4], 2, heads
        yield given[4], 4, inner // heads
        return
    pasts = given[_PASTS[kind] : _PASTS[kind] + 2] if kind in _PASTS else ()
    packed = kind == "GroupQueryAttention" and not key
    for past in pasts:
        yield past, 1, keys
        yield past, 3, width // (heads + 2 * keys if packed else heads)


_PASTS: Final = {"GroupQueryAttention": 3, "MultiHeadAttention": 6, "Attention": 4}
"""Where the past of keys stands; that of values follows it."""

_SEQUENCE_LENGTH = 128
_IMAGES = ((224, 224), (256, 256), (48, 224), (32, 224), (512, 512), (640, 640))
"""Heights and widths: the first is assumed, others are tried where a network refuses it. Those of
few rows are lines of text."""
_SAMPLES = 512
"""Last axis without a meaning, where the model refuses 1: a piece of sound."""

_MEANINGS: Final = {
    "channels": r"channels?|^c$",
    "total": r"total.*(seq|len)",
    "past": r"past|^(kv_?)?cache_len",
    "height": r"height|(^|_)h(_|\d*$)",
    "width": r"width|(^|_)w(_|\d*$)",
    "batch": r"batch|^(b|bs|n)$",
    "sequence": r"seq|tok|text|phoneme|(^|_)(len|length|time|frames?)(_|s?$)",
}
"""Names of symbols by what they measure; the first that fits is taken."""

_IMAGE = re.compile(r"image|img|pixel|picture|photo", re.IGNORECASE)
_TEXT = re.compile(r"(^|_)ids?($|_)|tok|text|mask", re.IGNORECASE)
"""Inputs by their names."""


def _meaning(symbol: str, value: ModelInput, axis: int) -> str:
    """A key of `_MEANINGS`, by the symbol's name or by its place; else empty."""
    nameless, shape = is_nameless(symbol), value.shape
    if not nameless:
        for meaning, word in _MEANINGS.items():
            if re.search(word, symbol, re.IGNORECASE):
                return meaning
    is_image = value.dtype in ("float32", "float16", "uint8") and len(shape) in (3, 4)
    if is_image and (nameless or _IMAGE.search(value.name)):
        first = len(shape) - 3
        if shape[first] in _COLOURS[first]:
            return {first + 1: "height", first + 2: "width"}.get(axis, "")
        if shape[-1] in _COLOURS[first]:
            return {first: "height", first + 1: "width"}.get(axis, "")
    is_text = value.dtype in ("int64", "int32") and len(shape) == 2 and axis == 1
    if is_text and (nameless or _TEXT.search(value.name)):
        return "sequence"
    return "last" if axis and axis + 1 == len(shape) else ""


_COLOURS: Final = ((3, 4), (1, 3, 4))
"""Channels of an image without an axis of images, and with it."""


def candidates(inputs: Sequence[ModelInput], known: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes of all symbols to try, the most sensible first.

    Parameters
    ----------
    inputs
        Inputs of the model.
    known
        Sizes of the symbols that follow from what was given.
    """
    meanings = _meanings(inputs)

    def sizes(length: int, past: int, height: int, width: int, last: int = 1) -> dict[str, int]:
        assumed = {
            **{"sequence": length, "past": past, "height": height, "width": width, "last": last},
            "channels": min(height, 3),
        }
        found = {s: known.get(s, assumed.get(meaning, 1)) for s, meaning in meanings.items()}
        by_meaning = {meaning: found[s] for s, meaning in meanings.items()}
        total = by_meaning.get("past", 0) + by_meaning.get("sequence", 1)
        return {
            s: known.get(s, total) if meanings[s] == "total" else size for s, size in found.items()
        }

    usual = (_SEQUENCE_LENGTH, 0, *_IMAGES[0])
    tried: list[dict[str, int]] = []
    for one in (
        *(sizes(_SEQUENCE_LENGTH, 0, *image) for image in _IMAGES),
        sizes(_SEQUENCE_LENGTH, 1, *_IMAGES[0]),
        sizes(1, 1, *_IMAGES[0]),
        sizes(1, 1, 1, 1),
        sizes(*usual, _SAMPLES),
    ):
        if one not in tried:
            tried.append(one)
            yield one


def _meanings(inputs: Sequence[ModelInput]) -> dict[str, str]:
    """What each symbol measures."""
    meanings: dict[str, str] = {}
    for value in inputs:
        for axis, dim in enumerate(value.shape):
            for symbol in symbols_in(dim):
                meanings[symbol] = meanings.get(symbol) or _meaning(symbol, value, axis)
    return meanings


def cached_sizes(
    inputs: Sequence[ModelInput], sizes: Mapping[str, int], *, is_first: bool
) -> dict[str, int]:
    """The sizes with a total that a decoder takes: all tokens of its past and of its sequence.

    Kernels of attention take several rows in the first inference only, which has no past. Sizes of
    other models are returned as they are.
    """
    by_meaning = {meaning: symbol for symbol, meaning in _meanings(inputs).items()}
    past, total = by_meaning.get("past"), by_meaning.get("total")
    if past is None or total is None or "sequence" not in by_meaning:
        return dict(sizes)
    found = {**sizes, past: 0} if is_first else {**sizes, by_meaning.get("batch", ""): 1}
    found.pop("", None)
    return {**found, total: found[past] + found[by_meaning["sequence"]]}


def context_sizes(
    inputs: Sequence[ModelInput], dims: Mapping[str, int], context: int, *, in_place: bool
) -> dict[str, int]:
    """Sizes of a decoder's symbols in the last chunk of a context; ``dims`` for other models.

    A cache that is written in place is as long as the context; others have what came before. The
    context is at least as long as a chunk.
    ``dims`` are sizes that the user gave: that of the past says how long the context is.
    """
    by_meaning = {meaning: symbol for symbol, meaning in _meanings(inputs).items()}
    if not {"past", "sequence"} <= by_meaning.keys():
        return dict(dims)
    chunk = dims.get(by_meaning["sequence"], _SEQUENCE_LENGTH)
    context = max(context, chunk)
    past = dims.get(by_meaning["past"], context if in_place else context - chunk)
    total = past if in_place else past + chunk
    sizes = {"past": past, "total": total, "sequence": chunk}
    return {by_meaning[m]: sizes[m] for m in sizes.keys() & by_meaning.keys()} | {**dims}


def likely_shapes(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs of a model that is not read yet, at given and at assumed sizes.

    Raises
    ------
    InputError
        A given size does not fit, or contradicts another.
    """
    try:
        inputs = inputs_of(graph)
    except ModelError:  # it is refused where it is read
        return dict(shapes)
    known = given_sizes(inputs, shapes, next(candidates(inputs, {})), dims=dims)
    with suppress(InputError):  # a difference may have no size at what is assumed
        return shapes_of(inputs, next(candidates(inputs, known)))
    return dict(shapes)
