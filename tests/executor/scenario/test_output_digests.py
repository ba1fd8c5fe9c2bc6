"""Outputs are told apart, and go to the parent once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from swapnet.arrays import Array
from swapnet.executor.scenario.messages import Output
from swapnet.executor.scenario.output_digests import OutputDigests, digest_of, raw

EXPECTED: dict[str, Array] = {"y": np.array([1.0, -4.0], np.float32)}


def test_digests_see_names_types_shapes_and_every_byte() -> None:
    array = EXPECTED["y"]
    zeros = np.zeros(2, np.float32)
    different: list[dict[str, Array]] = [
        {"y": array},
        {"z": array},
        {"y": array.astype(np.float64)},
        {"y": array.reshape(1, 2)},
        {"y": np.array([1.0, -4.0000005], np.float32)},
        {"y": zeros},
        {"y": -zeros},
        {"y": array, "z": array},
        {"y": np.empty((0, 2), np.float32)},
        {"y": np.array(1.0, np.float32)},
    ]
    assert len({digest_of(arrays) for arrays in different}) == len(different)
    assert digest_of({"y": array.copy()}) == digest_of({"y": array})


class Parent:
    """What it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, bytes]] = []

    def __call__(self, message: msgspec.Struct, arrays: Sequence[Array]) -> None:
        self.told.append((message, b"".join(map(raw, arrays))))


def test_new_outputs_are_sent_once() -> None:
    """In C order, whatever order they have in memory."""
    parent = Parent()
    outputs: dict[str, Array] = {
        "y": np.arange(600_000, dtype=np.uint8)[::-1],
        "z": np.array(1.0),
        "t": np.arange(6.0).reshape(2, 3).T,
    }
    digests = OutputDigests([], parent)
    digest = digests.take(1, 2, outputs)
    assert digests.take(1, 2, outputs) == digest
    ((head, data),) = parent.told
    assert isinstance(head, Output)
    assert head.key == (1, 2, digest)
    assert [(t.name, t.dtype, t.shape) for t in head.tensors] == [
        ("y", "|u1", (600_000,)),
        ("z", "<f8", ()),
        ("t", "<f8", (3, 2)),
    ]
    assert data == b"".join(array.tobytes() for array in outputs.values())


def test_known_outputs_are_not_sent() -> None:
    parent = Parent()
    OutputDigests([(0, 0, digest_of(EXPECTED))], parent).take(0, 0, EXPECTED)
    assert not parent.told
