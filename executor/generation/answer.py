"""The answer to a prompt, token by token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from swapnet.errors import InputError
from swapnet.executor.conversations import State
from swapnet.executor.generation.draft import Drafts
from swapnet.tensors import Array

__all__ = ["Answer", "Generated"]


@dataclass(frozen=True)
class Generated:
    """What a prompt took, until now.

    Attributes
    ----------
    prompt_tokens, tokens
        Tokens of the prompt, and those that followed.
    first_token_ms
        Time from the first step to the first token: that of the whole prompt.
    tokens_per_s, read_bytes_per_token
        Speed of the tokens after the first, without the caller's own time, and bytes read from
        storage for each of them; 0 where there is none. Of an inference for several prompts each
        counts its part of the bytes.
    accepted
        Tokens that were drafted, and came.
    """

    prompt_tokens: int
    tokens: int = 0
    first_token_ms: float = 0.0
    tokens_per_s: float = 0.0
    read_bytes_per_token: float = 0.0
    accepted: int = 0


@dataclass(eq=False)
class Answer(Iterator[int]):
    """Tokens that follow a prompt; `Generator.submit` gives it.

    The thread that waits for a token computes, for all conversations that are answered. Tokens are
    kept until they are asked for. Cancel an answer that is not read to its end: it keeps its
    conversation until then.

    Attributes
    ----------
    conversation
        Number of its conversation; None while it waits for one.
    generated
        What it took, until now.
    """

    ids: list[int]
    conversation: int | None
    keep: bool
    _most: int
    _stop: Collection[int]
    _choose: Callable[[Array], int]
    _take: Callable[[Answer], int]
    generated: Generated = Generated(0)
    has_begun: bool = False
    given: deque[int] = field(default_factory=deque)
    reason: BaseException | None = None
    drafts: Drafts | None = None
    spent_s: float = 0.0
    _later_s: float = 0.0
    _read_bytes: float = 0.0

    def __next__(self) -> int:
        """The next token; raises as `SwapExecutor` where it failed."""
        return self._take(self)

    def done(self) -> bool:
        """Whether nothing more is computed: it has ended, failed, or was cancelled."""
        return self.reason is not None

    def cancel(self) -> None:
        """End it after the tokens that have come; the one that is computed is not given."""
        self.end(StopIteration())

    def end(self, reason: BaseException) -> None:
        """Let this follow the tokens that have come; of several reasons the first counts."""
        self.reason = self.reason or reason

    def check_room(self, state: State) -> None:
        """Refuse a prompt that is empty, or that does not fit into the context."""
        before = state.length if self.keep else 0
        count = len(self.ids) + len(state.pending if self.keep else ())
        if not count or before + count > state.context:
            raise InputError(
                f"a prompt of {count} tokens does not fit",
                why=f"the context takes 1 to {state.context} tokens, prompt and answer together"
                + (f", and has {before} of them" if before else ""),
                hint="give a shorter prompt, or a larger context" if count else "give a prompt",
            )

    def begin(self, state: State) -> None:
        """Go on after a state, or empty it; raises as `check_room`."""
        self.check_room(state)
        self.ids[:0] = state.pending if self.keep else ()
        if not self.keep:
            state.reset()
        self.generated = Generated(len(self.ids))
        self.has_begun = True

    def give(self, count: int, logits: Array, state: State, read_bytes: float) -> None:
        """Take logits of so many of the ``ids``: after the last of them a token follows."""
        self.ids = self.ids[count:]
        state.pending = []
        if self.ids or self.done():
            return
        self.take(self._choose(logits), state, read_bytes)

    def take(self, token: int, state: State, read_bytes: float) -> None:
        """Take the token that follows the state; an inference read so much for it."""
        made = self.generated
        if made.tokens:
            self._later_s += self.spent_s
            self._read_bytes += read_bytes
            speed, read = made.tokens / self._later_s, self._read_bytes / made.tokens
            made = replace(made, tokens_per_s=speed, read_bytes_per_token=read)
        else:
            made = replace(made, first_token_ms=self.spent_s * 1e3)
        if self.drafts:
            made = replace(made, accepted=self.drafts.accepted)
        self.spent_s = 0.0
        is_given = token not in self._stop
        self.generated = made = replace(made, tokens=made.tokens + is_given)
        if is_given:
            self.ids, state.pending = [token], [token]
            self.given.append(token)
        if not is_given or made.tokens == self._most or state.length == state.context:
            self.end(StopIteration())
