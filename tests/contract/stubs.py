"""A version of the bindings as a stub file for mypy: written in a child, where they are.

Signatures are those that pybind11 puts into the documentation of each function. The class
``Module`` stands for the module itself, as a parameter can't have the type of a module.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Iterator
from keyword import kwlist
from textwrap import indent
from types import ModuleType
from typing import Any

__all__ = ["parsed", "stub"]

_HEAD = """\
import builtins
import tensorrt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Never, SupportsFloat, SupportsInt, TypeVar, overload
from typing_extensions import Buffer

_Held = TypeVar("_Held")

class _WriteOnly(Generic[_Held]):
    def __set__(self, owner: Any, value: _Held) -> None: ...
"""

_TYPING = {"Buffer", "Callable", "Iterable", "Sequence", "Never", "SupportsFloat", "SupportsInt"}

_CPP = (
    (r"[\w:.]+<[^<>]*>", "Any"),  # a template
    (r"<[^<>]*>", "..."),  # a value
    (r"::", "."),
    (rf"\b({'|'.join(kwlist)}): ", r"\1_: "),
)
"""What Python can't read of documentation, and what takes its place."""

_DIMS = "tensorrt.Dims | Sequence[SupportsInt]"
"""A parameter of the class: it is made of any sequence, of which documentation says nothing."""

_BUFFERS = {"IHostMemory"}
"""Classes of which no Python before 3.12 says that ``bytes`` takes them."""


def stub(trt: ModuleType) -> str:
    """All that a module offers."""
    return _Writer(trt).written()


def parsed(line: str, classes: set[str]) -> ast.FunctionDef:
    """``def name(self: tensorrt.Class, value: builtins.int = ...) -> Any: ...``.

    Parameters
    ----------
    line
        As in ``name(self: module.Class, value: int = <Kind.ONE: 1>) -> nvinfer1::Other``.
    classes
        Names of those of the bindings; other types that are unknown become ``Any``.
    """
    plain = line
    for pattern, python in _CPP:
        plain = re.sub(pattern, python, plain)
    try:
        (function,) = ast.parse(f"def {plain}: ...").body
    except SyntaxError:  # a default before a parameter that has none: then all have none
        (function,) = ast.parse(f"def {re.sub(r' = [^,()]+', '', plain)}: ...").body
    assert isinstance(function, ast.FunctionDef)
    types, every = _Types(classes), function.args
    for argument in (*every.posonlyargs, *every.args, *every.kwonlyargs):
        argument.annotation = types.of(argument.annotation)
        if argument.arg != "self" and ast.unparse(argument.annotation) == "tensorrt.Dims":
            argument.annotation = ast.parse(_DIMS, mode="eval").body
    every.defaults = [ast.Constant(...) for _ in every.defaults]
    every.kw_defaults = [default and ast.Constant(...) for default in every.kw_defaults]
    function.returns = types.of(function.returns)
    return ast.fix_missing_locations(function)


