"""Symbols in the shapes of a model: sums and products of them are evaluated and solved."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Final

from swapnet.errors import InputError
from swapnet.tensors import ModelInput

__all__ = [
    "as_sizes",
    "check_fixed",
    "is_nameless",
    "is_placeholder",
    "known_sizes",
    "largest_sizes",
    "model_symbols",
    "refusal_text",
    "size_of",
    "symbols_in",
]

_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: Fraction,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "ceiling": math.ceil,
    "max": max,
    "min": min,
}
_JOINED = re.compile(r"[A-Za-z_]-[A-Za-z_]")
"""A minus inside a name."""

_PLACEHOLDER = re.compile(r"(\?|-1|none|unk|unknown|)", re.IGNORECASE)
_NAMELESS = re.compile(
    r"(^|[._])(unk|unknown|none|dyn|dim|axis|axes|dynamicdimension)[._]*\d+$|\.\d+$|^s\d+$",
    re.IGNORECASE,
)

_SOURCE = re.compile(
    r"/?\S+\.(?:cc|h|cpp):\d+ (?:[^()]*\([^()]*\)(?: const)?)?\s*(?:.*? was false\.\s*(?=\S))?"
)
"""Where in a library's source a message comes from, and the check that failed there."""
_LONGEST_REASON = 240

_LARGEST: Final = 1 << 40
"""Beyond the size of any axis."""

_PAST, _TOTAL, _SEQUENCE = (re.compile(word, re.IGNORECASE) for word in ("past", "total", "seq"))


@cache
def _tree(dim: str) -> ast.expr:
    """The expression that a dimension is; a name where it is no expression."""
    name = ast.Name(dim)
    if _JOINED.search(dim):
        return name
    try:
        tree = ast.parse(dim.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return name
    return tree if _is_arithmetic(tree) and any(_names(tree)) else name


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
        return type(node.op) in _OPERATORS and all(map(_is_arithmetic, parts))
    if isinstance(node, ast.UnaryOp):
        return type(node.op) in _OPERATORS and _is_arithmetic(node.operand)
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id.lower() in _FUNCTIONS
        return known and not node.keywords and all(map(_is_arithmetic, node.args))
    return isinstance(node, ast.Name) or (
        isinstance(node, ast.Constant) and type(node.value) is int
    )


def _names(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Call):
        for part in node.args:
            yield from _names(part)
    elif isinstance(node, ast.Name):
        yield node.id
    else:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from _names(child)


def _value(node: ast.expr, sizes: Mapping[str, int]) -> Any:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand, sizes))
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _FUNCTIONS[node.func.id.lower()](*(_value(part, sizes) for part in node.args))
    if isinstance(node, ast.Constant):
        return node.value
    assert isinstance(node, ast.Name)
    return sizes[node.id]


def is_nameless(symbol: str) -> bool:
    """Whether a symbol is one that an exporter made up, such as ``unk__7`` or ``x.0``."""
    return _NAMELESS.search(symbol) is not None


def is_placeholder(symbol: str) -> bool:
    """Whether a symbol stands for any size, another one at each place: ``?`` or ``None``."""
    return _PLACEHOLDER.fullmatch(symbol.strip()) is not None


def symbols_in(dim: int | str) -> tuple[str, ...]:
    """Symbols of a dimension, each once: two of ``past + seq``, one of ``2*n``."""
    return () if isinstance(dim, int) else tuple(dict.fromkeys(_names(_tree(dim))))


def model_symbols(inputs: Iterable[ModelInput]) -> tuple[str, ...]:
    """All symbols of a model's inputs, in their order."""
    return tuple(dict.fromkeys(s for i in inputs for dim in i.shape for s in symbols_in(dim)))


