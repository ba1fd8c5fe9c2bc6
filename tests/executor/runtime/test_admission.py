"""Refusals name what does not fit, and what it needs."""

from __future__ import annotations

from swapnet.executor.runtime.admission import too_small


def test_one_model_is_not_several() -> None:
    text = str(too_small(("a",), 2 << 20, 1 << 20))
    assert "a does not fit in 1MiB" in text
    assert "unload" not in text


def test_several_models_may_be_unloaded() -> None:
    error = too_small(("a", "b"), 2 << 20, 1 << 20)
    assert "a, b do not fit in 1MiB together" in error.what
    assert error.hint.endswith("2MiB, or unload one")
