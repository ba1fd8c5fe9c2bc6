from __future__ import annotations

from itertools import combinations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.backends.onnxruntime import names_shapes
from swapnet.executor.planning.layout import (
    Interval,
    late_outputs,
    lay_out_values,
    lifetimes,
    pack,
)
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest, Tensor
from tests.helpers.engines import BuildToy

intervals = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(0, 8), st.integers(0, 8)), max_size=10
).map(
    lambda drawn: [
        Interval(f"v{i}", nbytes, min(ends), max(ends)) for i, (nbytes, *ends) in enumerate(drawn)
    ]
)


@settings(max_examples=100, deadline=None)
@given(intervals)
def test_what_lives_together_lies_apart(drawn: list[Interval]) -> None:
    layout = pack(drawn)
    ends = {item.name: layout.offsets[item.name] + item.nbytes for item in drawn}
    assert all(offset % TENSOR_ALIGNMENT == 0 for offset in layout.offsets.values())
    assert layout.nbytes == max(ends.values(), default=0)
    for a, b in combinations(drawn, 2):
        if a.first <= b.last and b.first <= a.last and a.nbytes and b.nbytes:
            starts = layout.offsets[a.name], layout.offsets[b.name]
            assert ends[a.name] <= starts[1] or ends[b.name] <= starts[0]
    assert pack(reversed(drawn)) == layout


def test_places_are_used_again() -> None:
    chain = [Interval(f"v{i}", 1024, i, i + 1) for i in range(10)]
    assert pack(chain).nbytes == 2048
    assert pack([]).nbytes == 0


def test_a_layout_takes_what_lives_at_once_where_that_can_be() -> None:
    """Placed by size alone they take 9 KiB: the last does not fit in the hole that is left."""
    drawn = [(3, 0, 3), (4, 0, 1), (3, 2, 4), (2, 2, 4)]
    values = [Interval(f"v{i}", n << 10, first, last) for i, (n, first, last) in enumerate(drawn)]
    assert pack(values).nbytes == 8 << 10


def test_values_live_from_their_birth_to_their_last_use(engine: BuildToy) -> None:
    manifest = engine("images").manifest
    spans = lifetimes(manifest)
    assert spans.keys() == manifest.lives.keys() == {value.name for value in manifest.values}
    operators = [len(block.operators) for block in manifest.blocks]
    for name, (first, last) in spans.items():
        born, dies = manifest.lives[name]
        assert sum(operators[:first]) <= born < sum(operators[: first + 1])
        assert sum(operators[:last]) <= dies < sum(operators[: last + 1])
        assert name in manifest.blocks[first].outputs
        assert last == first or name in manifest.blocks[last].inputs
        assert not any(name in block.inputs for block in manifest.blocks[last + 1 :])
    assert lay_out_values(manifest).offsets.keys() == spans.keys()


def test_values_of_unknown_size_are_not_placed(engine: BuildToy) -> None:
    manifest = engine("dynamic").manifest
    placed = {value.name for value in manifest.values} if names_shapes() else set()
    assert lay_out_values(manifest).offsets.keys() == placed
    assert not lay_out_values(msgspec.structs.replace(manifest, formulas={})).offsets


def test_an_output_lies_over_an_input_that_dies(engine: BuildToy) -> None:
    """A chain of three values, each of which may be written over the one before it."""
    manifest = engine("images").manifest
    values = tuple(Tensor(f"v{i}", "float32", (256,), 1024) for i in range(3))
    names = ["x", "v0", "v1", "v2", "y"]

    def made(last_reader: int) -> Manifest:
        blocks = [
            msgspec.structs.replace(
                manifest.blocks[0],
                index=i,
                inputs=(names[i], *(("v0",) if i == last_reader else ())),
                outputs=(names[i + 1],),
                inplace={names[i + 1]: names[i]},
            )
            for i in range(4)
        ]
        return msgspec.structs.replace(manifest, values=values, lives={}, blocks=tuple(blocks))

    together = lay_out_values(made(1))
    assert (set(together.offsets.values()), together.nbytes) == ({0}, 1024)
    apart = lay_out_values(made(3))
    assert apart.offsets["v1"] == apart.offsets["v2"] != apart.offsets["v0"]
    assert apart.nbytes == 2048


def test_an_output_takes_the_pages_of_values_that_have_died(engine: BuildToy) -> None:
    """Two values of 3 MiB, one of 4 KiB, then an output of 4 MiB."""
    manifest = engine("images").manifest
    sizes = {"v0": 3 << 20, "v1": 3 << 20, "v2": 4 << 10, "y": 4 << 20}
    tensors = {n: Tensor(n, "uint8", (nbytes,), nbytes) for n, nbytes in sizes.items()}
    names = ["x", *tensors]
    blocks = tuple(
        msgspec.structs.replace(
            manifest.blocks[0], index=i, inputs=(names[i],), outputs=(names[i + 1],), inplace={}
        )
        for i in range(4)
    )
    made = msgspec.structs.replace(
        manifest,
        values=tuple(tensors[name] for name in ("v0", "v1", "v2")),
        outputs=(tensors["y"],),
        lives={},
        blocks=blocks,
    )
    assert late_outputs(made, ()) == (3, 4 << 20)
    layout = lay_out_values(made)
    assert layout.nbytes == 6 << 20
    (span,) = layout.kept(3)
    assert span[0] <= layout.offsets["v2"] < span[1]
    assert span[1] - span[0] == 4 << 10
    large = msgspec.structs.replace(tensors["y"], shape=(8 << 20,), nbytes=8 << 20)
    small = msgspec.structs.replace(tensors["y"], shape=(1 << 10,), nbytes=1 << 10)
    # More than the dead values can't be counted once, and small outputs have no pages of their own.
    assert late_outputs(msgspec.structs.replace(made, outputs=(large,)), ()) == (
        3,
        (6 << 20) - 4096,
    )
    assert late_outputs(msgspec.structs.replace(made, outputs=(small,)), ()) == (0, 0)
