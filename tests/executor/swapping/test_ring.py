"""Counts of a ring, against sets of what has landed and ended."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.swapping.ring import Ring


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_counts_are_those_of_sets(
    data: st.DataObject, steps: int, reads_per_step: int, ahead: int
) -> None:
    needs = [reads_per_step * (step + 1) for step in range(steps)]
    afters = [step - ahead for step in range(steps) for _ in range(reads_per_step)]
    ring = Ring(needs, afters)
    reads = len(afters)
    in_flight: list[int] = []
    landed: set[int] = set()
    claimed = ended = 0
    for _ in range(60):
        inference, index = divmod(claimed, reads)
        assert (ring.room > 0) == (ended > inference * steps + afters[index])
        assert ring.ahead == inference - ended // steps
        inference, step = divmod(ended, steps)
        assert (ring.lead >= 0) == (set(range(inference * reads + needs[step])) <= landed)
        assert set(range(ring.arrived)) <= landed
        assert ring.arrived not in landed
        could = (
            ["claim"] * (ring.room > 0) + ["land"] * bool(in_flight) + ["end"] * (ring.lead >= 0)
        )
        match data.draw(st.sampled_from(could)):
            case "claim":
                assert ring.claim() == claimed
                in_flight.append(claimed)
                claimed += 1
            case "land":
                number = data.draw(st.sampled_from(in_flight))
                in_flight.remove(number)
                landed.add(number)
                ring.land(number)
            case "end":
                ended += 1
                ring.end()


def test_a_plan_without_reads_is_always_fed() -> None:
    ring = Ring((0, 0), ())
    for _ in range(5):
        assert ring.lead >= 0
        assert ring.room < 0
        ring.end()
    assert ring.arrived == 0
