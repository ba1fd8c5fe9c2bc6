"""Prompt lookup: what followed the same tokens before is computed together with the next one.

One inference gives the logits of a token and of those that are drafted after it, for the same bytes
of weights. Drafted tokens count where they are the chosen ones (Saxena, "Prompt Lookup Decoding",
2023; Leviathan et al., arXiv 2211.17192).

An inference of two or more tokens has the same bits for a token, whatever follows it; one of a
single token has others. So without a draft a second token is computed too, and thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from swapnet.errors import InputError
from swapnet.executor.conversations import State
from swapnet.executor.planning.plan import Plan
from swapnet.profile import Profile
from swapnet.tensors import Array

__all__ = ["MOST_DRAFTED", "Draft", "Drafts", "Lookup", "check_draft", "gainful", "no_drafts"]

Draft: TypeAlias = Literal["", "ngram", "auto"]
"""Drafts by n-grams, always or where a gain is expected; none for ``""``."""

MOST_DRAFTED = 8
_LONGEST = 3


class Lookup:
    """Finds what followed the last tokens of a text when they came before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Let a token follow."""
        for gram in self._last():
            self._after[gram] = len(self._tokens)
        self._tokens.append(token)

    def following(self, most: int) -> list[int]:
        """Up to ``most`` tokens after the latest place of the longest n-gram that came before."""
        starts = (self._after[gram] for gram in self._last() if gram in self._after)
        start = next(starts, len(self._tokens))
        return self._tokens[start : start + max(most, 0)]

    def _last(self) -> list[tuple[int, ...]]:
        """The last n-grams, the longest first."""
        sizes = range(min(_LONGEST, len(self._tokens)), 0, -1)
        return [tuple(self._tokens[-size:]) for size in sizes]


class Drafts:
    """The next tokens of an answer, some of them from the same inference.

    Parameters
    ----------
    prompt
        Tokens before the answer.
    choose
        Gives a token for its logits.
    most
        Most tokens to draft; 0 for none.

    Attributes
    ----------
    accepted
        Drafted tokens that counted.
    """

    def __init__(self, prompt: Sequence[int], choose: Callable[[Array], int], most: int) -> None:
        self.accepted = 0
        self._lookup = Lookup(prompt)
        self._choose, self._most = choose, most
        self._known: deque[int] = deque()

    def after(self, token: int, state: State, infer: Callable[[list[int]], Array]) -> int:
        """The token after the latest one.

        ``infer`` gives the logits of tokens, (tokens, vocabulary), and adds them to the state.
        """
        self._lookup.add(token)
        before = state.length
        if self._known:
            self.accepted += 1
            state.length, state.pending = before + 1, []
            return self._known.popleft()
        # The last token of a context has no room for a second one, so it is always alone.
        room = state.context - before - 2
        drafted = self._lookup.following(min(self._most, room))
        logits = infer([token, *(drafted or [token])] if room >= 0 else [token])
        state.length, state.pending = before + 1, []
        chosen = [self._choose(row) for row in logits[: len(drafted) + 1]]
        right = [mine == theirs for mine, theirs in zip(drafted, chosen, strict=False)]
        self._known.extend(chosen[1 : 1 + [*right, False].index(False)])
        return chosen[0]


def check_draft(draft: str, conversations: int) -> None:
    """Raise an InputError for a draft that is not known, or drafts for several conversations."""
    if draft not in get_args(Draft):
        raise InputError(
            f"a draft of {draft!r} is not known",
            why="it is 'ngram', or 'auto' to draft where a gain is expected",
        )
    if draft and conversations > 1:
        raise InputError(
            f"drafts are of one conversation, and {conversations} are asked for",
            why="tokens of several conversations share an inference already",
            hint="leave one of the two out",
        )


def no_drafts(model: str) -> InputError:
    """The error for a model whose cache can't forget what was drafted in vain."""
    return InputError(
        f"{model} takes no drafts",
        why="its cache is joined from past and present; a draft needs GroupQueryAttention",
        hint="leave the draft out, or export the model with onnxruntime-genai's model builder",
    )


def gainful(plan: Plan, profile: Profile, chunk: int) -> int:
    """Tokens to draft so that computing takes no longer than reading weights does anyway."""
    reading_ms = plan.streamed_bytes / profile.storage.bytes_per_s * 1e3
    token_ms, chunk_ms = (
        sum(block.idle_ms for block in each.blocks) for each in (profile, profile.of_chunk)
    )
    row_ms = max(chunk_ms - token_ms, 1e-6) / max(chunk - 1, 1)
    return max(min(int((reading_ms - token_ms) / row_ms), MOST_DRAFTED), 0)
