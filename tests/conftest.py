"""Toys, each built once for all tests."""

from __future__ import annotations

from functools import cache

import pytest

from tests.helpers.engines import BuildToy, Engine, build_toy
from tests.helpers.zoo import TOYS


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> BuildToy:
    """Builds a toy by name the first time that it is asked for; tests must not change it."""

    @cache
    def built(name: str) -> Engine:
        return build_toy(name, tmp_path_factory.mktemp(name))

    return built


@pytest.fixture(params=TOYS)
def small_zoo(request: pytest.FixtureRequest, engine: BuildToy) -> Engine:
    """Each toy in turn."""
    return engine(request.param)
