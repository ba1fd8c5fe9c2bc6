"""The command line called in this process, and as a child."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import pytest

from swapnet.builder import BuildOptions, build_with, child
from swapnet.builder.importing.source import open_source
from swapnet.builder.needs import needed_bytes
from swapnet.cli import main
from swapnet.manifest import Manifest
from swapnet.progress import Progress
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.processes import interruptible


@dataclass(frozen=True)
class Called:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def is_user_error(self, *words: str) -> bool:
        """Exit 2, one message of at most three lines after progress, all words in it."""
        progress = (" … ", ": needs at most about ")
        lines = [line for line in self.err.splitlines() if not any(p in line for p in progress)]
        text = "\n".join(lines)
        return (
            self.status == 2
            and text.count("swapnet: error:") == 1
            and len(lines) <= 3
            and "Traceback" not in self.err
            and all(word in text for word in words)
        )


Call = Callable[..., Called]


@pytest.fixture(autouse=True)
def _built_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are called build in this process: a child imports for half a second."""

    def build_here(
        options: BuildOptions,
        model: Path,
        folder: Path,
        *,
        progress: Progress,
        announce: Callable[[int], None] | None = None,
    ) -> Manifest:
        here = replace(options.checked(), process_per_block=False)
        if announce is not None:
            announce(needed_bytes(open_source(model), here))
        return build_with(here, model, folder, progress=progress)

    monkeypatch.setattr(child, "build_in_child", build_here)
    monkeypatch.setattr(import_module("swapnet.builder.build"), "build_in_child", build_here)


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """A small convolutional model."""
    return engine("images")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls ``swapnet`` with arguments."""

    def run(*arguments: object) -> Called:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Called(int(exit_.value.code or 0), captured.out, captured.err)

    return run


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``swapnet`` as a child in a process group of its own, which Ctrl-C ends."""

    def run(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "swapnet", *map(str, arguments)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    with interruptible():
        yield run
