"""`Generator`: the tokens that a language model adds to a prompt, inside a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from swapnet.budget import Budget
from swapnet.errors import InputError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.generation.choice import chooser
from swapnet.executor.state import CONTEXT, MASK
from swapnet.executor.swapping.storage import LoadMode
from swapnet.shapes import names_of
from swapnet.tensors import Array, numpy_dtype
from swapnet.token_rows import IDS, LOGITS, ROWS

__all__ = ["ASKED_ROWS", "Generated", "Generator"]

G = TypeVar("G", bound="Generator")

_POSITIONS = ("position_ids", "cache_position")

ASKED_ROWS = 2
"""Tokens of an inference whose logits are computed: the last is wanted, and float32 products of one
row have other last bits than those of several."""


@dataclass(frozen=True)
class Generated:
    """What the latest prompt took, until now.

    Attributes
    ----------
    prompt_tokens, tokens
        Tokens of the prompt, and those that followed.
    first_token_ms
        Time from the first step to the first token: that of the whole prompt.
    tokens_per_s, read_bytes_per_token
        Speed of the tokens after the first, without the caller's own time, and bytes read from
        storage for each of them; 0 where there is none.
    """

    prompt_tokens: int
    tokens: int = 0
    first_token_ms: float = 0.0
    tokens_per_s: float = 0.0
    read_bytes_per_token: float = 0.0


class Generator:
    """Generates tokens with a language model inside a memory budget.

    Parameters
    ----------
    engine
        Engine directory, or an engine that is open.
    budget
        As for `SwapExecutor`; the cache is part of it.
    context
        Most tokens of prompt and answer together.
    state, device, load_mode
        As for `SwapExecutor`.

    Attributes
    ----------
    executor
        The executor, for its plan, its counts and its budget.
    generated
        What the latest prompt took.

    Raises
    ------
    InputError
        The model has no cache, or an input that is not known.
    SwapnetError
        As `SwapExecutor`.

    Examples
    --------
    >>> with Generator("engines/smollm2", budget="128MiB") as generator:  # doctest: +SKIP
    ...     for token in generator([1, 4093, 198], max_tokens=20):
    ...         print(token)
    """

    def __init__(
        self,
        engine: Engine | str | Path,
        budget: Budget | str | int,
        context: int = CONTEXT,
        *,
        state: str = "",
        device: Device | None = None,
        load_mode: LoadMode | str = LoadMode.AUTO,
    ) -> None:
        self.executor = SwapExecutor(
            *(engine, budget),
            device=device,
            load_mode=load_mode,
            context=context,
            state=state,
            rows=ASKED_ROWS,
        )
        self.generated = Generated(0)
        self._turn = 0
        opened = self.executor.engine
        assert opened.cache is not None
        self._chunk = opened.cache.chunk
        asked = opened.cache.asked(opened.manifest)
        self._given = {tensor.name: tensor for tensor in asked.inputs if tensor.name != ROWS}
        logits = {tensor.name: tensor for tensor in asked.outputs}.get(LOGITS)
        unknown = self._given.keys() - {IDS, MASK, *_POSITIONS}
        if unknown or logits is None:
            self.close()
            raise InputError(
                f"{opened.manifest.source.name} can't generate tokens",
                why=f"nobody knows its inputs {names_of(sorted(unknown))}"
                if unknown
                else f"it has no output {LOGITS!r}",
                hint="give the names of its cache: --state 'present.*=past.*'; or use SwapExecutor",
            )
        vocabulary = logits.shape[-1]
        self._vocabulary = vocabulary if isinstance(vocabulary, int) else 1 << 31

    def __call__(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Collection[int] = (),
        keep: bool = False,
    ) -> Iterator[int]:
        """Tokens that follow a prompt, one by one.

        The cache is that of one prompt: a call ends the iterator of the call before. Closing the
        iterator, or leaving its loop, ends the generation.

        Parameters
        ----------
        prompt
            Numbers of its tokens.
        max_tokens
            Most tokens to generate; by default until the context is full.
        temperature, top_k, top_p, seed
            Choice of a token; by default the most likely one. See `chooser`.
        stop
            Tokens that end the generation; they are not among those that it gives.
        keep
            Go on after the tokens of the prompt and the answer before, or of a state that was
            loaded; otherwise they are forgotten.

        Returns
        -------
        Iterator
            Numbers of tokens. It raises as `SwapExecutor` does; the generator then takes the next
            prompt.

        Raises
        ------
        InputError
            The prompt is empty, larger than the context, or has a token that the model has not; or
            a number is outside of its range.
        """
        state = self.executor.state()
        before = state.length if keep else 0
        ids = [*(state.pending if keep else ()), *map(int, prompt)]
        if not ids or before + len(ids) > state.context:
            raise InputError(
                f"a prompt of {len(ids)} tokens does not fit",
                why=f"the context takes 1 to {state.context} tokens, prompt and answer together"
                + (f", and has {before} of them" if before else ""),
                hint="give a shorter prompt, or a larger context" if ids else "give a prompt",
            )
        if wrong := [token for token in ids if not 0 <= token < self._vocabulary]:
            raise InputError(
                f"the prompt has a token {wrong[0]}",
                why=f"the model has the tokens 0 to {self._vocabulary - 1}",
                hint="make the prompt with the tokenizer of this model",
            )
        if max_tokens is not None and max_tokens < 1:
            raise InputError(f"max_tokens can't be {max_tokens}", why="it must be at least 1")
        choose = chooser(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        if not keep:
            state.reset()
        self._turn += 1
        self.generated = Generated(len(ids))
        return self._tokens(ids, max_tokens or state.context, choose, frozenset(stop), self._turn)

    def close(self) -> None:
        """Release the executor. Safe to call twice."""
        self.executor.close()

    def __enter__(self: G) -> G:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tokens(
        self,
        prompt: list[int],
        most: int,
        choose: Callable[[Array], int],
        stop: frozenset[int],
        turn: int,
    ) -> Iterator[int]:
        state = self.executor.state()
        begun = time.perf_counter()
        for start in range(0, len(prompt), self._chunk):
            logits = self._logits_after(prompt[start : start + self._chunk], turn)
        token = choose(logits)
        first_ms = (time.perf_counter() - begun) * 1e3
        self.generated = made = Generated(len(prompt), first_token_ms=first_ms)
        later_s = read_bytes = 0.0
        while token not in stop:
            self.generated = made = replace(made, tokens=made.tokens + 1)
            state.pending = [token]
            yield token
            if made.tokens == most or state.length == state.context:
                return
            begun = time.perf_counter()
            token = choose(self._logits_after([token], turn))
            later_s += time.perf_counter() - begun
            last = self.executor.stats.last
            read_bytes += last.read_bytes if last else 0
            speed, read = made.tokens / later_s, read_bytes / made.tokens
            made = replace(made, tokens_per_s=speed, read_bytes_per_token=read)

    def _logits_after(self, ids: list[int], turn: int) -> Array:
        """Logits of the token that follows all tokens so far and these."""
        if turn != self._turn:
            raise InputError(
                "the generator was given another prompt",
                why="its cache is that of one prompt, and the iterator is of the one before",
                hint="finish an iterator before the next prompt, or open a second generator",
            )
        state = self.executor.state()
        before, after = state.length, state.length + len(ids)
        values: dict[str, Array] = {IDS: np.array([ids]), MASK: np.ones((1, after))}
        values |= {name: np.arange(before, after) for name in _POSITIONS}
        inputs = {
            name: values[name].astype(numpy_dtype(t.dtype)).reshape((1, -1)[-len(t.shape) :])
            for name, t in self._given.items()
        }
        last: Array = self.executor(inputs)[LOGITS][0, -1]
        state.pending = []
        return last