def size_of(dim: int | str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension; None where a symbol is unknown, or where it is no size."""
    if isinstance(dim, int):
        return dim
    try:
        value = _value(_tree(dim), sizes)
    except (KeyError, ZeroDivisionError, TypeError):
        return None
    return int(value) if value == int(value) and value >= 0 else None


def _solved(dim: str, size: int, symbol: str, sizes: Mapping[str, int]) -> int | None:
    """The size of one symbol that gives a dimension its size: the smallest, or None."""
    tree = _tree(dim)
    if isinstance(tree, ast.Name):
        return size

    def at(guess: int) -> Any:
        return _value(tree, {**sizes, symbol: guess})

    try:
        rises = at(_LARGEST) >= at(0)
        low, high = 0, _LARGEST
        while low < high:
            middle = (low + high) // 2
            if (at(middle) >= size) if rises else (at(middle) <= size):
                high = middle
            else:
                low = middle + 1
        return low if at(low) == size else None
    except (ZeroDivisionError, TypeError):
        return None


def refusal_text(text: str) -> str:
    """The reason in a message of ONNX Runtime, without where in its source it comes from."""
    first = (text.strip() or "it gives no reason").splitlines()[0]
    reason = _SOURCE.sub("", first.rpartition("Status Message: ")[2]).strip()
    shown = reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"
    at = re.search(r"running (\w+) node\. Name:'([^']*)'", first)
    return f"{at[1]} {at[2]!r}: {shown}" if at else shown


def check_fixed(symbol: str, given: int, size: int) -> None:
    """Refuse another size of a symbol than the graph needs.

    Raises
    ------
    InputError
        The sizes differ.
    """
    if given != size:
        raise InputError(
            f"--dims gives {symbol}={given}",
            why=f"the weights and operators of the model need {size}, not {given}",
            hint=f"leave it out, or give {symbol}={size}",
        )


def as_sizes(sizes: Mapping[str, int]) -> str:
    """Sizes of symbols for people, and as ``--dims`` takes them: ``batch=1,past=511``."""
    return ",".join(f'"{name}"={n}' if "," in name else f"{name}={n}" for name, n in sizes.items())


@dataclass(frozen=True)
class _Given:
    """A size that was given for a dimension, and by what."""

    dim: str
    size: int
    by: str


def known_sizes(
    inputs: Sequence[ModelInput],
    shapes: Mapping[str, Sequence[int]],
    dims: Mapping[str, int],
    otherwise: Mapping[str, int],
    option: str = "--shapes",
) -> dict[str, int]:
    """Sizes of the symbols that follow from what was given.

    Parameters
    ----------
    inputs
        Inputs of the model.
    shapes
        Shapes by input; each fits what its input declares but for its symbols.
    dims
        Sizes by symbol, or by a dimension such as ``past + seq``.
    otherwise
        Sizes of symbols that are used where only a sum is given; 1 for those that are not there.
    option
        The option that gave the shapes, for messages.

    Raises
    ------
    InputError
        A symbol is unknown, has two sizes, or no size makes a dimension what was given.
    """
    symbols = model_symbols(inputs)
    declared = {dim for taken in inputs for dim in taken.shape if isinstance(dim, str)}
    given = [
        _Given(dim, size, f"{option} of {taken.name!r}")
        for taken in inputs
        for dim, size in zip(taken.shape, shapes.get(taken.name, ()), strict=False)
        if isinstance(dim, str)
    ]
    for name, size in dims.items():
        if name not in declared and name not in symbols:
            raise InputError(
                f"--dims names {name!r}",
                why=f"the symbols of the model are {', '.join(map(repr, symbols))}"
                if symbols
                else "the model has no symbols: all its shapes are fixed",
                hint="correct the name" if symbols else "leave it out",
            )
        given.append(_Given(name, size, "--dims"))
    known: dict[str, int] = {}
    origins: dict[str, str] = {}

    def simplest(one: _Given) -> tuple[int, int]:
        symbols = set(symbols_in(one.dim))
        return len(symbols - known.keys()), len(symbols)

    # A decoder's cache says each size sixty times.
    once: dict[tuple[str, int], _Given] = {}
    for one in given:
        once.setdefault((one.dim, one.size), one)
    while once:
        one = min(once.values(), key=simplest)
        del once[one.dim, one.size]
        unknown = [s for s in symbols_in(one.dim) if s not in known]
        if not unknown:
            _check(one, known, origins)
            continue
        found = _found(one, unknown, known, otherwise)
        known |= found
        origins |= dict.fromkeys(found, one.by)
    return known | _following(symbols, known, otherwise)


def _check(given: _Given, known: Mapping[str, int], origins: Mapping[str, str]) -> None:
    """Refuse a size that contradicts others."""
    size = size_of(given.dim, known)
    if size == given.size:
        return
    used = {symbol: known[symbol] for symbol in symbols_in(given.dim)}
    by = " and ".join(dict.fromkeys(origins[symbol] for symbol in used))
    raise InputError(
        f"{given.dim!r} has two sizes",
        why=f"it is {given.size} by {given.by}, and {size} by {by}"
        + ("" if given.dim in used else f", where {as_sizes(used)}"),
        hint="give each symbol one size",
    )


def _found(
    given: _Given, unknown: list[str], known: Mapping[str, int], otherwise: Mapping[str, int]
) -> dict[str, int]:
    """Sizes of the unknown symbols of a dimension; a past is solved before others."""
    for symbol in sorted(unknown, key=lambda s: not _PAST.search(s)):
        others = {s: otherwise.get(s, 1) for s in unknown if s != symbol}
        size = _solved(given.dim, given.size, symbol, {**known, **others})
        if size is not None:
            return {**others, symbol: size}
    used = {symbol: known[symbol] for symbol in symbols_in(given.dim) if symbol in known}
    raise InputError(
        f"{given.dim!r} can't be {given.size}, as {given.by} says",
        why=f"no size from 0 of {unknown[0]!r} makes it {given.size}"
        + (f" where {as_sizes(used)}" if used else ""),
        hint="correct one of them",
    )


def _lengths(symbols: Iterable[str]) -> tuple[str, str, str] | None:
    """The total length, the past and the sequence, where each is one symbol."""
    totals = [s for s in symbols if _TOTAL.search(s) and _SEQUENCE.search(s)]
    pasts = [s for s in symbols if _PAST.search(s) and s not in totals]
    sequences = [s for s in symbols if _SEQUENCE.search(s) and s not in (*totals, *pasts)]
    alone = len(totals) == len(pasts) == len(sequences) == 1
    return (totals[0], pasts[0], sequences[0]) if alone else None


def _following(
    symbols: Sequence[str], known: Mapping[str, int], otherwise: Mapping[str, int]
) -> dict[str, int]:
    """A total length is a past and a sequence, where it is a symbol of its own."""
    lengths = _lengths(symbols)
    if lengths is None or not set(lengths) & known.keys():
        return {}
    total, past, sequence = lengths
    if total not in known:
        return {total: sum(known.get(s, otherwise.get(s, 1)) for s in (past, sequence))}
    if past in known:
        rest = known[total] - known[past]
        return {} if sequence in known or rest < 0 else {sequence: rest}
    length = min(known.get(sequence, otherwise.get(sequence, 1)), known[total])
    return {sequence: length, past: known[total] - length}


def largest_sizes(
    inputs: Sequence[ModelInput], shapes: Iterable[Mapping[str, Sequence[int]]]
) -> dict[str, int]:
    """The smallest sizes of symbols that hold all of several shapes of all inputs.

    A total length is the largest past and the largest sequence.

    Raises
    ------
    InputError
        Shapes that belong together contradict each other.
    """
    largest: dict[str, int] = {}
    for together in shapes:
        for symbol, size in known_sizes(inputs, together, {}, {}, "the shape").items():
            largest[symbol] = max(size, largest.get(symbol, 0))
    if lengths := _lengths(largest):
        del largest[lengths[0]]
    return known_sizes(inputs, {}, largest, {})
