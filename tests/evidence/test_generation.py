"""Turns of sides, tables, and files of the benchmark of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from swapnet.builder.importing.gguf.importer import import_gguf
from swapnet.errors import BudgetError
from tests.evidence.generation_cases import (
    ROUNDS,
    Built,
    Case,
    Drafted,
    Key,
    Measured,
    Taken,
    Talk,
    spoken,
    tables,
)
from tests.evidence.generation_sides import Process, Sides
from tests.evidence.gguf_models import in_float32, seeded
from tests.evidence.talkers import Said, Talker
from tests.helpers.gguf_files import write_gguf

KEY = Key("e", 2, "onnxruntime-genai 0.18.0")
MIB = 1 << 20


def said(token_ms: float = 10.0, **fields: Any) -> Said:
    return Said([3, 4, 5], 30.0, token_ms, token_ms, **fields)


class Counting(Talker):
    def tokens(self, prompt: list[int]) -> Any:
        yield from range(100)


def test_an_answer_has_as_many_tokens_as_asked_for_or_two() -> None:
    assert Counting().talk([1], 5).tokens == [0, 1, 2, 3, 4]
    assert Counting().talk([1], 5, at_most_s=0).tokens == [0, 1]
    assert Counting().talk([1], 1).token_ms == 0
    assert len(Counting().run(3).latency_ms) == 3


class Fake:
    """A process that fails after some answers."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def talk(self, *_: Any) -> Said:
        if not self.answers:
            raise BudgetError("it was killed", why="too large")
        self.answers -= 1
        return said()


def test_a_peer_that_fails_does_not_go_on_and_ours_must_not_fail() -> None:
    sides = Sides()
    sides.processes |= {"ours": cast(Process, Fake(99)), "genai": cast(Process, Fake(1))}
    sides.attempt("llama", lambda: Fake(0).talk())
    assert list(sides.rounds(("ours", "genai", "llama"), [1], 3)) == list(range(ROUNDS))
    taken = sides.taken()
    assert {name: len(side.said) for name, side in taken.items()} == {
        **{"ours": ROUNDS, "genai": 1, "llama": 0}
    }
    assert taken["llama"].note == taken["genai"].note == "it was killed"
    assert sides.attempt("llama", lambda: 1) is None
    with pytest.raises(BudgetError):
        sides.attempt("ours", lambda: Fake(0).talk())


def a_case() -> Case:
    times = {"ours": 20.0, "again": 21.0, "paired": 22.0, "resident": 8.0, "unlimited": 4.0}
    sides = {name: Taken(said=[said(ms)] * ROUNDS) for name, ms in times.items()}
    sides["llama"] = Taken(said=[said(100.0)] * 3)
    sides["genai"] = Taken(said=[], note="it was killed")
    return Case(
        *("toy", "weights:25%", KEY, 60 * MIB, 20_000_000, [True, False], [1e9] * ROUNDS, sides)
    )


def test_the_bound_is_the_larger_of_reading_and_computing() -> None:
    case = a_case()
    assert case.bound_ms == [20.0] * ROUNDS
    assert case.ratio("paired", case.bound_ms) == pytest.approx(1.1)
    assert case.ratio("again", "ours") == pytest.approx(1.05)
    resident = Case("toy", "100%", KEY, MIB, 0, [], [0.0] * ROUNDS, case.sides)
    assert resident.bound_ms == [8.0] * ROUNDS


def test_tables_have_both_sides_and_say_who_failed() -> None:
    small = Case("toy", "half of the file", KEY, MIB, note="ours needs 9MiB")
    drafted = Drafted(KEY, "25%", {"new": [said(20)]}, {"new": [said(10.0, accepted=2)]})
    talk = Talk(KEY, [[1]], [said()], ["a text"])
    measured = Measured(Built(9.0, MIB, MIB), talk, [a_case(), small], drafted)
    page = "\n".join(tables([measured]))
    assert "| toy | weights:25% | 60MiB | 0B | 50.0 | 1.10 | 1.05 | 30 | 0B | 1 of 2 |" in page
    assert "| toy | weights:25% | 50.0 | 10.0 (5.0) | it was killed | 250.0 | 0.50 |" in page
    assert "ours needs 9MiB" in page
    assert "| toy | 25% | new | 50.0 | 100.0 | 2.00 | 0B | 0B | 2 of 3 |" in page
    assert list(spoken([measured])) == [
        "toy: at least 3 distinct tokens",
        "a text",
        "toy at weights:25%, genai: it was killed",
    ]


def test_files_to_measure_are_decoders(tmp_path: Path) -> None:
    path, sizes = tmp_path / "seeded.gguf", {"hidden": 64, "inner": 96, "vocabulary": 300}
    small = seeded(path, layers=1, heads=2, keys=1, **sizes)
    assert import_gguf(small, tmp_path / "folder") == 300 * 64 * 2 + 64 * 64 * 3 + 64 * 96 * 3 + 192
    source = write_gguf(tmp_path / "q4.gguf", "Q4_0")
    wide = GGUFReader(in_float32(source, tmp_path / "wide.gguf"))
    for mine, theirs in zip(wide.tensors, GGUFReader(source).tensors, strict=True):
        assert mine.name == theirs.name
        np.testing.assert_array_equal(mine.data, dequantize(theirs.data, theirs.tensor_type))
    import_gguf(tmp_path / "wide.gguf", tmp_path / "wide")
