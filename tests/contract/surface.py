"""What a version of the bindings offers: classes, their members, and what these take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

__all__ = ["Member", "Signature", "Surface", "describe", "parse_signature"]

Kind = Literal["class", "function", "property", "value"]

_OPEN, _CLOSE = "([{<", ")]}>"


@dataclass(frozen=True)
class Parameter:
    """One that a function takes; ``type`` as pybind11 spells it."""

    name: str
    type: str
    required: bool


@dataclass(frozen=True)
class Signature:
    """One of the ways to call a function, its ``self`` included.

    Attributes
    ----------
    parameters
        In order.
    returns
        The type.
    """

    parameters: tuple[Parameter, ...]
    returns: str

    def fits(
        self, arguments: Sequence[str], keywords: Sequence[str], *, bound: bool, classes: set[str]
    ) -> bool:
        """Whether it takes these arguments, known by their classes where they are of `classes`."""
        parameters = self.parameters[1:] if bound else self.parameters
        by_position, rest = parameters[: len(arguments)], parameters[len(arguments) :]
        return (
            len(arguments) <= len(parameters)
            and {*keywords} <= {parameter.name for parameter in rest}
            and all(p.name in keywords for p in rest if p.required)
            and all(
                argument == parameter.type
                for argument, parameter in zip(arguments, by_position, strict=True)
                if argument in classes and parameter.type in classes
            )
        )


@dataclass(frozen=True)
class Member:
    """Of a class or of the module.

    Attributes
    ----------
    type
        The class itself, or that of a value or of what a property holds.
    readable, writable
        A property.
    signatures
        Of a function, or of making an object of a class.
    """

    kind: Kind
    type: str
    readable: bool
    writable: bool
    signatures: tuple[Signature, ...]


class Surface:
    """All of a module.

    Parameters
    ----------
    version
        The one that was asked for.
    backend
        Which library it is of.
    described
        See `describe`.
    """

    def __init__(self, version: str, backend: str, described: dict[str, Any]) -> None:
        self.version = version
        self.backend = backend
        self.exact_version: str = described["version"]
        self._members = {
            owner: {name: _member(**fields) for name, fields in members.items()}
            for owner, members in described["members"].items()
        }
        self.classes = set(self._members) - {""}

    def find(self, owner: str, name: str) -> Member | None:
        """A member of a class, or of the module, whose name is empty; None where there is none."""
        return self._members.get(owner, {}).get(name)


def describe(trt: ModuleType) -> dict[str, Any]:
    """What `Surface` is made of, as JSON can carry it: run where the bindings are."""
    members: dict[str, Any] = {}
    classes = {"": _public(trt)}
    while classes:
        owner, found = classes.popitem()
        members[owner] = {name: _described(value) for name, value in found.items()}
        for value in found.values():
            if isinstance(value, type) and value.__qualname__ not in members:
                classes[value.__qualname__] = _public(value)
    return {"version": trt.__version__, "members": members}


def parse_signature(text: str) -> Signature:
    """``name(self: Class, value: int = 0) -> bool``."""
    start = text.index("(")
    end = _closing(text, start)
    parameters = tuple(_parameters(text[start + 1 : end]))
    return Signature(parameters, text[end + 1 :].strip().removeprefix("->").strip())


def _public(owner: Any) -> dict[str, Any]:
    names = (name for name in dir(owner) if name == "__version__" or not name.startswith("__"))
    kept = (*names, *(("__init__", "__members__") if isinstance(owner, type) else ()))
    return {
        name: getattr(owner, name)
        for name in kept
        if hasattr(owner, name) and not inspect.ismodule(getattr(owner, name))
    }


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, type):
        return {
            "kind": "class",
            "type": value.__qualname__,
            "signatures": _signatures(value.__init__),  # type: ignore[misc]
        }
    if isinstance(value, property):
        return {
            "kind": "property",
            "type": _held(value),
            "readable": value.fget is not None,
            "writable": value.fset is not None,
        }
    if callable(value):
        return {"kind": "function", "type": "", "signatures": _signatures(value)}
    return {"kind": "value", "type": type(value).__qualname__, "readable": True}


def _signatures(function: Any) -> list[str]:
    """From the documentation that pybind11 writes; those of Python's own by inspection."""
    if inspect.isfunction(function):
        return [f"{function.__name__}{inspect.signature(function)}"]
    lines = (function.__doc__ or "").splitlines()
    if "Overloaded function." in lines[:2]:
        numbered = re.compile(rf"\d+\. ({function.__name__}\(.*)")
        found = [match[1] for line in lines if (match := numbered.fullmatch(line))]
    else:
        found = [line for line in lines[:1] if line.startswith(f"{function.__name__}(")]
    return [_short(line) for line in found]


def _held(value: property) -> str:
    documentation = (value.fget and value.fget.__doc__) or ""
    return _short(documentation.partition("->")[2].strip().partition("\n")[0])


def _short(text: str) -> str:
    """Types without their modules and namespaces."""
    short = re.sub(r"\b(?:[a-z_][a-z_0-9]*(?:\.|::))+(?=[A-Za-z])", "", text)
    return re.sub(r"\bIParserError\b", "ParserError", short)


def _member(
    kind: Kind,
    type: str,
    readable: bool = False,
    writable: bool = False,
    signatures: Sequence[str] = (),
) -> Member:
    return Member(kind, type, readable, writable, tuple(map(parse_signature, signatures)))


def _parameters(text: str) -> Iterator[Parameter]:
    for part in _split(text, ","):
        declared, *default = _split(part, "=")
        name, _, type_ = declared.partition(":")
        name = name.strip()
        if name and name[0] not in "*/":
            yield Parameter(name, type_.strip(), not default)


def _split(text: str, separator: str) -> list[str]:
    """At separators outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in _OPEN) - (text[index] in _CLOSE)
        if depth == 0:
            return index
    raise ValueError(text)
