"""Logs of the scheduler: written, read, replayed and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.errors import InputError
from swapnet.executor.runtime.decisions import Decision, load_log, replay, save_log
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.scheduler import Instruction

JOB = Job("a", 7, 0.5, 1.0, 1.0, 2.5, 1, (("x", (3, 4)),))
OPENED = Decision("opened", ("shortest", 2, 3), (), 0.25)
LOADED = Decision("loaded", ("a", 0.0, 1.0, 4, True), (), 0.5)
ASKED = Decision("asked", (JOB,), (Instruction("serve", "a", (7,)),), 0.75)


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = [OPENED, LOADED, ASKED, Decision("divided", (1.0, {"a": 2.0}), (), 0.8)]
    save_log(log, tmp_path / "log.jsonl")
    assert load_log(tmp_path / "log.jsonl") == log
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_what_was_decided_otherwise_is_seen() -> None:
    """Events are the same, instructions are those of the scheduler."""
    wrong = ASKED._replace(instructions=(Instruction("refuse", "a", (7,)),))
    assert list(replay([OPENED, LOADED, wrong])) == [OPENED, LOADED, ASKED]


def test_a_replay_has_the_lanes_and_readers_and_policy_of_the_log() -> None:
    planned = Decision("planned", ("a", 0, (1, 2, 3, 4), (-9,) * 4))
    reads = [list(replay([OPENED, LOADED, planned]))[-1].instructions]
    one = Decision("opened", ("deadline", 1, 1))
    reads += [list(replay([one, LOADED, planned]))[-1].instructions]
    assert list(map(len, reads)) == [3, 1]
    with pytest.raises(InputError, match="no policy best"):
        list(replay([Decision("opened", ("best", 1, 1))]))
    begun = [
        *(Decision("loaded", (name, 0.0, 1.0)) for name in "bc"),
        *(Decision("planned", (name, 0, (0,), ())) for name in "bc"),
        *(
            Decision("asked", (JOB._replace(model=name, sequence=n),))
            for n, name in enumerate("bc")
        ),
        *(Decision("began", (name,)) for name in "bc"),
    ]
    steps = [
        sum(each.do == "step" for told in replay([opened, *begun]) for each in told.instructions)
        for opened in (OPENED, one)
    ]
    assert steps == [2, 1]


def test_a_decision_is_shown_in_one_line() -> None:
    assert str(ASKED) == "0.750000 asked a 7 -> serve a 7"
    two = (Instruction("resize", "", (5,)), Instruction("evict", "a", (3,)))
    assert str(Decision("done", ("a",), two)) == "0.000000 done a -> resize 5; evict a 3"
    assert str(Decision("refused", ("", "too\nlarge"))) == "0.000000 refused too large"


@pytest.mark.parametrize(
    "text",
    [
        *("[1, 2", "3", '["asked", [], [], 0.0]', '["a"]', '["a", [], [], 0.0]'),
        '["_dispatch", [], [], 0.0]',
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=r"log\.jsonl is no log of decisions"):
        load_log(path)
    with pytest.raises(InputError, match="nowhere is no log of decisions"):
        load_log(tmp_path / "nowhere")
