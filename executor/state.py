"""The cache of a decoder: outputs that are inputs of the next inference, kept by the executor.

A language model computes keys and values of each token once. Exporters give them as outputs
``present.N.key`` and take them as inputs ``past_key_values.N.key``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from swapnet.arrays import load_npz, save_npz
from swapnet.budget import Budget
from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.planning.usage import demand
from swapnet.executor.swapping.arena import Arena
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest, Tensor
from swapnet.shapes import names_of
from swapnet.symbols import symbols_in
from swapnet.tensors import Array, numpy_dtype
from swapnet.token_rows import IDS, ROWS
from swapnet.units import align_up, format_size, told_apart

__all__ = ["CONTEXT", "MASK", "Cache", "Pair", "State", "find_cache", "known_pairs", "says_context"]

CONTEXT = 512
"""Tokens of a cache where nobody says how many."""

MASK = "attention_mask"

_FACTS = "engine, tokens, pending"
"""Array of a saved state that holds these as JSON; the others have the names of inputs."""

_CHUNK = 128
"""Most tokens of an inference: a constant, so that outputs do not depend on the budget."""

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
        The kernel reads and writes one buffer of the whole context; else there are two places.
    """

    present: str
    past: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    in_place: bool

    @property
    def place_bytes(self) -> int:
        """Size of one place."""
        return align_up(prod(self.shape) * numpy_dtype(self.dtype).itemsize, TENSOR_ALIGNMENT)

    @property
    def nbytes(self) -> int:
        """Size of its places."""
        return self.place_bytes if self.in_place else 2 * self.place_bytes

    def shape_of(self, tokens: int) -> tuple[int, ...]:
        """Its shape with so many tokens in the cache; always the same in place."""
        length = self.shape[self.axis] if self.in_place else tokens
        return (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Cache:
    """The cache of a model.

    Attributes
    ----------
    context
        Most tokens in it.
    pairs
        Its tensors.
    rows
        Most tokens of an inference whose logits are wanted; 0 for all.
    most
        Most tokens of an inference that it is planned for.
    """

    context: int
    pairs: tuple[Pair, ...]
    rows: int = 0
    most: int = _CHUNK

    @property
    def nbytes(self) -> int:
        """Its memory, in bytes: part of the budget."""
        return sum(pair.nbytes for pair in self.pairs)

    @property
    def chunk(self) -> int:
        """Most tokens of one inference."""
        return min(self.most, self.context)

    def __str__(self) -> str:
        return f"cache of {self.context} tokens: {format_size(self.nbytes)}"

    def shapes(self, manifest: Manifest) -> dict[str, tuple[int, ...]]:
        """Shapes of inputs that hold each inference inside the context."""
        names = {tensor.name for tensor in manifest.inputs}
        shapes: dict[str, tuple[int, ...]] = {IDS: (1, self.chunk), MASK: (1, self.context)}
        shapes[ROWS] = (min(self.rows, self.chunk) or self.chunk,)
        shapes |= {pair.past: pair.shape_of(self.context - self.chunk) for pair in self.pairs}
        return {name: shape for name, shape in shapes.items() if name in names}

    def counted(self, manifest: Manifest) -> Manifest:
        """The manifest with the memory of the cache in place of that of its inputs and outputs."""
        nbytes = {pair.past: pair.nbytes for pair in self.pairs}
        return manifest.sized(nbytes | {pair.present: 0 for pair in self.pairs})

    def asked(self, manifest: Manifest) -> Manifest:
        """The manifest with the inputs and outputs that are left to the caller."""
        kept = {name for pair in self.pairs for name in (pair.past, pair.present)}
        return msgspec.structs.replace(
            manifest,
            inputs=tuple(t for t in manifest.inputs if t.name not in kept),
            outputs=tuple(t for t in manifest.outputs if t.name not in kept),
        )


def find_cache(manifest: Manifest, context: int = CONTEXT, state: str = "", rows: int = 0) -> Cache:
    """The cache of an engine; see `ensure_context`.

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
    name = manifest.source.name
    if manifest.runs_on_gpu:
        raise BackendError(
            f"{name}: the executor keeps no cache on a GPU",
            why=f"the engine was built for {manifest.compiled.backend}",
            hint="build it for the CPU: swapnet build … --backend onnxruntime",
        )
    inputs = {tensor.name: tensor for tensor in manifest.inputs}
    pairs = tuple(_pairs(manifest, context, state))
    if not pairs or IDS not in inputs:
        outputs = [tensor.name for tensor in manifest.outputs]
        raise InputError(
            f"{name} has no cache",
            why=f"it has no input {IDS!r}, or none with a symbol for the length of the past and a "
            f"name like that of an output: it takes {names_of(inputs)}, and gives "
            f"{names_of(outputs)}",
            hint="give the names with a star for what both share: --state 'present.*=past.*'",
        )
    return Cache(context, pairs, rows)


def known_pairs(
    outputs: Iterable[str], inputs: Collection[str], state: str = ""
) -> Iterator[tuple[str, str]]:
    """Outputs and inputs whose names say that they are present and past; see `ensure_context`."""
    patterns = [_parsed(pattern) for pattern in ([state] if state else _KNOWN)]
    for output in outputs:
        matches = ((present.fullmatch(output), past) for present, past in patterns)
        pasts = (past.replace("*", found[1]) for found, past in matches if found)
        if past := next((name for name in pasts if name in inputs), None):
            yield output, past


def _pairs(manifest: Manifest, context: int, state: str) -> Iterator[Pair]:
    tensors = {tensor.name: tensor for tensor in (*manifest.inputs, *manifest.outputs)}
    inputs, outputs = ([t.name for t in each] for each in (manifest.inputs, manifest.outputs))
    for present, past in known_pairs(outputs, inputs, state):
        taken = tensors[past]
        axes = [axis for axis, dim in enumerate(taken.shape) if isinstance(dim, str)]
        if axes and len(taken.shape) == len(tensors[present].shape):
            shape = [dim if isinstance(dim, int) else 1 for dim in taken.shape]
            shape[axes[-1]] = context
            in_place = _in_place(manifest, taken, present)
            yield Pair(present, past, taken.dtype, tuple(shape), axes[-1], in_place)


def _parsed(state: str) -> tuple[re.Pattern[str], str]:
    present, _, past = (part.strip() for part in state.partition("="))
    if present.count("*") != 1 or past.count("*") != 1:
        raise InputError(
            f"the state {state!r} is invalid",
            why="it names outputs and inputs, each with one star for what both share",
            hint="give it like 'present.*=past.*'",
        )
    return re.compile("(.+)".join(map(re.escape, present.split("*")))), past


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
    others = (t for t in manifest.inputs if t.name in (IDS, MASK))
    shared = {symbol for t in others for dim in t.shape[1:] for symbol in symbols_in(dim)}
    return "GroupQueryAttention" in kernels and not own & shared


class State:
    """The cache of the tokens so far, which a `SwapExecutor` keeps between inferences.

    Nothing is copied: kernels read and write its memory, whose pages are taken when they are first
    used.

    Attributes
    ----------
    context, nbytes
        Most tokens in it, and its memory when it is full.
    length
        Tokens in it.
    pending
        Tokens after them that were generated, and not computed.
    """

    def __init__(self, cache: Cache, turn: threading.Lock, engine: str = "") -> None:
        self.context = cache.context
        self.nbytes = cache.nbytes
        self.length = 0
        self.pending: list[int] = []
        self._engine = engine
        self._pairs = cache.pairs
        self._turn = turn
        self._memory = Arena(cache.nbytes)
        self._next = self._place = 0
        self._held = False

    def reset(self) -> None:
        """Forget all tokens, between inferences; the memory stays."""
        with self._turn:
            self.length = 0
            self.pending = []

    def save(self, path: str | Path) -> None:
        """Write its tokens into an ``.npz``, between inferences; raises as `save_npz`."""
        with self._turn:
            facts = msgspec.json.encode((self._engine, self.length, self.pending)).decode()
            save_npz(Path(path), {_FACTS: np.array(facts), **self._used(self.length)})

    def load(self, path: str | Path) -> None:
        """Take tokens that `save` wrote in place of its own, between inferences.

        They lie in memory twice for a moment, beside the budget.

        Raises
        ------
        InputError
            The file is missing or damaged, is of another engine, or has more tokens than the
            context. Its own tokens stay.
        """
        try:
            arrays = load_npz(Path(path))
            facts = str(arrays[_FACTS])
            engine, length, pending = msgspec.json.decode(facts, type=tuple[str, int, list[int]])
            if engine != self._engine:
                raise ValueError("it is of another engine")
            if not 0 <= length <= self.context:
                raise ValueError(f"it has {length} tokens, and the context is {self.context}")
            with self._turn:
                used = self._used(length)
                if any(_kind(arrays[name]) != _kind(place) for name, place in used.items()):
                    raise ValueError("its arrays are not those of so many tokens")
                for name, place in used.items():
                    place[...] = arrays[name]
                self.length, self.pending = length, pending
        except (InputError, KeyError, msgspec.MsgspecError, ValueError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"{path} is no saved state of this engine",
                why=getattr(error, "why", why),
                hint="give a file that executor.state().save(…) wrote, or begin anew",
            ) from error

    def hold(self, tokens: int) -> None:
        """Make each inference the last that fits, of so many tokens: to measure with."""
        self._memory.fill(0, self.nbytes, 0)
        self.length = self.context - tokens
        self._held = True

    def begin(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Arrays for the past inputs and present outputs of an inference.

        Raises
        ------
        InputError
            The tokens do not fit into the context, or the mask has another length.
        """
        count = inputs[IDS].shape[1]
        self._next = self.length + count
        if self._next > self.context:
            raise InputError(
                f"{count} tokens do not fit",
                why=f"{self.length} are in the cache, and its context is {self.context}",
                hint="open it with a larger context=, or call state().reset()",
            )
        mask = inputs.get(MASK)
        if mask is not None and mask.shape[1] != self._next:
            raise InputError(
                f"input {MASK!r} has another length than all tokens",
                why=f"it has {mask.shape[1]}; {self.length} are in the cache, and {count} given",
                hint=f"give {self._next} ones",
            )
        past = {p.past: array for p, array in self._arrays(self._place, self.length)}
        present = {p.present: array for p, array in self._arrays(1 - self._place, self._next)}
        return past, present

    def keep(self) -> None:
        """Take what an inference wrote: it has not failed."""
        if not self._held:
            self.length = self._next
            self._place = 1 - self._place

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._memory = Arena(0)

    def _arrays(self, place: int, tokens: int) -> Iterator[tuple[Pair, Array]]:
        """Its tensors with so many tokens, in the first or second place of each."""
        offset = 0
        for pair in self._pairs:
            shape, dtype = pair.shape_of(tokens), numpy_dtype(pair.dtype)
            start = offset if pair.in_place else offset + place * pair.place_bytes
            view = self._memory.view(start, prod(shape) * dtype.itemsize)
            yield pair, np.ndarray(shape, dtype, view)
            offset += pair.nbytes

    def _used(self, tokens: int) -> dict[str, Array]:
        """The parts of its tensors that hold so many tokens."""
        whole = self._arrays(self._place, tokens)
        return {p.past: array[(slice(None),) * p.axis + (slice(tokens),)] for p, array in whole}


def _kind(array: Array) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    return array.shape, array.dtype


@contextmanager
def says_context(cache: Cache | None, budget: Budget, manifest: Manifest) -> Iterator[None]:
    """Say which context fits where a budget is too small for a model with its cache."""
    try:
        yield
    except BudgetError as error:
        if cache is None or error.smallest_bytes is None or budget.of == "auto":
            raise
        budget_bytes = budget.resolve(demand(manifest))
        excess = error.smallest_bytes - budget_bytes
        fitting = cache.context - -(-excess * cache.context // cache.nbytes)
        # Memory of another context is measured when it is asked for.
        other = f", or a context of about {fitting}" if fitting > 0 else "; no context fits"
        raise BudgetError(
            error.what,
            why=f"{error.why}; {cache}",
            hint=f"give {told_apart(budget_bytes, error.smallest_bytes)[1]} or more{other}",
            smallest_bytes=error.smallest_bytes,
        ) from error
