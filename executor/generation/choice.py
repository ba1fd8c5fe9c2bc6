"""Choose the next token from its logits."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

import numpy as np

from swapnet.errors import InputError
from swapnet.input_checks import whole_number
from swapnet.tensors import Array

__all__ = ["chooser"]


def chooser(
    *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int | None = None
) -> Callable[[Array], int]:
    """A function from logits, one for each token of the vocabulary, to a token.

    Parameters
    ----------
    temperature
        Divisor of the logits; 0 for the most likely token.
    top_k
        Number of likeliest tokens to choose among; 0 for all.
    top_p
        Choose among the likeliest tokens that have this probability together (Holtzman et al.,
        "The Curious Case of Neural Text Degeneration", arXiv 1904.09751).
    seed
        Seed of the random numbers; None for another one each time.

    Raises
    ------
    InputError
        A number is outside of its range, or none.
    """
    top_k = whole_number("top_k", top_k, least=0)
    seed = None if seed is None else whole_number("seed", seed, least=0)
    if not isinstance(temperature, Real) or not 0 <= temperature < np.inf:
        raise InputError(f"temperature can't be {temperature!r}", why="it must be 0 or more")
    if not isinstance(top_p, Real) or not 0 < top_p <= 1:
        raise InputError(f"top_p can't be {top_p!r}", why="it must be above 0, and at most 1")
    if temperature == 0:
        return lambda logits: int(np.argmax(logits))
    random = np.random.default_rng(seed)

    def choose(logits: Array) -> int:
        scores = logits.astype(np.float64) / temperature
        order = np.argsort(-scores, kind="stable")[: top_k or None]
        weights = np.exp(scores[order] - scores[order[0]])
        sums = np.cumsum(weights / weights.sum())
        # The token that reaches the probability is the last; rounding may keep all below 1.
        count = min(int(np.searchsorted(sums, top_p)) + 1, len(sums))
        limit = random.random() * sums[count - 1]
        return int(order[np.searchsorted(sums[:count], limit, side="right")])

    return choose
