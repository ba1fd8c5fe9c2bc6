"""Moving residents inside one arena, in an order in which nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swapnet.executor.planning.plan import Place
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.relocation import moves
from swapnet.manifest import Extent

PAGE = 4096


def places(sizes: list[int], resident: set[int], shared: int) -> list[Place]:
    """Residents one after the other, the ring behind them."""
    result: list[Place] = []
    offset = shared
    for block, pages in enumerate(sizes):
        extents = (Extent(block * PAGE, pages * PAGE),)
        result.append(Place(offset, extents, resident=block in resident))
        offset += pages * PAGE if block in resident else 0
    return result


@given(st.data(), st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 2))
def test_everything_that_stays_arrives(data: st.DataObject, sizes: list[int], shared: int) -> None:
    blocks = st.sets(st.integers(0, len(sizes) - 1))
    before = places(sizes, data.draw(blocks), shared * PAGE)
    after = places(sizes, data.draw(blocks), shared * PAGE)
    arena = Arena((shared + sum(sizes) + 1) * PAGE)
    for block, place in enumerate(before):
        if place.resident:
            arena.fill(place.offset, place.nbytes, block + 1)
    found = moves(before, after)
    for move in found:
        arena.move(move.source, move.target, move.nbytes)
    kept = {
        block
        for block, (old, new) in enumerate(zip(before, after, strict=True))
        if old.resident and new.resident and new.nbytes
    }
    assert {move.position for move in found} == kept
    for block in kept:
        place = after[block]
        assert bytes(arena.view(place.offset, place.nbytes)) == bytes([block + 1]) * place.nbytes


def test_other_bytes_in_the_same_place_are_read() -> None:
    """A block that keeps its copy of shared weights lies beside one that has them apart."""
    one, other = (Place(0, (Extent(n * PAGE, PAGE),), resident=True) for n in range(2))
    assert [len(moves([one], [each])) for each in (one, other)] == [1, 0]


def test_an_arena_keeps_its_bytes_when_it_grows_and_shrinks() -> None:
    arena = Arena(2 * PAGE)
    arena.fill(0, 2 * PAGE, 7)
    arena.resize(1000 * PAGE)
    assert arena.nbytes == 1000 * PAGE
    assert bytes(arena.view(PAGE, 2 * PAGE)) == bytes([7]) * PAGE + bytes(PAGE)
    arena.resize(PAGE)
    assert bytes(arena.view(0, PAGE)) == bytes([7]) * PAGE
    arena.discard()
    assert bytes(arena.view(0, PAGE)) == bytes(PAGE)
