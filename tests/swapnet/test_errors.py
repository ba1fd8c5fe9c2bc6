from __future__ import annotations

import pickle

import pytest

from swapnet import errors


def test_says_what_why_and_what_to_do() -> None:
    error = errors.EngineError("what", why="why", hint="hint")
    assert (error.what, error.why, error.hint) == ("what", "why", "hint")
    assert str(error) == "what\nwhy\nhint"
    assert str(errors.ModelError("what", hint="hint")) == "what\nhint"


@pytest.mark.parametrize("name", errors.__all__)
def test_all_are_swapnet_errors(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.SwapnetError)


def test_an_unavailable_backend_is_a_backend_error() -> None:
    assert issubclass(errors.BackendUnavailableError, errors.BackendError)


def test_a_budget_error_carries_the_smallest() -> None:
    assert errors.BudgetError("what", smallest_bytes=7).smallest_bytes == 7
    assert errors.BudgetError("what").smallest_bytes is None


def test_errors_travel_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(errors.StorageError("what", why="why", hint="hint")))
    assert str(copy) == "what\nwhy\nhint"
