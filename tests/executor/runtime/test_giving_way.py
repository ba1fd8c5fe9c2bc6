"""Who gives way changes how often threads take turns, and leaves it as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from swapnet.executor.runtime.giving_way import giving_way


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    yield
    sys.setswitchinterval(before)


def test_turns_are_short_meanwhile() -> None:
    with giving_way():
        assert sys.getswitchinterval() == pytest.approx(1e-4)
        with pytest.raises(ValueError, match="wrong"), giving_way():
            raise ValueError("wrong")
        assert sys.getswitchinterval() == pytest.approx(1e-4)
    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_who_began_first_may_end_first() -> None:
    one, other = giving_way(), giving_way()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(1e-4)
    other.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_shorter_turns_stay_short() -> None:
    sys.setswitchinterval(1e-5)
    with giving_way():
        assert sys.getswitchinterval() == pytest.approx(1e-5)
    assert sys.getswitchinterval() == pytest.approx(1e-5)
