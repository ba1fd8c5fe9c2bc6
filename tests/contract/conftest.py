"""The bindings, asked once for all tests."""

from __future__ import annotations

import pytest

from tests.contract.surface import Surface
from tests.contract.uses import Collected, collect_all
from tests.helpers.bindings import VERSIONS, ask, backend_of

_DESCRIBE = "from tests.contract.surface import describe\nanswer = describe(trt)"


@pytest.fixture(scope="session")
def surfaces() -> dict[str, Surface]:
    """By version."""
    return {v: Surface(v, backend_of(v), ask(v, _DESCRIBE)) for v in VERSIONS}


@pytest.fixture(scope="session")
def collected(surfaces: dict[str, Surface]) -> Collected:
    """What the code uses."""
    return collect_all([*surfaces.values()])
