"""Which weights that several blocks use stay, beside blocks that are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from swapnet.executor.planning.shared import extents_of, kept_choices
from swapnet.manifest import Extent, Manifest, Shared

PAGE = 4096
MakeManifest = Callable[..., Manifest]


@pytest.fixture
def manifest(simulated_manifest: MakeManifest) -> Callable[[Sequence[tuple[int, ...]]], Manifest]:
    """Four blocks of a page, and a page for each tuple of blocks that share it."""

    def make(users: Sequence[tuple[int, ...]]) -> Manifest:
        made = simulated_manifest([PAGE] * 4)
        shared = [
            Shared(Extent((4 + index) * PAGE, PAGE), "", (), blocks)
            for index, blocks in enumerate(users)
        ]
        return msgspec.structs.replace(made, shared=tuple(shared), weights_nbytes=99 * PAGE)

    return make


def test_everything_stays_where_it_fits(
    manifest: Callable[[Sequence[tuple[int, ...]]], Manifest],
) -> None:
    made = manifest([(0, 1), (2, 3)])
    assert made.block_bytes == (2 * PAGE,) * 4
    assert next(kept_choices(made, 3 * PAGE)) == {0, 1}
    assert [*kept_choices(made, 2 * PAGE)] == [frozenset()]
    assert extents_of(made, 0) == (Extent(0, PAGE), Extent(4 * PAGE, PAGE))
    assert extents_of(made, 0, {0}) == (Extent(0, PAGE),)


def test_what_most_blocks_use_stays_first(
    manifest: Callable[[Sequence[tuple[int, ...]]], Manifest],
) -> None:
    made = manifest([(0, 1), (1, 2), (0, 1, 2, 3)])
    choices = [*kept_choices(made, 5 * PAGE)]
    assert choices == [{0, 1, 2}, {2}, set()]


def test_what_stays_of_equals_lies_evenly(
    manifest: Callable[[Sequence[tuple[int, ...]]], Manifest],
) -> None:
    made = manifest([(0, 1)] * 4 + [(2, 3)] * 4)
    assert max(made.block_bytes) == 5 * PAGE
    choices = [*kept_choices(made, 9 * PAGE)]
    assert choices[1] == {0, 2, 5, 7}
    assert choices[0] == set(range(8))
    assert choices[-1] == set()


def test_a_model_that_shares_nothing_has_one_choice(
    manifest: Callable[[Sequence[tuple[int, ...]]], Manifest],
) -> None:
    assert [*kept_choices(manifest([]), PAGE)] == [frozenset()]
