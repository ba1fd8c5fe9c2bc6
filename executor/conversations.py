"""Memory of a decoder's cache: one conversation, or several whose tokens one inference computes.

Each tensor of the cache has a row for each conversation, so that the rows of conversations that
are neighbours are one array. Kernels read and write it where it lies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from swapnet.arrays import load_npz, save_npz
from swapnet.errors import BackendError, InputError
from swapnet.executor.gpu.memory import DeviceArray, GpuArena
from swapnet.executor.state import MASK, Cache, Pair
from swapnet.executor.swapping.arena import Arena
from swapnet.input_checks import whole_number
from swapnet.tensors import Array, numpy_dtype
from swapnet.token_rows import IDS

__all__ = ["Conversations", "State"]

Arrays = dict[str, Any]
"""Arrays by name; those of the cache are of the device where it lies there."""

_FACTS = "engine, tokens, pending"
"""Array of a saved state that holds these as JSON; the others have the names of inputs."""


class State:
    """The cache of one conversation's tokens so far, which a `SwapExecutor` keeps.

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

    def __init__(self, conversations: Conversations, number: int, cache: Cache) -> None:
        self.context = cache.context
        self.nbytes = cache.nbytes // cache.conversations
        self.length = 0
        self.pending: list[int] = []
        self.place = 0
        self._all = conversations
        self._rows = range(number, number + 1)

    def hold(self) -> None:
        """Make each inference the last that fits, of all conversations: to measure with."""
        self._all.memory.fill(0, self._all.cache.nbytes, 0)
        self._all.is_held = True

    def reset(self) -> None:
        """Forget all tokens, between inferences; the memory stays."""
        with self._all.turn:
            self.length = 0
            self.pending = []

    def save(self, path: str | Path) -> None:
        """Write its tokens into an ``.npz``, between inferences.

        Raises as `save_npz`, and a BackendError where its executor is closed.
        """
        with self._all.turn, self._used(self.length) as used:
            facts = msgspec.json.encode((self._all.engine, self.length, self.pending)).decode()
            save_npz(Path(path), {_FACTS: np.array(facts), **used})

    def load(self, path: str | Path) -> None:
        """Take tokens that `save` wrote in place of its own, between inferences.

        They lie in memory twice for a moment, beside the budget.

        Raises
        ------
        InputError
            The file is missing or damaged, is of another engine, or has more tokens than the
            context. Its own tokens stay.
        BackendError
            Its executor is closed.
        """
        try:
            arrays = load_npz(Path(path))
            facts = str(arrays[_FACTS])
            engine, length, pending = msgspec.json.decode(facts, type=tuple[str, int, list[int]])
            if engine != self._all.engine:
                raise ValueError("it is of another engine")
            if not 0 <= length <= self.context:
                raise ValueError(f"it has {length} tokens, and the context is {self.context}")
            with self._all.turn, self._used(length) as used:
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

    @contextmanager
    def _used(self, tokens: int) -> Iterator[dict[str, Array]]:
        """The parts of its tensors that hold so many tokens, in host memory."""
        with self._all.on_host(self._rows, tokens, self.place) as whole:
            yield {p.past: a[(slice(None),) * p.axis + (slice(tokens),)] for p, a in whole}


