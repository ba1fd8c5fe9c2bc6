"""A trtexec command line: options by name, notices, and one error for what can't be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf, nan

from swapnet.cli.trtexec.options import OPTIONS
from swapnet.errors import InputError
from swapnet.executor.bench.rounds import check_duration

__all__ = ["NUMBERS", "Line", "parse_line"]

NUMBERS: Mapping[str, tuple[float, float]] = {
    "--iterations": (10, 1),
    "--warmUp": (200, 0),
    "--duration": (3, -inf),
    "--idleTime": (0, 0),
    "--avgRuns": (10, 1),
    "--device": (0, 0),
    "--accuracyThreshold": (0, 0),
    "--atol": (1e-5, 0),
    "--rtol": (1e-5, 0),
}
"""Default and least value of options that are numbers; `check_duration` knows more of one."""


@dataclass(frozen=True)
class Line:
    """Options of a line that a user typed.

    Attributes
    ----------
    values
        Values of mapped options by name; ``""`` for flags.
    notices
        One sentence for each option that changes nothing here.
    """

    values: Mapping[str, str]
    notices: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether one of these options was given."""
        return any(name in self.values for name in names)

    def text(self, name: str) -> str | None:
        """The value of an option; None where it was not given."""
        return self.values.get(name)

    def number(self, name: str) -> float:
        """The value of an option in `NUMBERS`, or its default.

        Raises
        ------
        InputError
            It is no number, or too small.
        """
        otherwise, least = NUMBERS[name]
        given = self.values.get(name, str(otherwise))
        try:
            value = float(given)
        except ValueError:
            value = nan
        if not value >= least:
            raise InputError(
                f"{name}={given} is invalid",
                why=f"it must be a number, at least {least}",
                hint=f"write it like {name}={otherwise:g}",
            )
        return value


def parse_line(arguments: Sequence[str]) -> Line:
    """Read ``--key=value``, as trtexec does, and ``--key value``.

    Raises
    ------
    InputError
        An option is unknown, refused, given twice, or lacks its value, a number is invalid, or two
        options do not go together.
    """
    values: dict[str, str] = {}
    notices: list[str] = []
    rest = list(arguments)
    while rest:
        written = rest.pop(0)
        name, equals, value = written.partition("=")
        option = OPTIONS.get(name)
        if option is None:
            raise _unknown(name)
        if option.takes_value and not equals:
            if not rest or rest[0].partition("=")[0] in OPTIONS:
                raise InputError(
                    f"{name} needs a value",
                    why="trtexec joins it by an equals sign",
                    hint=f"write it like {name}=VALUE",
                )
            value = rest.pop(0)
        if option.treatment == "refused" and value not in option.harmless:
            raise InputError(
                f"{written} is not for SwapNet",
                why="nothing here does what it asks for",
                hint=option.text,
            )
        if option.treatment == "refused":
            notices.append(f"{name}={value} is as it is anyway")
        elif option.treatment == "noticed":
            notices.append(f"{name} changes nothing: {option.text}")
        elif name in values:
            raise InputError(
                f"{name} is given twice",
                why=f"as {values[name]!r} and as {value!r}",
                hint="give it once",
            )
        else:
            values[name] = value
    if "--loadEngine" in values and "--saveEngine" in values:
        raise InputError(
            "--loadEngine and --saveEngine do not go together",
            why="an engine is loaded, or built and saved; so it is in trtexec",
            hint="leave one of them out",
        )
    if "--loadEngine" in values and values.pop("--onnx", None) is not None:
        notices.append("--onnx changes nothing: --loadEngine names an engine that is built")
    line = Line(values, tuple(notices))
    for name in NUMBERS.keys() & values.keys():
        line.number(name)
    check_duration(line.number("--duration"))
    return line


def _unknown(name: str) -> InputError:
    close = get_close_matches(name, OPTIONS, 1)
    if not name.startswith("-"):
        return InputError(
            f"{name!r} is no option",
            why="trtexec takes options only, joined to their values by an equals sign",
            hint="write it like --onnx=MODEL.onnx or --loadEngine=DIR",
        )
    return InputError(
        f"unknown option {name}",
        why="trtexec 11.1 has no such option, nor had one before it, nor is it SwapNet's",
        hint=f"did you mean {close[0]}?" if close else "swapnet trtexec --help shows all options",
    )