class _Types(ast.NodeTransformer):
    """Types as a stub has to name them."""

    def __init__(self, classes: set[str]) -> None:
        self._classes = classes

    def of(self, annotation: ast.expr | None) -> ast.expr:
        return self.visit(annotation) if annotation is not None else ast.Name("Any")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._named(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._named(ast.unparse(node))

    def _named(self, name: str) -> ast.expr:
        parts = name.split(".")
        for start in range(len(parts)):
            if (ours := ".".join(parts[start:])) in self._classes:
                return ast.parse(f"tensorrt.{ours}", mode="eval").body
        if parts[-1] in _TYPING:
            return ast.Name(parts[-1])
        return ast.Name(
            f"builtins.{name}" if isinstance(getattr(builtins, name, None), type) else "Any"
        )


class _Writer:
    def __init__(self, trt: ModuleType) -> None:
        self._members = {
            name: value
            for name, value in vars(trt).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        }
        self._members["__version__"] = trt.__version__
        self._classes: set[str] = set()
        for value in self._members.values():
            self._find(value)

    def written(self) -> str:
        kept = "\n".join(
            f"{name}: builtins.type[tensorrt.{value.__qualname__}]"
            if isinstance(value, type)
            else self._member(name, value, of="Module")
            for name, value in self._members.items()
        )
        declared = [
            self._member(name, value, of="")
            for name, value in self._members.items()
            if not isinstance(value, type) or value.__qualname__ == name
        ]
        return "\n".join([_HEAD, *declared, f"class Module:\n{indent(kept, '    ')}\n"])

    def _find(self, value: Any) -> None:
        """A class of the bindings, and those inside."""
        if isinstance(value, type) and value.__qualname__ not in self._classes:
            self._classes.add(value.__qualname__)
            for inner in vars(value).values():
                if inspect.isclass(inner) and inner.__qualname__.startswith(value.__qualname__):
                    self._find(inner)

    def _member(self, name: str, value: Any, of: str) -> str:
        if isinstance(value, type):
            return self._class(name, value)
        if isinstance(value, property):
            return self._property(name, value)
        if callable(value):
            return self._function(name, value, of)
        return f"{name}: {self._type(type(value).__qualname__)}"

    def _class(self, name: str, value: type) -> str:
        bases = [
            f"tensorrt.{base.__qualname__}"
            for base in value.__bases__
            if base.__qualname__ in self._classes
        ]
        members = [
            self._member(inner, found, of=name)
            for inner, found in vars(value).items()
            if not inner.startswith("_") or (callable(found) and not hasattr(object, inner))
        ]
        members += [*self._special(value)]
        return f"class {name}({', '.join(bases)}):\n{indent(chr(10).join(members), '    ')}\n"

    def _special(self, value: type) -> Iterator[str]:
        """Of a class, beyond what its documentation says by name."""
        yield self._function("__init__", value.__init__, value.__qualname__)  # type: ignore[misc]
        if "__members__" in vars(value):
            own = self._type(value.__qualname__)
            yield f"__members__: builtins.dict[builtins.str, {own}]"
        if "__getitem__" in vars(value):
            yield "def __iter__(self) -> Iterator[builtins.int]: ..."
        if value.__qualname__ in _BUFFERS:
            yield "def __buffer__(self, flags: builtins.int, /) -> builtins.memoryview: ..."

    def _property(self, name: str, value: property) -> str:
        read, written = (
            parsed(line, self._classes)
            for function in (value.fget, value.fset)
            for line in _documented(function, name) or [f"{name}(self, value)"]
        )
        held = ast.unparse(written.args.args[-1].annotation or ast.Name("Any"))
        if value.fget is None:
            return f"{name}: tensorrt._WriteOnly[{held}]"
        getter = f"@property\n{ast.unparse(read)}"
        if value.fset is None:
            return getter
        return f"{getter}\n@{name}.setter\ndef {name}(self, value: {held}) -> None: ..."

    def _function(self, name: str, value: Any, of: str) -> str:
        lines = _documented(value, name)
        if not lines and name == "__init__":  # the library makes such objects, nobody else
            lines = ["__init__(self, it: Never)"] if of in self._classes else []
        lines = lines or [f"{name}(self, *args, **keywords)"]
        declared = [ast.unparse(parsed(line, self._classes)) for line in lines]
        if of == "Module":
            declared = [line.replace("(", "(self, ", 1) for line in declared]
        return "\n".join(f"@overload\n{line}" if len(declared) > 1 else line for line in declared)

    def _type(self, name: str) -> str:
        return ast.unparse(_Types(self._classes).of(ast.parse(name, mode="eval").body))


def _documented(function: Any, name: str) -> list[str]:
    """Each way to call a function: by its documentation; Python's own by inspection."""
    if inspect.isfunction(function):
        parameters = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
        return [f"{name}({', '.join(parameters.parameters)})"]
    lines = (getattr(function, "__doc__", None) or "").splitlines()
    if "Overloaded function." in lines[:2]:
        numbered = re.compile(rf"\d+\. ({name}\(.*)")
        return [match[1] for line in lines if (match := numbered.fullmatch(line))]
    return [name * line.startswith("(") + line for line in lines[:1] if "->" in line]
