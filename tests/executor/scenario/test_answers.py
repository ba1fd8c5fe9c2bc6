"""Outputs are the same, near enough where requests were joined, or wrong."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from swapnet.arrays import Array
from swapnet.executor.scenario.answers import Answers
from swapnet.executor.scenario.digests import Digests, digest_of
from swapnet.executor.scenario.messages import PIECE_BYTES, Output, Piece

EXPECTED: dict[str, Array] = {"y": np.array([1.0, -4.0], np.float32)}


@pytest.mark.parametrize(
    ("outputs", "near"),
    [
        ({"y": np.array([1.00001, -4.0], np.float32)}, True),
        ({"y": np.array([1.001, -4.0], np.float32)}, False),
        ({"y": np.array([1.0, -4.0], np.float64)}, False),
        ({"y": np.array([[1.0, -4.0]], np.float32)}, False),
        ({"z": EXPECTED["y"]}, False),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_only_joined_requests_may_differ(
    outputs: dict[str, Array], near: bool, joined: bool
) -> None:
    answers = Answers([joined])
    answers.expect((0, 0, "a"), EXPECTED)
    answers.judge({(0, 0, "b"): outputs})
    assert answers.are_right((0, 0, "a"))
    assert answers.are_right((0, 0, "b")) == (near and joined)
    assert not answers.are_right((0, 1, "a"))
    assert answers.known[0] == (0, 0, "a")


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


def test_new_outputs_are_sent_once_and_in_pieces() -> None:
    said: list[msgspec.Struct] = []
    outputs = {"y": np.arange(PIECE_BYTES, dtype=np.uint8).repeat(2)[::-1], "z": np.array(1.0)}
    digests = Digests([], said.append)
    digest = digests.take(1, 2, outputs)
    assert digests.take(1, 2, outputs) == digest
    head, *pieces = said
    assert isinstance(head, Output)
    assert head.key == (1, 2, digest)
    assert [(t.name, t.dtype, t.shape) for t in head.tensors] == [
        ("y", "|u1", (2 * PIECE_BYTES,)),
        ("z", "<f8", ()),
    ]
    data = b"".join(piece.data for piece in pieces if isinstance(piece, Piece))
    assert data == outputs["y"].tobytes() + outputs["z"].tobytes()
    assert len(pieces) == 3


def test_known_outputs_are_not_sent() -> None:
    said: list[msgspec.Struct] = []
    Digests([(0, 0, digest_of(EXPECTED))], said.append).take(0, 0, EXPECTED)
    assert not said
