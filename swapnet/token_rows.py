"""Rows of a language model's logits: which tokens an inference wants them of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from swapnet.tensors import Array, ModelInput

__all__ = ["IDS", "LOGITS", "ROWS", "rows_wanted", "with_rows"]

IDS, LOGITS = "input_ids", "logits"

ROWS = "logits_to_keep"
"""Input that the build adds to a decoder: numbers of the tokens whose logits are wanted. Its only
dimension has the same name. It is left out of a call that wants all of them."""


def rows_wanted(tokens: int, most: int) -> Array:
    """Numbers of the last tokens, at most ``most`` of them: int64, one-dimensional."""
    return np.arange(max(tokens - most, 0), tokens)


def with_rows(
    given: Mapping[str, Any],
    inputs: Iterable[ModelInput],
    planned: Mapping[str, Sequence[int]] | None = None,
) -> Mapping[str, Any]:
    """Inputs of a call, with the last tokens as those whose logits are wanted if it does not say.

    ``planned`` are shapes that limit their number.
    """
    if ROWS in given or IDS not in given or all(taken.name != ROWS for taken in inputs):
        return given
    tokens = (np.shape(given[IDS]) or (0,))[-1]
    return {**given, ROWS: rows_wanted(tokens, planned[ROWS][0] if planned else tokens)}
