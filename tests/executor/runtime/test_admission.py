"""Refusals name what does not fit, what it needs, and why that is more than alone."""

from __future__ import annotations

import pytest

from swapnet.executor.runtime.admission import too_small


def test_one_model_is_not_several() -> None:
    text = str(too_small(("a",), 2 << 20, 1 << 20))
    assert "a does not fit in 1MiB" in text
    assert "unload" not in text


@pytest.mark.parametrize("have_strips", [True, False])
def test_several_models_name_strips_where_one_has_them(have_strips: bool) -> None:
    error = too_small(("a", "b"), 2 << 20, 1 << 20, have_strips=have_strips)
    assert "a, b do not fit in 1MiB together" in error.what
    assert ("strips" in error.why) is have_strips
    assert error.hint.endswith("2MiB, or unload one")
