"""The command line: one module per command, loaded when it is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword
from types import FrameType
from typing import Any

import click

from swapnet.cli.console import log_lines, print_text, say, with_words
from swapnet.errors import InputError, SwapnetError
from swapnet.version import VERSION

__all__ = ["cli", "main"]

_COMMANDS: Mapping[str, str] = {
    "build": "Cut a model into blocks and compile each to its engine.",
    "import": "Write a GGUF file as the ONNX folder of a language model.",
    "plan": "Show whether a model fits a budget, and its latency.",
    "run": "Run one inference inside a budget.",
    "generate": "Continue a text with a language model inside a budget.",
    "bench": "Measure latency and memory against the unswapped model.",
    "trtexec": "Take a whole line of trtexec, and answer in its words.",
    "accuracy": "Compare a model in lower precision with its reference.",
    "measure": "Measure this device: block times and storage.",
    "try": "Plan, build, swap and compare a model, and say how that went.",
    "quantize": "Write a model in int8 or float16, from representative inputs.",
    "inspect": "Show the blocks of an engine.",
    "verify": "Compare all checksums of an engine.",
    "repack": "Pack an engine's weights again for this processor.",
    "models": "Get and run the models of the zoo.",
    "scenario": "Run several DNNs under one budget.",
    "doctor": "Show what is installed, what works here, and how to get the rest.",
}


_RENAMED: Mapping[str, str] = {"calibrate": "measure"}
"""Former names of commands, which work with a notice for one version."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _RENAMED:
            former, cmd_name = cmd_name, _RENAMED[cmd_name]
            say(f"swapnet {former} is now called swapnet {cmd_name}")
        if cmd_name not in _COMMANDS:
            return None
        module = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = import_module(f"swapnet.cli.{module}").command
        return with_words(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            found = super().resolve_command(ctx, args)
        except click.UsageError as error:
            if close := get_close_matches(args[0], _COMMANDS, 1):
                ctx.fail(f"{error.message} Did you mean {close[0]!r}?")
            raise
        if found[1] is not None:
            _refuse_repeated(found[1], ctx, found[2])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _refuse_repeated(command: click.Command, parent: click.Context, args: Sequence[str]) -> None:
    """Refuse a second value of an option that takes one: click would take the last silently."""
    context = click.Context(command, parent, command.name, **command.context_settings)
    with suppress(click.UsageError):  # click says it when it parses them itself
        _, rest, order = command.make_parser(context).parse_args(list(args))
        for given in order:
            takes_one = isinstance(given, click.Option) and not (given.is_flag or given.multiple)
            if takes_one and (count := order.count(given)) > 1:
                raise InputError(
                    f"{given.opts[0]} is given {count} times",
                    why="it takes one value",
                    hint="give it once",
                )
        if isinstance(command, click.Group) and rest:
            inside = command.get_command(context, rest[0])
            if inside is not None:
                _refuse_repeated(inside, context, rest[1:])


_LIBRARIES = (
    *("onnxruntime", "onnxruntime-gpu", "tensorrt"),
    *("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "pycuda"),
)
"""Packages of the backends."""


def _print_versions(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    from importlib.metadata import PackageNotFoundError, version

    if not wanted or context.resilient_parsing:
        return
    click.echo(f"swapnet, version {VERSION}")
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            click.echo(f"{name} {version(name)}")
    context.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Complete words with Tab: eval "$(_SWAPNET_COMPLETE=bash_source swapnet)" in ~/.bashrc, '
    "zsh_source in ~/.zshrc.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_versions,
    help="Show the versions of SwapNet and of the backends that are installed.",
)
def cli() -> None:
    """Run deep networks that do not fit in memory.

    \b
    swapnet build MODEL.onnx -o engines/mine
    swapnet plan engines/mine --budget 64MiB
    swapnet run engines/mine --budget 64MiB --input image=photo.npy --output out.npz
    swapnet bench engines/mine --budget weights:25% --compare
    """


with_words(cli)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit: 2 for a user's error, 130 for Ctrl-C, 143 for SIGTERM.

    Parameters
    ----------
    arguments
        Arguments; by default those of the process, which is then ours alone (see `ThreadPool`).
    """
    with _interrupts() as interrupted, log_lines():
        try:
            status = cli.main(
                arguments, prog_name="swapnet", standalone_mode=False, obj=arguments is None
            )
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            sys.exit(1)
        except (Exception, KeyboardInterrupt) as error:
            if interrupted or isinstance(error, (KeyboardInterrupt, click.Abort)):
                with suppress(OSError):  # the terminal may have gone
                    click.echo("swapnet: interrupted", err=True)
                sys.exit(128 + next(iter(interrupted), signal.SIGINT))
            if isinstance(error, FileNotFoundError) and not _has_working_folder():
                error = SwapnetError(
                    "the working folder is gone",
                    why="it was removed after this shell entered it",
                    hint="go to another folder: cd",
                )
            if not isinstance(error, SwapnetError):
                raise error
            print_text(f"swapnet: error: {error}".replace("\n", "\n  "), err=True)
            sys.exit(2)
    sys.exit(status or 0)


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The signals that came: a library that is just being imported turns one into an ImportError.

    SIGTERM and SIGHUP end a command as Ctrl-C does. While it cleans up only Ctrl-C stops that.
    """
    interrupted: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        if not interrupted or number == signal.SIGINT:
            interrupted.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {signal.SIGINT: signal.signal(signal.SIGINT, remember)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            before[number] = signal.signal(number, remember)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
