from __future__ import annotations

from typing import Any

import pytest

from swapnet.builder.cutting.limits import choose_limits
from swapnet.errors import InputError

KIB, MIB = 1 << 10, 1 << 20
BACKENDS = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("weights_bytes", "session_bytes", "engine_bytes"),
    [(MIB, 286 * KIB, 4 * MIB), (480 * MIB, 6 * MIB, 40 * MIB), (4 << 30, 8 * MIB, 64 * MIB)],
)
def test_blocks_follow_the_weights(
    weights_bytes: int, session_bytes: int, engine_bytes: int
) -> None:
    chosen = {b: choose_limits(b, weights_bytes).max_block_bytes for b in BACKENDS}
    assert chosen["onnxruntime"] == chosen["onnxruntime-cuda"]
    assert session_bytes * 0.9 < chosen["onnxruntime"] < session_bytes * 1.1
    assert chosen["tensorrt"] == chosen["tensorrt-rtx"] == engine_bytes


def test_sessions_that_pack_are_fewer() -> None:
    plain = choose_limits("onnxruntime", 100 * MIB).max_block_bytes
    assert 1.4 < choose_limits("onnxruntime", 100 * MIB, packs=True).max_block_bytes / plain < 1.5


def test_a_smallest_budget_holds_four_blocks() -> None:
    limits = choose_limits("tensorrt-rtx", 480 * MIB, smallest_budget="32MiB")
    assert limits.max_block_bytes == limits.workspace_bytes == 8 * MIB
    assert limits.tactic_bytes == 32 * MIB
    assert choose_limits("onnxruntime", 480 * MIB, smallest_budget="4MiB").max_block_bytes == MIB
    large = choose_limits("onnxruntime", 480 * MIB, smallest_budget="1GiB")
    assert large.max_block_bytes == choose_limits("onnxruntime", 480 * MIB).max_block_bytes


def test_what_is_given_wins() -> None:
    limits = choose_limits(
        "tensorrt", MIB, max_block=5 * MIB, smallest_budget=64 * MIB, workspace="3MiB"
    )
    assert (limits.max_block_bytes, limits.workspace_bytes) == (5 * MIB, 3 * MIB)
    assert choose_limits("tensorrt", MIB).workspace_bytes == 16 * MIB
    assert choose_limits("tensorrt", 480 * MIB).workspace_bytes == 40 * MIB
    assert choose_limits("tensorrt", MIB).tactic_bytes is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_block": 4095}, "4095"),
        ({"smallest_budget": "16383B"}, "16383"),
        ({"smallest_budget": "small"}, "not a size"),
        ({"workspace": "1 mile"}, "not a size"),
    ],
)
def test_what_can_not_work_is_refused(options: dict[str, Any], word: str) -> None:
    for backend in BACKENDS:
        with pytest.raises(InputError, match=word):
            choose_limits(backend, MIB, **options)
