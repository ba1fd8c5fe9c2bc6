"""Models that packages ship: a newcomer's commands build them, and their budgets hold.

Quick ones run with all tests, the others with ``SWAPNET_SHIPPED=1`` or ``make shipped``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swapnet.errors import StorageError
from tests.shipped.listed import SHIPPED, Shipped
from tests.shipped.trying import try_shipped

QUICK = ("silero",)


def _model(model: Shipped) -> object:
    marks: list[pytest.MarkDecorator] = [pytest.mark.slow]
    if model.name not in QUICK:
        asked = os.environ.get("SWAPNET_SHIPPED")
        marks.append(pytest.mark.skipif(not asked, reason="runs with SWAPNET_SHIPPED=1"))
    return pytest.param(model, id=model.name, marks=marks)


@pytest.mark.parametrize("model", [_model(model) for model in SHIPPED])
def test_a_shipped_model_keeps_its_budgets_and_its_values(model: Shipped, tmp_path: Path) -> None:
    try:
        tried = try_shipped(model, tmp_path)
    except StorageError as error:
        pytest.skip(f"{error.what}: {error.why}")
    assert not list(tried.failures())
    assert tried.findings["runs"]


def test_ten_are_pinned_with_their_licences() -> None:
    assert len({model.name for model in SHIPPED}) == 10
    assert {*QUICK} <= {model.name for model in SHIPPED}
    assert all(model.licence and len(model.wheel.sha256) == 64 for model in SHIPPED)
