"""A process that answers in lines and bytes, or dies before it has."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from swapnet.errors import BackendError, BudgetError
from swapnet.process import child as child_module
from swapnet.process.child import Child, forked
from swapnet.process.failure import failure_of

pytestmark = pytest.mark.slow

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a process that writes bytes, says something and ends with status 3."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *sys.path)))

    def started(
        written: bytes, last: str = "sys.exit(3)", patience_s: float | None = None
    ) -> Child:
        (tmp_path / "written").write_bytes(written)
        (tmp_path / "answering.py").write_text(
            "import pathlib, sys, time\n"
            f"sys.stdout.buffer.write(pathlib.Path({str(tmp_path / 'written')!r}).read_bytes())\n"
            "sys.stdout.flush()\n"
            "print('out of paper', file=sys.stderr, flush=True)\n"
            f"{last}\n"
        )
        return Child("answering", "the process that answers", patience_s=patience_s)

    return started


def test_bytes_follow_a_line_as_they_are(start: Start) -> None:
    data = bytes(range(256)) * 4096
    with start(b'{"size": 1}\n' + data + b'"end"\n') as child:
        assert child.hear() == {"size": 1}
        assert child.take(0) == b""
        assert child.take(len(data)) == data
        assert child.hear() == "end"


@pytest.mark.parametrize("written", [b"", b'{"size": 9}\n', b'{"size"', b'{"size": 9}\nfew'])
def test_a_process_that_dies_before_it_has_answered_says_why(start: Start, written: bytes) -> None:
    """Within a line, or within the bytes after it."""
    with start(written) as child:
        last: Callable[[], object] = child.hear
        if b"\n" in written:
            assert child.hear() == {"size": 9}
            last = partial(child.take, 9)
        with pytest.raises(BackendError, match="the process that answers ended with status 3") as e:
            last()
        assert e.value.why == "out of paper"


def test_our_error_is_raised_again(start: Start) -> None:
    error = BudgetError("too small", why="9 of 10", hint="give 10", smallest_bytes=10)
    with (
        start(msgspec.json.encode(failure_of(error)) + b"\n") as child,
        pytest.raises(BudgetError, match="too small") as found,
    ):
        child.hear()
    assert found.value.smallest_bytes == 10


def test_a_process_whose_parent_has_gone_does_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    last = "from swapnet.process.serve import serve; sys.exit(serve(lambda parent: print('works')))"
    with start(b"", last) as child, pytest.raises(BackendError, match="ended with status 1") as e:
        child.hear()
    assert e.value.why == "out of paper"


def test_a_process_that_is_silent_is_ended(start: Start) -> None:
    with (
        start(b"", "time.sleep(60)", patience_s=0.5) as child,
        pytest.raises(BackendError, match="the process that answers is too slow"),
    ):
        child.hear()


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that names its process, and obeys what it is told."""
    (tmp_path / "serving.py").write_text(
        "import logging, os, signal\n"
        "loaded_by = os.getpid()\n"
        "def work(parent):\n"
        "    parent.answer({'pid': os.getpid(), 'parent': os.getppid(), 'loaded': loaded_by})\n"
        "    for told in parent.commands(str):\n"
        "        if told == 'crash':\n"
        "            raise RuntimeError('out of paper')\n"
        "        handlers = len(logging.getLogger('swapnet').handlers)\n"
        "        term = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        "        parent.answer([told, handlers, term, sorted(os.listdir('/proc/self/fd'))])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *sys.path)))
    yield "serving"
    sys.modules.pop("serving", None)


def test_a_forked_process_is_the_next_child_of_its_module(serving: str) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with forked(serving), Child(serving, "the process that serves") as child:
            found = child.hear()
            assert found["parent"] == found["loaded"] == os.getpid() != found["pid"]
            child.tell("hello")
            told, handlers, is_default, files = child.hear()
            assert (told, handlers, is_default) == ("hello", 0, True)
            assert len(files) <= 5, "it keeps no file of its parent open"
            child.tell("crash")
            with pytest.raises(BackendError, match="the process that serves ended with") as caught:
                child.hear()
            assert caught.value.why == "RuntimeError: out of paper"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_process_that_nobody_takes_ends(serving: str) -> None:
    with forked(serving):
        assert child_module._WAITING.keys() == {serving}
        ((process, _),) = child_module._WAITING[serving]
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    assert not child_module._WAITING


def test_a_process_with_an_interpreter_of_its_own_is_never_a_forked_one(serving: str) -> None:
    with forked(serving), Child(serving, "it", python=Path(sys.executable)):
        assert child_module._WAITING.keys() == {serving}
