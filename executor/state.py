"""The cache of a decoder: outputs that are inputs of the next inference, kept by the executor.

A language model computes keys and values of each token once. Exporters give them as outputs
``present.N.key`` and take them as inputs ``past_key_values.N.key``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import msgspec
import numpy as np

from swapnet.budget import Budget
from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.planning.usage import demand
from swapnet.executor.swapping.arena import Arena
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest, Tensor
from swapnet.shapes import names_of
from swapnet.symbols import symbols_in
from swapnet.tensors import Array, numpy_dtype
from swapnet.units import align_up, format_size, rounded_up

__all__ = ["CHUNK", "CONTEXT", "Cache", "Pair", "State", "find_cache", "says_context"]

CONTEXT = 512
"""Tokens of a cache where nobody says how many."""

CHUNK = 128
"""Tokens of an inference, at most: a constant, so that outputs do not depend on the budget."""

IDS, MASK = "input_ids", "attention_mask"

_KNOWN = (
    "present.*=past_key_values.*",  # optimum, onnxruntime-genai
    "present_key_values.*=past_key_values.*",
    "present.*=past.*",
    "present_*=past_*",
)
"""Names that exporters give to outputs and inputs of a cache."""


@dataclass(frozen=True)
class Pair:
    """An output that is an input of the next inference.

    Attributes
    ----------
    present, past
        The output, and the input.
    dtype, shape
        Its type, and its shape when the context is full.
    axis
        Axis of the tokens.
    in_place
        The kernel reads and writes one buffer of the whole context.
    """

    present: str
    past: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    in_place: bool

    @property
    def place_bytes(self) -> int:
        """Size of one place, in bytes."""
        return align_up(prod(self.shape) * numpy_dtype(self.dtype).itemsize, TENSOR_ALIGNMENT)

    @property
    def nbytes(self) -> int:
        """Size of its places: two where the present is written beside the past."""
        return self.place_bytes if self.in_place else 2 * self.place_bytes

    def shape_of(self, tokens: int) -> tuple[int, ...]:
        """Its shape with so many tokens in the cache; always the same in place."""
        if self.in_place:
            return self.shape
        return (*self.shape[: self.axis], tokens, *self.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Cache:
    """The cache of a model at a context.

    Attributes
    ----------
    context
        Most tokens in it.
    pairs
        Its tensors.
    """

    context: int
    pairs: tuple[Pair, ...]

    @property
    def nbytes(self) -> int:
        """Its memory, in bytes: part of the budget."""
        return sum(pair.nbytes for pair in self.pairs)

    @property
    def chunk(self) -> int:
        """Most tokens of one inference."""
        return min(CHUNK, self.context)

    def __str__(self) -> str:
        return f"cache of {self.context} tokens: {format_size(self.nbytes)}"

    def shapes(self, manifest: Manifest) -> dict[str, tuple[int, ...]]:
        """Shapes of all inputs that hold each inference inside the context."""
        names = {tensor.name for tensor in manifest.inputs}
        shapes: dict[str, tuple[int, ...]] = {IDS: (1, self.chunk), MASK: (1, self.context)}
        shapes |= {pair.past: pair.shape_of(self.context - self.chunk) for pair in self.pairs}
        return {name: shape for name, shape in shapes.items() if name in names}

    def counted(self, manifest: Manifest) -> Manifest:
        """The manifest with the memory of the cache in place of that of its inputs and outputs."""
        nbytes = {pair.past: pair.nbytes for pair in self.pairs}
        nbytes |= {pair.present: 0 for pair in self.pairs}

        def sized(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(
                msgspec.structs.replace(t, nbytes=nbytes.get(t.name, t.nbytes)) for t in tensors
            )

        return msgspec.structs.replace(
            manifest, inputs=sized(manifest.inputs), outputs=sized(manifest.outputs)
        )

    def asked(self, manifest: Manifest) -> Manifest:
        """The manifest with the inputs and outputs that are left to the caller."""
        kept = {name for pair in self.pairs for name in (pair.past, pair.present)}
        return msgspec.structs.replace(
            manifest,
            inputs=tuple(t for t in manifest.inputs if t.name not in kept),
            outputs=tuple(t for t in manifest.outputs if t.name not in kept),
        )


def find_cache(manifest: Manifest, context: int = CONTEXT, state: str = "") -> Cache:
    """The cache of an engine.

    Parameters
    ----------
    manifest
        Manifest of the engine.
    context
        Most tokens in the cache.
    state
        Names of its outputs and inputs, as ``present.*=past.*``; empty for those that exporters
        use.

    Raises
    ------
    InputError
        The context is no positive number, ``state`` is no such pair, or the model has no cache.
    BackendError
        The engine runs on a GPU.
    """
    if context < 1:
        raise InputError(
            f"a context of {context} tokens is invalid",
            why="it must be at least 1",
            hint=f"give the most tokens of prompt and answer together, like {CONTEXT}",
        )
    if manifest.runs_on_gpu:
        raise BackendError(
            f"{manifest.source.name}: the executor keeps no cache on a GPU",
            why=f"the engine was built for {manifest.compiled.backend}",
            hint="build it for the CPU: swapnet build … --backend onnxruntime",
        )
    matched = dict(_matched(manifest, state))
    if not matched or not any(tensor.name == IDS for tensor in manifest.inputs):
        raise InputError(
            f"{manifest.source.name} has no cache",
            why=f"no outputs match its inputs by {state or 'the names that exporters use'}, or it "
            f"has no input {IDS!r}: it takes {names_of(_by_name(manifest.inputs))}, and gives "
            f"{names_of(_by_name(manifest.outputs))}",
            hint="give the names with a star for what both share: --state 'present.*=past.*'",
        )
    pairs = [_pair(manifest, *names, context) for names in matched.items()]
    return Cache(context, tuple(pairs))


def _by_name(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


def _matched(manifest: Manifest, state: str) -> Iterator[tuple[str, str]]:
    """Outputs and the inputs that they are in the next inference."""
    inputs = _by_name(manifest.inputs)
    patterns = [_parsed(pattern) for pattern in ([state] if state else _KNOWN)]
    for output in manifest.outputs:
        for present, past in patterns:
            if found := present.fullmatch(output.name):
                taken = inputs.get(past.replace("*", found[1]))
                if taken and (taken.dtype, len(taken.shape)) == (output.dtype, len(output.shape)):
                    yield output.name, taken.name
                    break


def _parsed(state: str) -> tuple[re.Pattern[str], str]:
    present, _, past = (part.strip() for part in state.partition("="))
    if present.count("*") != 1 or past.count("*") != 1:
        raise InputError(
            f"the state {state!r} is invalid",
            why="it names outputs and inputs, each with one star for what both share",
            hint="give it like 'present.*=past.*'",
        )
    before, after = map(re.escape, present.split("*"))
    return re.compile(f"{before}(.+){after}"), past


def _pair(manifest: Manifest, present: str, past: str, context: int) -> Pair:
    taken = manifest.tensors[past]
    axes = [axis for axis, dim in enumerate(taken.shape) if isinstance(dim, str)]
    if not axes:
        raise InputError(
            f"{manifest.source.name}: the cache can't grow",
            why=f"input {past!r} has the fixed shape {taken.shape}",
            hint="export the model with a symbol for the length of the past",
        )
    axis = axes[-1]
    shape = [dim if isinstance(dim, int) else 1 for dim in taken.shape]
    shape[axis] = context
    return Pair(present, past, taken.dtype, tuple(shape), axis, _in_place(manifest, taken, present))


def _in_place(manifest: Manifest, past: Tensor, present: str) -> bool:
    """Whether the kernel takes one buffer as past and present, with the true length in the mask.

    GroupQueryAttention does, as onnxruntime-genai uses it. The length of the buffer must be no part
    of another input's shape.
    """
    kernels = {
        name
        for block in manifest.blocks
        if past.name in block.inputs and present in block.outputs
        for name in block.operators
    }
    own = {symbol for dim in past.shape for symbol in symbols_in(dim)}
    others = (t for t in manifest.inputs if IDS in t.name or MASK in t.name)
    shared = {symbol for t in others for dim in t.shape[1:] for symbol in symbols_in(dim)}
    return "GroupQueryAttention" in kernels and not own & shared


class State:
    """What an executor keeps between inferences: the cache of the tokens so far.

    Nothing is copied: kernels read and write its memory, whose pages are taken when they are first
    used. Made by `SwapExecutor`, which counts it in the budget.

    Attributes
    ----------
    context
        Most tokens in it.
    nbytes
        Its memory when it is full.
    """

    def __init__(self, cache: Cache, turn: threading.Lock) -> None:
        self.context = cache.context
        self.nbytes = cache.nbytes
        self._pairs = cache.pairs
        self._turn = turn
        self._memory = Arena(cache.nbytes)
        self._length = self._next = self._place = 0

    @property
    def length(self) -> int:
        """Tokens in it."""
        return self._length

    def reset(self) -> None:
        """Forget all tokens, between inferences; the memory stays."""
        with self._turn:
            self._length = 0

    def begin(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Arrays for the past inputs and present outputs of an inference.

        Raises
        ------
        InputError
            The tokens do not fit into the context, or the mask has another length.
        """
        count = inputs[IDS].shape[1]
        self._next = self._length + count
        if self._next > self.context:
            raise InputError(
                f"{count} tokens do not fit",
                why=f"{self._length} are in the cache, and its context is {self.context}",
                hint="open it with a larger context=, or call state().reset()",
            )
        mask = inputs.get(MASK)
        if mask is not None and mask.shape[1] != self._next:
            raise InputError(
                f"input {MASK!r} has another length than all tokens",
                why=f"it has {mask.shape[1]}; {self._length} are in the cache, and {count} given",
                hint=f"give {self._next} ones",
            )
        past: dict[str, Array] = {}
        present: dict[str, Array] = {}
        offset = 0
        for pair in self._pairs:
            places = (offset, offset if pair.in_place else offset + pair.place_bytes)
            past[pair.past] = self._array(pair, places[self._place], self._length)
            present[pair.present] = self._array(pair, places[1 - self._place], self._next)
            offset += pair.nbytes
        return past, present

    def keep(self) -> None:
        """Take what an inference wrote: it has not failed."""
        self._length = self._next
        self._place = 1 - self._place

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._memory = Arena(0)

    def _array(self, pair: Pair, offset: int, tokens: int) -> Array:
        shape = pair.shape_of(tokens)
        dtype = numpy_dtype(pair.dtype)
        view = self._memory.view(offset, prod(shape) * dtype.itemsize)
        return np.ndarray(shape, dtype, view)


@contextmanager
def says_context(cache: Cache | None, budget: Budget, manifest: Manifest) -> Iterator[None]:
    """Say which context fits where a budget is too small for a model with its cache.

    Raises
    ------
    BudgetError
        The block raises one.
    """
    try:
        yield
    except BudgetError as error:
        if cache is None or error.smallest_bytes is None or budget.of == "auto":
            raise
        excess = error.smallest_bytes - budget.resolve(demand(manifest))
        fitting = cache.context - -(-excess * cache.context // cache.nbytes)
        needed = rounded_up(error.smallest_bytes)
        raise BudgetError(
            error.what,
            why=f"{error.why}; {cache}",
            hint=f"give {needed} or more"
            + (f", or a context of {fitting}" if fitting > 0 else "; no context fits"),
            smallest_bytes=error.smallest_bytes,
        ) from error
