from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapnet.executor.runtime.batching import agree, join, kind_of, largest_batch, part, rows_of
from swapnet.manifest import Manifest, Tensor
from tests.helpers.engines import BuildToy

ROWS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(rows=ROWS)
def test_what_is_joined_is_parted_again(rows: list[int]) -> None:
    random = np.random.default_rng(0)
    requests = [
        {"x": random.standard_normal((n, 3)), "ids": random.integers(0, 9, (n, 2, 2))} for n in rows
    ]
    joined = join(requests)
    assert rows_of(joined) == sum(rows)
    parts = part(joined, rows)
    assert len(parts) == len(requests)
    for one, request in zip(parts, requests, strict=True):
        assert one.keys() == request.keys()
        assert all(np.array_equal(one[name], request[name]) for name in one)
    if len(rows) > 1:
        assert not any(np.shares_memory(one["x"], joined["x"]) for one in parts)


def test_one_request_is_not_copied() -> None:
    array = np.zeros((2, 3))
    assert join([{"x": array}])["x"] is array
    assert part({"y": array}, [2])[0]["y"] is array


def test_requests_that_differ_in_their_rows_only_are_of_one_kind() -> None:
    kind = kind_of({"x": np.zeros((1, 3)), "mask": np.zeros((1, 4))})
    assert kind == kind_of({"mask": np.zeros((5, 4)), "x": np.zeros((5, 3))})
    assert kind != kind_of({"x": np.zeros((1, 3)), "mask": np.zeros((1, 5))})
    assert kind_of({"x": np.zeros((1, 3)), "mask": np.zeros((2, 4))}) is None


def test_joined_requests_agree_up_to_rounding() -> None:
    one = {"y": np.array([[1e3, 1.0, np.nan, -np.inf]], np.float32), "n": np.array([[1, 2]])}
    assert agree([one], [one])
    rounded = {**one, "y": one["y"] * np.float32(1 + 1e-6)}
    assert agree([one, rounded], [rounded, one])
    for name, array in (
        ("y", one["y"] * 1.01),
        ("y", one["y"][:, :2]),
        ("y", np.nan_to_num(one["y"])),
        ("n", one["n"] + 1),
        ("n", one["n"][:0]),
    ):
        assert not agree([one, one], [one, {**one, name: array}])


def changed(manifest: Manifest, **shapes: tuple[int | str, ...]) -> Manifest:
    def reshaped(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(msgspec.structs.replace(t, shape=shapes.get(t.name, t.shape)) for t in tensors)

    return msgspec.structs.replace(
        manifest, inputs=reshaped(manifest.inputs), outputs=reshaped(manifest.outputs)
    )


@pytest.mark.parametrize(
    ("shapes", "planned", "rows"),
    [
        ({"x": ("batch",), "y": ("batch",)}, (4,), 4),
        ({"x": ("batch", 3), "y": ("batch",)}, (4, 3), 4),
        ({"x": ("batch",), "y": ("batch",)}, (1,), 1),
        ({"x": ("batch",), "y": ("other",)}, (4,), 1),
        ({"x": ("batch",), "y": (4,)}, (4,), 1),
        ({"x": (4,), "y": (4,)}, (4,), 1),
        ({"x": ("batch",), "y": ()}, (4,), 1),
        ({"x": (), "y": ()}, (), 1),
    ],
)
def test_rows_vary_where_all_first_axes_are_one_symbol(
    engine: BuildToy, shapes: dict[str, tuple[int | str, ...]], planned: tuple[int, ...], rows: int
) -> None:
    toy = engine("used-twice").manifest
    names = {"x": toy.inputs[0].name, "y": toy.outputs[0].name}
    manifest = changed(toy, **{names[name]: shape for name, shape in shapes.items()})
    manifest = msgspec.structs.replace(manifest, planned_shapes={names["x"]: planned})
    assert largest_batch(manifest) == rows
