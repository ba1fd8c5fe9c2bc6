"""mypy with the stubs of each version, asked by all tests."""

from __future__ import annotations

import pytest

from tests.contract.checking import Checker
from tests.helpers.bindings import VERSIONS


@pytest.fixture(scope="session")
def checkers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checker]:
    """By version."""
    return {v: Checker(v, tmp_path_factory.mktemp("contract") / v) for v in VERSIONS}
