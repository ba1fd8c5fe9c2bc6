"""Moving residents inside one arena, in an order in which nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swapnet.executor.planning.plan import Place
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.relocation import moves

PAGE = 4096


def places(sizes: list[int], resident: set[int], shared: int) -> list[Place]:
    """Residents one after the other, the ring behind them."""
    result: list[Place] = []
    offset = shared
    for block, pages in enumerate(sizes):
        if block in resident:
            result.append(Place(offset, pages * PAGE, resident=True))
            offset += pages * PAGE
        else:
            result.append(Place(offset, pages * PAGE, resident=False))
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
    assert {move.block for move in found} == kept
    for block in kept:
        place = after[block]
        assert bytes(arena.view(place.offset, place.nbytes)) == bytes([block + 1]) * place.nbytes


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
