from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import msgspec
import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.executor.bench.difference import check_comparable, largest_difference
from swapnet.manifest import Manifest, Source

MIB = 1 << 20
NAMES = ("engines/x", "engines/x-int8")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0)),
        ([1.0, 2.0], [1.0, 4.0], (2.0, 0.5)),
        ([nan, 2.0], [nan, 2.0], (0.0, 0.0)),
        ([inf, 2.0], [inf, 2.0], (0.0, 0.0)),
        ([0.5], [0.0], (0.5, 0.5)),
        ([], [], (0.0, 0.0)),
    ],
)
def test_absolute_and_relative(
    ours: list[float], theirs: list[float], expected: tuple[float, float]
) -> None:
    assert largest_difference({"y": np.array(ours)}, {"y": np.array(theirs)}) == expected


def test_nan_in_one_place_only_is_no_small_matter() -> None:
    absolute, _ = largest_difference({"y": np.array([nan])}, {"y": np.array([1.0])})
    assert absolute > 1e300


def test_other_shapes_are_no_small_matter() -> None:
    one, other = {"y": np.zeros(3)}, {"y": np.zeros(4)}
    assert largest_difference(one, other) == (inf, inf)


def test_engines_of_other_models(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    sources = [Source("one", "11ab", ""), Source("two", "22cd", "")]
    others = [msgspec.structs.replace(manifest, source=source) for source in sources]
    check_comparable(NAMES, [others[0], others[0]])
    with pytest.raises(InputError, match=r"(?s)not engines of one model.*11ab.*22cd"):
        check_comparable(NAMES, others)
    tuned = msgspec.structs.replace(sources[0], data_sha256="33ef")
    others[1] = msgspec.structs.replace(manifest, source=tuned)
    with pytest.raises(InputError, match=r"(?s)not engines of one model.*11ab.*33ef"):
        check_comparable(NAMES, others)


def test_engines_at_other_shapes(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    other = msgspec.structs.replace(manifest, planned_shapes={"x": (2,)})
    with pytest.raises(InputError, match=r"(?s)other input shapes.*\(1,\).*\(2,\).*--shapes"):
        check_comparable(NAMES, [manifest, other])