class Conversations:
    """The caches of all conversations of a `SwapExecutor`.

    ``turn`` is held while it infers; ``engine`` is its engine's identity, for saved states;
    ``memory`` is where kernels read and write, on a GPU its own. It holds numbers: kernels multiply
    by 0 what is not used yet.
    """

    def __init__(
        self,
        cache: Cache,
        turn: threading.Lock,
        engine: str = "",
        memory: GpuArena | None = None,
    ) -> None:
        self.turn = turn
        self.engine = engine
        self.cache = cache
        self.memory: Arena | GpuArena = Arena(cache.nbytes) if memory is None else memory
        self.is_held = False
        self._each = [State(self, number, cache) for number in range(cache.conversations)]
        self._is_fixed = all(pair.in_place for pair in cache.pairs)
        self._views: dict[tuple[int, int], tuple[Arrays, Arrays]] = {}  # of fixed pairs, by rows

    def state(self, number: int) -> State:
        """That of one conversation; raises an InputError where there are fewer."""
        number = whole_number("conversation", number, least=0)
        if number >= len(self._each):
            raise InputError(
                f"there is no conversation {number}",
                why=f"their numbers are 0 to {len(self._each) - 1}",
                hint="open it with more conversations=",
            )
        return self._each[number]

    def infer(
        self,
        run: Callable[[Arrays, Mapping[str, Array], Mapping[str, Array]], Arrays],
        inputs: Arrays,
        out: Mapping[str, Array],
        kept: Mapping[int, bool] | None,
    ) -> Arrays:
        """Outputs of an inference by `Execution.infer`; see `SwapExecutor.__call__`.

        Raises
        ------
        InputError
            The rows or the mask are not those of these conversations, or the tokens do not fit
            into the context.
        """
        rows, count = inputs[IDS].shape
        kept = dict.fromkeys(range(rows), True) if kept is None else kept
        self._check(inputs, kept)
        # A row beside others that is not kept writes over its first tokens.
        beside = [n for n in kept if not kept[n] and len(self._each) > 1]
        saved = [(first, first.copy()) for n in beside for first in self._first_tokens(n, count)]
        past, present = self.views([*kept], count)
        if missing := self.cache.mask_length and self.cache.mask_length - inputs[MASK].shape[1]:
            inputs = {**inputs, MASK: np.pad(inputs[MASK], ((0, 0), (0, missing)))}
        try:
            outputs = run({**inputs, **past}, out, present)
        finally:
            for first, values in saved:
                first[...] = values
        for number in () if self.is_held else kept:
            self._each[number].length += count * kept[number]
            self._each[number].place ^= 1
        return outputs

    def views(self, numbers: Sequence[int], count: int) -> tuple[Arrays, Arrays]:
        """Arrays for the past inputs and present outputs of an inference of so many tokens."""
        if found := self._views.get(rows := (numbers[0], numbers[-1])):
            return found
        state, before = self._each[numbers[0]], self._length(numbers[0], count)
        make = self.arrays if isinstance(self.memory, Arena) else self._on_device
        past = {p.past: a for p, a in make(numbers, before, state.place)}
        after = make(numbers, before + count, 1 - state.place)
        found = past, {p.present: a for p, a in after}
        if self._is_fixed:
            self._views[rows] = found
        return found

    def arrays(
        self, numbers: Sequence[int], tokens: int, place: int, memory: memoryview | None = None
    ) -> Iterator[tuple[Pair, Array]]:
        """Tensors of neighbours with so many tokens, in the first or second place of each.

        ``memory`` has all bytes of the cache, where kernels do not read host memory.
        """
        memory = self.memory.view(0, self.memory.nbytes) if memory is None else memory
        for pair, start, shape in self._placed(tokens, place):
            array = np.ndarray(shape, numpy_dtype(pair.dtype), memory, start)
            yield pair, array[numbers[0] : numbers[-1] + 1] if len(self._each) > 1 else array

    @contextmanager
    def on_host(
        self, numbers: Sequence[int], tokens: int, place: int
    ) -> Iterator[Iterator[tuple[Pair, Array]]]:
        """The same, which may be written, on a GPU in a copy that is taken back afterwards."""
        if isinstance(self.memory, Arena):
            yield self.arrays(numbers, tokens, place)
        else:
            with self.memory.on_host() as memory:
                yield self.arrays(numbers, tokens, place, memory)

    def _on_device(
        self, numbers: Sequence[int], tokens: int, place: int
    ) -> Iterator[tuple[Pair, DeviceArray]]:
        for pair, start, shape in self._placed(tokens, place):
            yield pair, DeviceArray(self.memory.address + start, shape)

    def _placed(self, tokens: int, place: int) -> Iterator[tuple[Pair, int, tuple[int, ...]]]:
        """Pairs, with the offsets and shapes of their tensors."""
        if not self.memory.nbytes:
            raise BackendError(
                "the cache is gone",
                why="its executor is closed",
                hint="save a state before",
            )
        offset = 0
        for pair in self.cache.pairs:
            start = offset if pair.in_place else offset + place * pair.place_bytes
            yield pair, start, pair.shape_of(tokens)
            offset += pair.nbytes

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._views.clear()
        if isinstance(self.memory, GpuArena):
            self.memory.discard()
        self.memory = Arena(0)

    def _length(self, number: int, count: int) -> int:
        return self.cache.context - count if self.is_held else self._each[number].length

    def _check(self, inputs: Mapping[str, Array], kept: Mapping[int, bool]) -> None:
        rows, count = inputs[IDS].shape
        numbers = [*kept] if isinstance(kept, Mapping) else kept
        known = [[*range(n, n + rows)] for n in range(len(self._each) - rows + 1)]
        if not rows or numbers not in known or (rows > 1 and count > 1):
            raise InputError(
                f"{rows} rows of {count} tokens can't be of the conversations {numbers}",
                why="rows are of neighbours, and several give a token each; there are the "
                f"conversations 0 to {len(self._each) - 1}",
                hint="give conversations= a number for each row, in ascending order",
            )
        context = self.cache.context
        alone = len(self._each) == 1
        ones = [count + self._length(n, count) * (kept[n] or alone) for n in kept]
        if max(ones) > context:
            raise InputError(
                f"{count} tokens do not fit",
                why=f"{max(ones) - count} are in the cache, and its context is {context}",
                hint="open it with a larger context=, or call state().reset()",
            )
        mask = inputs.get(MASK)
        if mask is not None and (
            mask.shape[1] != max(ones) or (rows > 1 and any(mask.sum(axis=1) != ones))
        ):
            raise InputError(
                f"input {MASK!r} has another length than all tokens",
                why=f"it is {mask.shape[1]} long; with the {count} given there are {ones}",
                hint=f"give {max(ones)} ones; fewer, then zeros, in a row that has fewer tokens",
            )

    def _first_tokens(self, number: int, count: int) -> Iterator[Array]:
        for pair, array in self.arrays([number], count, 0):
            yield array[(slice(None),) * pair.axis + (slice(count),)]


def _kind(array: Array) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    return array.shape, array.dtype
