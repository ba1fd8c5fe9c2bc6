from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.builder.cutting.cut import CUT_COST_BYTES, Operator, Span, cut, live_bytes

LIMIT = 100


def operator(*weights_bytes: int, alone: bool = False) -> Operator:
    names = tuple(f"w{i}" for i in range(len(weights_bytes)))
    return Operator(names, weights_bytes, (), (), alone)


def chain(*weights_bytes: int) -> list[Operator]:
    return [
        Operator((f"w{i}",), (nbytes,), (f"v{i}",), (f"v{i + 1}",))
        for i, nbytes in enumerate(weights_bytes)
    ]


chains = st.lists(
    st.tuples(st.integers(0, 150), st.one_of(st.none(), st.integers(0, 5 << 20)), st.booleans()),
    min_size=1,
    max_size=15,
)


@settings(max_examples=100, deadline=None)
@given(chains)
def test_blocks_partition_within_the_limit(drawn: list[tuple[int, int | None, bool]]) -> None:
    live = [nbytes for _, nbytes, _ in drawn]
    operators = [
        Operator((f"w{i}",), (weights,), (), (), alone and None not in live[i : i + 2])
        for i, (weights, _, alone) in enumerate(drawn)
    ]
    spans = cut(operators, LIMIT, live)
    assert spans[0].start == 0
    assert spans[-1].stop == len(operators)
    assert all(before.stop == after.start for before, after in pairwise(spans))
    assert all(live[span.start] is not None for span in spans[1:])
    for span in spans:
        inside = range(span.start, span.stop)
        if sum(drawn[i][0] for i in inside) > LIMIT:
            assert all(live[i] is None for i in inside[1:])
        assert len(inside) == 1 or not any(operators[i].alone for i in inside)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5 << 20)), min_size=1, max_size=9))
def test_no_other_cut_is_cheaper(drawn: list[tuple[int, int]]) -> None:
    weights, live = [w for w, _ in drawn], [b for _, b in drawn]

    def cost(spans: list[Span]) -> int:
        return sum(CUT_COST_BYTES + live[span.start] for span in spans[1:])

    def every(start: int) -> list[list[Span]]:
        if start == len(weights):
            return [[]]
        return [
            [Span(start, stop), *rest]
            for stop in range(start + 1, len(weights) + 1)
            if sum(weights[start:stop]) <= LIMIT
            for rest in every(stop)
        ]

    best = min(map(cost, every(0)))
    assert cost(cut(chain(*weights), LIMIT, live)) == best


def test_a_weight_used_twice_in_a_block_counts_once() -> None:
    assert cut([operator(80), operator(80)], LIMIT, [0, 0]) == [Span(0, 2)]
    assert len(cut(chain(80, 80), LIMIT, [0, 0])) == 2


def test_lookups_are_blocks_by_themselves() -> None:
    operators = [operator(1), operator(0, alone=True), operator(2)]
    assert cut(operators, LIMIT, [0, 0, 0]) == [Span(0, 1), Span(1, 2), Span(2, 3)]


def test_thousands_without_weights_are_one_block() -> None:
    assert cut(chain(*[0] * 1000), LIMIT, [0] * 1000) == [Span(0, 1000)]


def test_live_tensors_are_those_read_later() -> None:
    operators = [
        Operator((), (), ("x",), ("a", "b", "unread")),
        Operator((), (), ("a",), ("c",)),
        Operator((), (), ("c",), ("d", "out")),
        Operator((), (), ("b", "d", "out"), ("e",)),
    ]
    nbytes: dict[str, int | None] = {"a": 1, "b": 10, "c": 100, "d": 1000, "out": 5, "unread": 7}
    assert live_bytes(operators, ["out"], nbytes) == [0, 11, 110, 1010]
    nbytes["c"] = None
    assert live_bytes(operators, ["out"], nbytes) == [0, 11, None, 1010]
