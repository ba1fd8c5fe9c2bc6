"""The cache of a decoder: outputs that are inputs of the next inference, kept by the executor.

A language model computes keys and values of each token once. Exporters give them as outputs
``present.N.key`` and take them as inputs ``past_key_values.N.key``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import msgspec

from swapnet.budget import Budget
from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.planning.usage import demand
from swapnet.input_checks import whole_number
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest, Tensor, sizes_at
from swapnet.shapes import names_of, shapes_of
from swapnet.symbols import symbols_in
from swapnet.tensors import numpy_dtype
from swapnet.token_rows import IDS, ROWS
from swapnet.units import align_up, format_size, told_apart

__all__ = ["CONTEXT", "MASK", "Cache", "Pair", "find_cache", "known_pairs", "says_context"]

CONTEXT = 512
"""Tokens of a cache where nobody says how many."""

MASK = "attention_mask"

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
        Most tokens of a conversation.
    pairs
        Its tensors; rows of their first axis are conversations, where there are several.
    rows
        Most tokens of an inference whose logits are wanted; 0 for all.
    conversations
        Number of conversations that have a cache each.
    mask_length
        Length of the mask in each inference, with zeros behind the tokens; 0 for their number.
    """

    context: int
    pairs: tuple[Pair, ...]
    rows: int = 0
    conversations: int = 1
    mask_length: int = 0

    @property
    def nbytes(self) -> int:
        """Memory of all conversations, in bytes: part of the budget."""
        return sum(pair.nbytes for pair in self.pairs)

    @property
    def chunk(self) -> int:
        """Most tokens of one inference."""
        return min(_CHUNK, self.context)

    def __str__(self) -> str:
        several = "cache" if self.conversations == 1 else f"{self.conversations} caches"
        return f"{several} of {self.context} tokens: {format_size(self.nbytes)}"

    def shapes(
        self, manifest: Manifest, conversations: int = 0, tokens: int = 0
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of inputs that hold each inference inside the context, or those of the last."""
        first, tokens = (conversations or self.conversations,), tokens or self.chunk
        shapes: dict[str, tuple[int, ...]] = {IDS: (*first, tokens), MASK: (*first, self.context)}
        shapes[ROWS] = (min(self.rows, tokens) or tokens,)
        for pair in self.pairs:
            shape = pair.shape_of(self.context - tokens)
            shapes[pair.past] = (*first, *shape[1:]) if self.conversations > 1 else shape
        names = {tensor.name for tensor in manifest.inputs}
        return {name: shape for name, shape in shapes.items() if name in names}

    def at(self, manifest: Manifest, conversations: int, tokens: int) -> Manifest:
        """The manifest at the last inference of so many tokens that fits into the context."""
        sizes = sizes_at(manifest, self.shapes(manifest, conversations, tokens))
        planned = shapes_of(manifest.inputs, sizes)
        return msgspec.structs.replace(manifest, planned_shapes=planned)

    def largest(self, manifest: Manifest) -> tuple[Manifest, ...]:
        """The manifest at a chunk of one conversation, and at a token of each of several."""
        several = [(self.conversations, 1)] if self.conversations > 1 else []
        return tuple(self.at(manifest, *sizes) for sizes in ((1, self.chunk), *several))

    def counted(self, manifest: Manifest) -> Manifest:
        """The manifest with the memory of the cache in place of that of its inputs and outputs."""
        counted = manifest.sized({n: 0 for p in self.pairs for n in (p.past, p.present)})
        return msgspec.structs.replace(counted, cache_bytes=self.nbytes)

    def asked(self, manifest: Manifest) -> Manifest:
        """The manifest with the inputs and outputs that are left to the caller."""
        kept = {name for pair in self.pairs for name in (pair.past, pair.present)}
        return msgspec.structs.replace(
            manifest,
            inputs=tuple(t for t in manifest.inputs if t.name not in kept),
            outputs=tuple(t for t in manifest.outputs if t.name not in kept),
        )


def find_cache(
    manifest: Manifest,
    context: int = CONTEXT,
    state: str = "",
    rows: int = 0,
    conversations: int = 1,
) -> Cache:
    """The cache of an engine; see `ensure_context`.

    Raises
    ------
    InputError
        A number is no whole one or too small, ``state`` is no such pair, the model has no cache, or
        only one of one conversation.
    BackendError
        The engine runs on a GPU, which keeps the cache of one conversation.
    """
    context = whole_number("context", context)
    conversations = whole_number("conversations", conversations)
    rows = whole_number("rows", rows, least=0)
    name = manifest.source.name
    if manifest.runs_on_gpu and conversations > 1:
        raise BackendError(
            f"{name} takes one conversation at a time",
            why=f"the engine was built for {manifest.compiled.backend}, which runs on a GPU",
            hint="leave conversations out, or build it for the CPU: --backend onnxruntime",
        )
    inputs = {tensor.name: tensor for tensor in manifest.inputs}
    pairs = tuple(_pairs(manifest, context, state, conversations))
    if not pairs or IDS not in inputs:
        outputs = [tensor.name for tensor in manifest.outputs]
        raise InputError(
            f"{name} has no cache",
            why=f"it has no input {IDS!r}, or none with a symbol for the length of the past and a "
            f"name like that of an output: it takes {names_of(inputs)}, and gives "
            f"{names_of(outputs)}",
            hint="give the names with a star for what both share: --state 'present.*=past.*'",
        )
    if conversations > 1 and not _joins(manifest, pairs):
        raise InputError(
            f"{name} takes one conversation at a time",
            why="rows of different lengths need GroupQueryAttention, an input "
            f"{MASK!r}, and inputs whose first axis is that of {IDS!r}",
            hint="leave conversations out; or import the model as onnxruntime-genai writes it",
        )
    mask_length = 0
    if manifest.is_tensorrt and MASK in inputs and all(pair.in_place for pair in pairs):
        # TensorRT-RTX compiles kernels for each new shape: all but that of the tokens stays.
        mask_length = manifest.planned_shapes[MASK][-1]
    return Cache(context, pairs, rows, conversations, mask_length)


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


def _pairs(manifest: Manifest, context: int, state: str, conversations: int) -> Iterator[Pair]:
    tensors = {tensor.name: tensor for tensor in (*manifest.inputs, *manifest.outputs)}
    inputs, outputs = ([t.name for t in each] for each in (manifest.inputs, manifest.outputs))
    for present, past in known_pairs(outputs, inputs, state):
        taken = tensors[past]
        axes = [axis for axis, dim in enumerate(taken.shape) if isinstance(dim, str)]
        if axes and len(taken.shape) == len(tensors[present].shape):
            shape = [dim if isinstance(dim, int) else 1 for dim in taken.shape]
            shape[0] = conversations if conversations > 1 else shape[0]
            in_place = _in_place(manifest, taken, present)
            # TensorRT writes in place where the length is fixed.
            is_fixed = in_place and manifest.is_tensorrt
            shape[axes[-1]] = manifest.planned_shapes[past][axes[-1]] if is_fixed else context
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


def _joins(manifest: Manifest, pairs: Iterable[Pair]) -> bool:
    """Whether rows of an inference may be conversations of different lengths."""
    inputs = {tensor.name: tensor for tensor in manifest.inputs if tensor.name != ROWS}
    firsts = {tensor.shape[:1] for tensor in inputs.values()}
    return (
        all(pair.in_place and pair.axis for pair in pairs)
        and MASK in inputs
        and len(firsts) == 1
        and isinstance(inputs[IDS].shape[0], str)
    )


@contextmanager
def says_context(cache: Cache | None, budget: Budget, manifest: Manifest) -> Iterator[None]:
    """Say what fits where a budget is too small for a model with its cache."""
    try:
        yield
    except BudgetError as error:
        if cache is None or error.smallest_bytes is None or budget.of == "auto":
            raise
        budget_bytes = budget.resolve(demand(manifest))
        share = 1 - (error.smallest_bytes - budget_bytes) / cache.nbytes
        fitting, fewer = int(cache.context * share), int(cache.conversations * share)
        # Memory of another context is measured when it is asked for.
        other = f", or a context of about {fitting}" if fitting > 0 else "; no context fits"
        other += (
            f", or about {fewer} of the {cache.conversations} conversations" if fewer > 0 else ""
        )
        raise BudgetError(
            error.what,
            why=f"{error.why}; {cache}",
            hint=f"give {told_apart(budget_bytes, error.smallest_bytes)[1]} or more{other}",
            smallest_bytes=error.smallest_bytes,
        ) from error
