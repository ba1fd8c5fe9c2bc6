"""What a terminal, a pipe, ``-q`` and ``-v`` show."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import version

import click
import pytest

from swapnet.cli import cli
from swapnet.cli.console import log_lines, print_table, print_text, progress, say, with_words
from swapnet.version import VERSION
from tests.cli.conftest import Call
from tests.helpers.engines import Engine

LONG = "Constants of type float32 take 12.5 MiB and can't be swapped: operators need their values."


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Both streams are a terminal of 40 columns."""
    del capsys  # the class of its streams is patched
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    monkeypatch.setattr(type(sys.stdout), "fileno", lambda _: 0)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def words(request: pytest.FixtureRequest) -> Iterator[None]:
    """A command that was called with ``--quiet`` or ``--verbose``."""
    command = with_words(click.Command("any"))
    with log_lines(), command.make_context("any", [request.param]):
        yield


def commands(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    """All commands, by the words that call them."""
    yield " ".join(names), command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inside = command.get_command(click.Context(command), name)
            assert inside is not None
            yield from commands(inside, *names, name)


def test_every_command_takes_both_options() -> None:
    for name, command in commands(cli):
        if name == "trtexec":  # its line is read as trtexec reads it
            continue
        given = [option for parameter in command.params for option in parameter.opts]
        assert [given.count(o) for o in ("-q", "--quiet", "-v", "--verbose")] == [1] * 4, name


@pytest.mark.usefixtures("terminal")
def test_lines_are_wrapped_between_words_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(f"{LONG}\n  indented {LONG}")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 40
    assert shown.split() == f"{LONG} indented {LONG}".split()
    assert all(line.startswith("  ") for line in shown.splitlines()[4:])


def test_lines_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(LONG)
    assert capsys.readouterr().out == f"{LONG}\n"


@pytest.mark.usefixtures("terminal")
def test_a_terminal_without_a_size_has_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")

    def unknown(_: int) -> None:
        raise OSError

    monkeypatch.setattr("os.get_terminal_size", unknown)
    print_text(LONG)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_pipe_gets_a_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("mine") as report:
        report("open", 0, 1)
        for done in range(3):
            report(f"measure, median {done} ms", done, 3)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("mine: open … ")
    assert second.startswith("mine: measure (3 parts) … ")


def test_a_short_job_prints_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("mine", lines=False) as report:
        report("open", 0, 1)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_line_that_goes_when_the_job_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("mine") as report:
        report("open", 0, 1)
        report("samples", 5, 0)
        report("measure, median 2 ms", 3, 9)
        say("a line beside it")
    shown = capsys.readouterr().err
    assert "mine" in shown
    assert "a line beside it\n" in shown.replace("\r", "")
    assert shown.endswith("\x1b[2K")


@pytest.mark.usefixtures("terminal")
def test_a_dumb_terminal_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with progress("mine") as report:
        report("open", 0, 1)
    shown = capsys.readouterr().err
    assert shown.startswith("mine: open … ")
    assert "\x1b" not in shown


@pytest.mark.parametrize("words", ["--quiet"], indirect=True)
@pytest.mark.usefixtures("terminal", "words")
def test_quiet_leaves_results(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("mine") as report:
        report("open", 0, 1)
    say("for information")
    print_text("a result")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("a result\n", "")


@pytest.mark.parametrize("words", ["--verbose"], indirect=True)
@pytest.mark.usefixtures("terminal", "words")
def test_verbose_keeps_the_stages_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("mine", lines=False) as report:
        report("open", 0, 1)
    assert "mine: open … 0.0 s" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_colours_go_with_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    print_table("A title", ["name", "ms"], [("a", "1.0")])
    assert "\x1b[3" not in capsys.readouterr().out.replace("\x1b[3m", "")


@pytest.mark.usefixtures("terminal")
def test_titles_are_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("A title of more words than columns", ["a", "b"], [("c", "1.0")])
    assert capsys.readouterr().out.splitlines()[0] == "A title of more words than columns"


@pytest.mark.usefixtures("terminal")
def test_columns_move_together_before_words_break(capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["name", "median ms", "share", "failed", "wrong"]
    print_table("", columns, [("characters", "23350", "119.1MiB", "0", "0")])
    out = click.unstyle(capsys.readouterr().out)
    assert all(word in out for word in ("characters", "median", "23350", "119.1MiB", "failed"))
    assert all(len(line) <= 40 for line in out.splitlines())


@pytest.mark.parametrize("before", [True, False])
def test_verbose_shows_what_is_chosen(call: Call, toy: Engine, before: bool) -> None:
    arguments = ["run", toy.folder, "--budget", "100%"]
    ran = call("-v", *arguments) if before else call(*arguments, "-v")
    assert ran.status == 0
    assert "images: open" in ran.err or "engine: open" in ran.err
    assert "swapnet: " in ran.err
    assert "plan for" in ran.err
    assert "sessions" in ran.err
    assert not logging.getLogger("swapnet").isEnabledFor(logging.INFO)


def test_quiet_commands_print_their_results_and_errors(call: Call, toy: Engine) -> None:
    ran = call("run", "-q", toy.folder, "--budget", "100%")
    assert (ran.status, ran.err) == (0, "")
    assert "ms" in ran.out
    assert call("-q", "run", toy.folder, "--budget", "1KiB").is_user_error("1KiB")
    assert json.loads(call("inspect", toy.folder, "-q", "--json", "-").out)["blocks"]


def test_warnings_of_the_library_are_shown(
    call: Call, toy: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: object) -> None:
        logging.getLogger("swapnet.any").warning("storage is slow")

    monkeypatch.setattr("swapnet.cli.verify.check_weights", warn)
    assert "swapnet.any: storage is slow" in call("verify", "-q", toy.folder).err


def test_the_version_is_shown_with_those_of_backends(call: Call) -> None:
    first, *others = call("--version").out.splitlines()
    assert first == f"swapnet, version {VERSION}"
    assert f"onnxruntime {version('onnxruntime')}" in others


def test_a_library_prints_nothing_by_itself() -> None:
    handlers = logging.getLogger("swapnet").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]


def test_the_help_says_how_to_complete_words(call: Call) -> None:
    assert "_SWAPNET_COMPLETE=bash_source" in call("--help").out
