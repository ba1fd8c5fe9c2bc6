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
from swapnet.executor.state import CONTEXT, IDS, MASK
from swapnet.executor.swapping.storage import LoadMode
from swapnet.manifest import Manifest, Tensor
from swapnet.shapes import names_of
from swapnet.tensors import Array, numpy_dtype

__all__ = ["Generated", "Generator"]

G = TypeVar("G", bound="Generator")

_POSITIONS = ("position_ids", "cache_position")


@dataclass(frozen=True)
class Generated:
    """What the latest prompt took, until now.

    Attributes
    ----------
    prompt_tokens, tokens
        Tokens of the prompt, and those that followed.
    first_token_ms
        Time from the call to the first token: that of the whole prompt.
    later_ms
        Time that the model took for the tokens after the first, without the caller's own.
    read_bytes
        Bytes read from storage for the tokens after the first.
    """

    prompt_tokens: int
    tokens: int = 0
    first_token_ms: float = 0.0
    later_ms: float = 0.0
    read_bytes: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens in a second, after the first; 0 where there is none."""
        return (self.tokens - 1) / self.later_ms * 1e3 if self.later_ms else 0.0

    @property
    def read_bytes_per_token(self) -> float:
        """Bytes read from storage for a token after the first; 0 where there is none."""
        return self.read_bytes / (self.tokens - 1) if self.tokens > 1 else 0.0


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
    state
        Names of the cache's outputs and inputs, as ``"present.*=past.*"``; by default those that
        exporters use.
    device, load_mode
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
    >>> with Generator("engines/smollm2", budget="64MiB") as generator:  # doctest: +SKIP
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
        opened = engine if isinstance(engine, Engine) else Engine.open(engine, device=device)
        self._logits = _logits(opened.built)
        self.executor = SwapExecutor(
            opened, budget, device=device, load_mode=load_mode, context=context, state=state
        )
        self.generated = Generated(0)
        cache = self.executor.engine.cache
        assert cache is not None
        kept = {pair.past for pair in cache.pairs}
        self._chunk = cache.chunk
        self._given = {t.name: t for t in opened.built.inputs if t.name not in kept}
        if unknown := self._given.keys() - {IDS, MASK, *_POSITIONS}:
            self.close()
            raise InputError(
                f"{opened.built.source.name} can't generate tokens",
                why=f"nobody knows what its inputs {names_of(sorted(unknown))} are",
                hint="give the names of its cache: --state 'present.*=past.*'; or use SwapExecutor",
            )
        self._turn = 0

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
        ids = [int(token) for token in prompt]
        vocabulary = self._logits.shape[-1]
        context = self.executor.state().context
        if not ids or len(ids) > context:
            raise InputError(
                f"a prompt of {len(ids)} tokens does not fit",
                why=f"the context takes 1 to {context} tokens, prompt and answer together",
                hint="give a shorter prompt, or a larger context" if ids else "give a prompt",
            )
        if isinstance(vocabulary, int) and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise InputError(
                f"the prompt has a token {max(ids) if max(ids) >= vocabulary else min(ids)}",
                why=f"the model has the tokens 0 to {vocabulary - 1}",
                hint="make the prompt with the tokenizer of this model",
            )
        if max_tokens is not None and max_tokens < 1:
            raise InputError(f"max_tokens can't be {max_tokens}", why="it must be at least 1")
        choose = chooser(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        self.executor.state().reset()
        self._turn += 1
        self.generated = Generated(len(ids))
        return self._tokens(ids, max_tokens or context, choose, frozenset(stop), self._turn)

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
        while token not in stop:
            self.generated = made = replace(made, tokens=made.tokens + 1)
            yield token
            if made.tokens == most or state.length == state.context:
                return
            begun = time.perf_counter()
            token = choose(self._logits_after([token], turn))
            last = self.executor.stats.last
            made = replace(
                made,
                later_ms=made.later_ms + (time.perf_counter() - begun) * 1e3,
                read_bytes=made.read_bytes + (last.read_bytes if last else 0),
            )

    def _logits_after(self, ids: list[int], turn: int) -> Array:
        """Logits of the token that follows all tokens so far and these."""
        if turn != self._turn:
            raise InputError(
                "the generator was given another prompt",
                why="its cache is that of one prompt, and the iterator is of the one before",
                hint="finish an iterator before the next prompt, or open a second generator",
            )
        before = self.executor.state().length
        after = before + len(ids)
        values: dict[str, Array] = {IDS: np.array([ids]), MASK: np.ones((1, after))}
        values |= {name: np.arange(before, after) for name in _POSITIONS}
        inputs = {
            name: values[name].astype(numpy_dtype(t.dtype)).reshape((1, -1)[-len(t.shape) :])
            for name, t in self._given.items()
        }
        last: Array = self.executor(inputs)[self._logits.name][0, -1]
        return last


def _logits(manifest: Manifest) -> Tensor:
    """The output with a number for each token of the vocabulary."""
    named = [tensor for tensor in manifest.outputs if tensor.name == "logits"]
    found = named or [tensor for tensor in manifest.outputs if len(tensor.shape) == 3]
    if len(found) != 1 or len(found[0].shape) != 3:
        raise InputError(
            f"{manifest.source.name} can't generate tokens",
            why="it has no output 'logits' of three dimensions",
            hint="export it as a language model with a cache; SwapExecutor runs any model",
        )
    return found[0]
