"""`Generator`: the tokens that a language model adds to a prompt, inside a budget."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from swapnet.budget import Budget
from swapnet.errors import InputError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.generation.answer import Answer, Generated
from swapnet.executor.generation.choice import chooser
from swapnet.executor.generation.draft import (
    MOST_DRAFTED,
    Draft,
    Drafts,
    check_draft,
    gainful,
    no_drafts,
)
from swapnet.executor.gpu.accelerator import Accelerator
from swapnet.executor.runtime.policy import PATIENCE_S, Job
from swapnet.executor.runtime.scheduler import Instruction, Scheduler
from swapnet.executor.state import CONTEXT, MASK
from swapnet.executor.swapping.storage import LoadMode
from swapnet.input_checks import whole_number, whole_numbers
from swapnet.shapes import names_of
from swapnet.tensors import Array, numpy_dtype
from swapnet.token_rows import IDS, LOGITS, ROWS

__all__ = ["ASKED_ROWS", "Generator", "asked_rows"]

G = TypeVar("G", bound="Generator")

_POSITIONS = ("position_ids", "cache_position")

_TOKEN = "token"
"""Name of the model in the scheduler, and kind of the inferences that can be joined."""

ASKED_ROWS = 2
"""Tokens of an inference whose logits are computed: the last is wanted, and float32 products of one
row have other last bits than those of several."""


def asked_rows(draft: Draft) -> int:
    """`ASKED_ROWS`; with a draft as many tokens as are computed at a time."""
    return 1 + MOST_DRAFTED if draft else ASKED_ROWS


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
    conversations
        Most prompts that are answered at a time. Each has a cache.
    draft
        ``"ngram"``: draft up to 8 tokens that followed the last ones before, and compute them with
        the next token. ``"auto"``: draft no more of them than are computed while weights are read.
        With a temperature nothing is drafted. Tokens do not depend on what was drafted, but may
        differ from those without ``draft``, whose last bits are others.
    state, device, load_mode, gpu
        As for `SwapExecutor`.

    Attributes
    ----------
    executor
        The executor, for its plan, its counts and its budget.

    Raises
    ------
    InputError
        The model has no cache, or an input that is not known; or it takes one conversation at a
        time, or no drafts.
    SwapnetError
        As `SwapExecutor`.

    Notes
    -----
    Safe to call from several threads.

    Examples
    --------
    >>> with Generator("engines/smollm2", budget="128MiB") as generator:  # doctest: +SKIP
    ...     for token in generator([1, 4093, 198], max_tokens=20):
    ...         print(token)
    >>> with Generator("engines/smollm2", "128MiB", conversations=2) as generator:  # doctest: +SKIP
    ...     answers = [generator.submit(prompt) for prompt in ([1, 4093, 198], [1, 57])]
    ...     print([list(answer) for answer in answers])
    """

    def __init__(
        self,
        engine: Engine | str | Path,
        budget: Budget | str | int,
        context: int = CONTEXT,
        *,
        conversations: int = 1,
        draft: Draft = "",
        state: str = "",
        device: Device | None = None,
        load_mode: LoadMode | str = LoadMode.AUTO,
        gpu: Accelerator | None = None,
    ) -> None:
        conversations = whole_number("conversations", conversations)
        check_draft(draft, conversations)
        self._draft = draft
        self.executor = SwapExecutor(
            *(engine, budget),
            device=device,
            load_mode=load_mode,
            context=whole_number("context", context),
            state=state,
            rows=asked_rows(draft),
            conversations=conversations,
            gpu=gpu,
        )
        self._called: Answer | None = None
        """Of the latest call."""
        self._waiting: list[Answer] = []
        """Answers that wait for a conversation."""
        self._answers: dict[int, Answer] = {}
        """The others, by conversation."""
        self._told: list[Instruction] = []
        """The next inference; none while a thread computes it."""
        self._changed = threading.Condition()
        self._count = itertools.count()
        self._scheduler = Scheduler()
        self._scheduler.loaded(_TOKEN, 0.0, 0.0, rows=conversations)
        opened = self.executor.engine
        assert opened.cache is not None
        self._cache = opened.cache
        asked = opened.cache.asked(opened.manifest)
        self._given = {tensor.name: tensor for tensor in asked.inputs if tensor.name != ROWS}
        logits = {tensor.name: tensor for tensor in asked.outputs}.get(LOGITS)
        if draft and not all(pair.in_place for pair in self._cache.pairs):
            self.close()
            raise no_drafts(opened.manifest.source.name)
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

        A call is of the first conversation, and ends the iterator of the call before. Closing the
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
            a number is outside of its range, or none.
        """
        choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        answer = self.submit(
            prompt, conversation=0, max_tokens=max_tokens, stop=stop, keep=keep, **choice
        )
        before, self._called = self._called, answer
        if before is not None:
            before.end(
                InputError(
                    "the generator was given another prompt",
                    why="calls are of one conversation, and the iterator is of the call before",
                    hint="finish an iterator before the next prompt, or submit(…) both",
                )
            )
        return self._iterated(answer)

    def submit(
        self,
        prompt: Sequence[int],
        *,
        conversation: int | None = None,
        max_tokens: int | None = None,
        stop: Collection[int] = (),
        keep: bool = False,
        **choice: Any,
    ) -> Answer:
        """Have a prompt answered together with others.

        Each conversation has one prompt at a time; the others wait. A token of each is computed
        with one pass of weights. These alternate with the chunks of prompts. Tokens do not depend
        on who else asks.

        Parameters
        ----------
        prompt, max_tokens, stop, keep, **choice
            As for a call.
        conversation
            Number of its conversation; by default one that is free, without what it had.

        Returns
        -------
        Answer
            Iterator of tokens, as that of a call. It can be cancelled.

        Raises
        ------
        InputError
            As for a call, or there is no such conversation.
        """
        if keep and conversation is None:
            raise InputError(
                "keep=True names no conversation",
                why="the prompt goes on after the tokens of one",
                hint="give conversation=, as the answer before has it",
            )
        state = self.executor.state(conversation or 0)
        ids, ends = whole_numbers("the prompt", prompt), whole_numbers("stop", stop)
        if wrong := [token for token in ids if not 0 <= token < self._vocabulary]:
            raise InputError(
                f"the prompt has a token {wrong[0]}",
                why=f"the model has the tokens 0 to {self._vocabulary - 1}",
                hint="make the prompt with the tokenizer of this model",
            )
        most = max_tokens if max_tokens is not None else self._cache.context
        most = whole_number("max_tokens", most)
        choose = chooser(**choice)
        answer = Answer(ids, conversation, keep, most, frozenset(ends), choose, self._take)
        if self._draft:
            drafted = 0 if choice.get("temperature") else self._most_drafted()
            answer.drafts = Drafts(ids, choose, drafted)
        with self._changed:
            busy = [each.conversation for each in (*self._waiting, *self._answers.values())]
            if not keep or conversation not in busy:
                answer.check_room(state)
            self._waiting.append(answer)
            self._admit()
        return answer

    @property
    def generated(self) -> Generated:
        """What the prompt of the latest call took."""
        return self._called.generated if self._called else Generated(0)

    def close(self) -> None:
        """Release the executor; answers that have not ended fail. Safe to call twice."""
        self.executor.close()

    def __enter__(self: G) -> G:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _iterated(self, answer: Answer) -> Iterator[int]:
        try:
            yield from answer
        finally:
            answer.cancel()

    def _admit(self) -> None:
        """Give free conversations to prompts that wait, in their order."""
        for answer in [*self._waiting]:
            free = [n for n in range(self._cache.conversations) if n not in self._answers]
            wanted = free[:1] if answer.conversation is None else [answer.conversation]
            if answer.done():
                self._waiting.remove(answer)
            elif wanted and wanted[0] in free:
                self._waiting.remove(answer)
                (answer.conversation,) = wanted
                self._answers[wanted[0]] = answer
                self._ask(wanted[0])

    def _ask(self, number: int) -> None:
        """Let a conversation wait for its next inference: of a token it can be joined."""
        answer, now = self._answers[number], time.monotonic()
        kind = _TOKEN if answer.has_begun and len(answer.ids) == 1 else None
        sequence = next(self._count) * self._cache.conversations + number
        job = Job(_TOKEN, sequence, now, now + PATIENCE_S, 1.0, 0.0, kind=kind)
        self._told += self._scheduler.asked(job)

    def _take(self, answer: Answer) -> int:
        """The next token of an answer, computed here unless another thread computes."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: answer.given or answer.done() or self._told)
                if answer.given:
                    return answer.given.popleft()
                if answer.reason is not None:
                    raise answer.reason
                numbers = [each % self._cache.conversations for each in self._told.pop().numbers]
            self._serve({number: self._answers[number] for number in numbers})

    def _serve(self, answers: Mapping[int, Answer]) -> None:
        """Compute the next inference of conversations, then let them ask for another."""
        try:
            if live := {number: each for number, each in answers.items() if not each.done()}:
                self._compute(live)
        except BaseException as error:
            for each in answers.values():
                each.end(error)
            if not isinstance(error, Exception):
                raise
        finally:
            with self._changed:
                for number, each in answers.items():
                    if each.done():
                        del self._answers[number]
                    else:
                        self._ask(number)
                self._admit()
                self._told += self._scheduler.done(_TOKEN)
                self._changed.notify_all()

    def _compute(self, answers: Mapping[int, Answer]) -> None:
        """Compute tokens of conversations, and give them."""
        for number, answer in answers.items():
            if not answer.has_begun:
                answer.begin(self.executor.state(number))
        if (single := answers.get(0)) and single.drafts and single.generated.tokens:
            self._give_drafted(single, single.drafts)
            return
        ids = {number: each.ids[: self._cache.chunk] for number, each in answers.items()}
        logits = self._infer(ids)
        last = self.executor.stats.last
        read_bytes = last.read_bytes / len(ids) if last else 0.0
        for number, answer in answers.items():
            state = self.executor.state(number)
            try:
                answer.give(len(ids[number]), logits[number][-1], state, read_bytes)
            except Exception as error:  # of its own choice of a token
                answer.end(error)

    def _most_drafted(self) -> int:
        """Tokens to draft, by what the plan in force leaves time for if that is asked for."""
        if self._draft == "ngram":
            return MOST_DRAFTED
        return gainful(self.executor.plan, self.executor.engine.delays, self._cache.chunk)

    def _give_drafted(self, answer: Answer, drafts: Drafts) -> None:
        """Give the next token, which may have been computed as one of a draft."""
        state, before = self.executor.state(), self.executor.stats.inferences
        token = drafts.after(answer.ids[0], state, lambda ids: self._infer({0: ids})[0])
        stats = self.executor.stats
        last = stats.last if stats.inferences > before else None
        answer.take(token, state, last.read_bytes if last else 0.0)

    def _infer(self, ids: Mapping[int, list[int]]) -> dict[int, Array]:
        """Logits of the last of these tokens by conversation, (tokens, vocabulary).

        Conversations between them are rows without effect. A token alone has such a row beside it,
        if there is another conversation: it must not have other bits than together.
        """
        first, end, count = min(ids), max(ids) + 1, len(next(iter(ids.values())))
        if count == 1:
            first = max(0, min(first, self._cache.conversations - ASKED_ROWS))
            end = min(max(end, first + ASKED_ROWS), self._cache.conversations)
        kept = {number: number in ids for number in range(first, end)}
        befores = [[self.executor.state(n).length if kept[n] else 0] for n in kept]
        positions = np.add(befores, range(count))
        ones = np.arange(positions.max() + 1) <= positions[:, -1:]
        values = {IDS: np.array([ids.get(number, [0]) for number in kept]), MASK: ones}
        values |= dict.fromkeys(_POSITIONS, positions)
        inputs = {
            name: values[name].astype(numpy_dtype(t.dtype))[(0,) * (2 - len(t.shape))]
            for name, t in self._given.items()
        }
        begun = time.perf_counter()
        logits = self.executor(inputs, conversations=kept)[LOGITS]
        for answer in [*self._answers.values()]:
            answer.spent_s += (time.perf_counter() - begun) * answer.has_begun
        return {number: logits[number - first] for number in ids}
