"""What the code uses of TensorRT, read from its syntax.

The class of an expression follows from `NAMES` and from what the bindings say that their functions
return. Branches on the backend and questions like ``hasattr(config, "max_aux_streams")`` are
understood.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from swapnet.tensorrt import TENSORRT
from tests.contract.names import ARGUMENT, MODULE, NAMES, NOT_OURS
from tests.contract.surface import Member, Surface

__all__ = ["ROOT", "Collected", "Use", "collect", "collect_all", "package_files", "position"]

ROOT = Path(__file__).resolve().parents[2]

_PACKAGES = ("swapnet", "builder", "executor", "calibration", "models")

_ALL = frozenset(TENSORRT)

_EXITS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

_PASSING = {"enumerate", "filter", "iter", "list", "map", "next", "reversed", "sorted", "zip"}
"""Built-in functions that return what their arguments hold."""

Position = tuple[int, int, int, int]
Kind = Literal["read", "write", "call", "override", "ask", "dynamic"]


def position(node: ast.expr | ast.stmt) -> Position:
    """Where a node is in its file."""
    return (node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0)


@dataclass(frozen=True)
class Use:
    """Of a member of a class, or of the module, whose name is empty.

    Attributes
    ----------
    file, position
        Of the expression.
    owner, name
        The member.
    kind
        ``"override"``: a method of a subclass; ``"ask"``: whether the member is there;
        ``"dynamic"``: one whose name is computed.
    arguments, keywords
        Of a call: the classes of what is given by position, empty where unknown, and names.
    bound
        Called on an object, which is not among the arguments.
    guarded
        Used only where the member is there.
    backends
        With which this code runs.
    """

    file: str
    position: Position
    owner: str
    name: str
    kind: Kind
    arguments: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    bound: bool = False
    guarded: bool = False
    backends: frozenset[str] = _ALL

    @property
    def title(self) -> str:
        """As in ``Builder.create_network``."""
        return f"{self.owner}.{self.name}" if self.owner else self.name

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.position[0]}"


@dataclass
class Collected:
    """Of some files.

    Attributes
    ----------
    uses
        In order.
    problems
        What could not be understood, with its place.
    names
        Entries of `NAMES` that were needed.
    """

    uses: list[Use] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def package_files() -> list[Path]:
    """All of the code."""
    files = [path for package in _PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in files if path.resolve() == path]


def _sources() -> list[Path]:
    return [
        path
        for path in package_files()
        if path.parent.name == "tensorrt" or "load_tensorrt" in path.read_text()
    ]


def collect_all(surfaces: Sequence[Surface]) -> Collected:
    """From the files that have to do with the libraries."""
    collected = Collected()
    for path in _sources():
        collect(ast.parse(path.read_text()), str(path.relative_to(ROOT)), surfaces, collected)
    return collected


def collect(
    tree: ast.Module, file: str, surfaces: Sequence[Surface], into: Collected | None = None
) -> Collected:
    """From the syntax of one file.

    Parameters
    ----------
    tree, file
        The syntax, and the name for places.
    surfaces
        They tell what functions return.
    into
        Added to and returned.
    """
    collected = into if into is not None else Collected()
    _Reader(tree, file, surfaces, collected).read()
    return collected


@dataclass(frozen=True)
class _Thing:
    """What an expression is, where it is TensorRT's."""

    kind: Literal["module", "class", "object", "unknown"]
    name: str = ""
    backends: frozenset[str] = _ALL

    @property
    def argument(self) -> str:
        return self.name if self.kind == "object" else ""


@dataclass
class _Scope:
    names: dict[str, _Thing | None] = field(default_factory=dict)
    guards: set[tuple[str, str]] = field(default_factory=set)


class _Reader:
    """Goes through a file once, in order."""

    def __init__(
        self, tree: ast.Module, file: str, surfaces: Sequence[Surface], collected: Collected
    ) -> None:
        self._tree = tree
        self._file = file
        self._surfaces = surfaces
        self._collected = collected
        self._scopes = [_Scope()]
        self._backends = _ALL
        self._fields = {*_assigned_fields(tree)}

    def read(self) -> None:
        """All of it."""
        self._block(self._tree.body)

    # Statements

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        before = self._backends
        for statement in statements:
            self._statement(statement)
        self._backends = before

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
            case ast.ClassDef():
                self._class(node)
            case ast.If():
                self._if(node)
            case ast.Assign():
                thing = self._expression(node.value)
                for target in node.targets:
                    self._bind(target, thing)
            case ast.AnnAssign():
                self._annotated(node)
            case ast.For() | ast.AsyncFor():
                self._bind(node.target, _element(self._expression(node.iter)))
                self._block([*node.body, *node.orelse])
            case ast.With() | ast.AsyncWith():
                self._with(node)
            case _:
                self._children(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self._expression(decorator)
        if _is_any(node.returns):
            self._required(f"{node.name}()", node)
        with self._scope():
            arguments = node.args
            for default in [*arguments.defaults, *filter(None, arguments.kw_defaults)]:
                self._expression(default)
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                known = _is_any(argument.annotation)
                thing = self._required(argument.arg, node) if known else None
                self._scopes[-1].names[argument.arg] = thing
            self._block(node.body)

    def _class(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            thing = self._expression(base)
            if thing is not None and thing.kind == "class":
                self._overrides(node, thing)
        for field_ in node.body:
            if isinstance(field_, ast.AnnAssign) and _is_any(field_.annotation):
                self._required(f".{ast.unparse(field_.target)}", field_)
        with self._scope():
            self._block([s for s in node.body if not isinstance(s, ast.AnnAssign)])

    def _overrides(self, node: ast.ClassDef, base: _Thing) -> None:
        for method in node.body:
            if isinstance(method, _FUNCTION) and not method.name.startswith("_"):
                self._use(method, base, method.name, "override")

    def _if(self, node: ast.If) -> None:
        self._expression(node.test)
        before = self._backends
        yes, no = _branches(node.test)
        self._backends = before & yes
        self._block(node.body)
        self._backends = before & no
        self._block(node.orelse)
        self._backends = before & no if isinstance(node.body[-1], _EXITS) else before

    def _annotated(self, node: ast.AnnAssign) -> None:
        thing = self._expression(node.value) if node.value is not None else None
        if thing is None and _is_any(node.annotation):
            target = node.target
            thing = self._required(
                f".{target.attr}" if isinstance(target, ast.Attribute) else ast.unparse(target),
                node,
            )
        self._bind(node.target, thing)

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self._expression(item.context_expr)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, None)
        self._block(node.body)

    def _bind(self, target: ast.expr, thing: _Thing | None) -> None:
        match target:
            case ast.Name():
                if thing is not None and thing.kind == "unknown":
                    thing = self._named(target.id) or thing
                self._check_named(target.id, thing, target)
                self._scopes[-1].names[target.id] = thing
            case ast.Tuple() | ast.List():
                for element in target.elts:
                    self._bind(element, _element(thing))
            case ast.Starred():
                self._bind(target.value, _element(thing))
            case ast.Attribute():
                base = self._expression(target.value)
                if base is not None:
                    self._member(target, base, target.attr, "write")
                elif thing is not None:
                    self._required(f".{target.attr}", target)
                    self._check_named(f".{target.attr}", thing, target)
            case _:
                self._expression(target)

    # Expressions

    def _expression(self, node: ast.expr) -> _Thing | None:
        match node:
            case ast.Name():
                return self._name(node.id)
            case ast.Attribute():
                base = self._expression(node.value)
                if base is not None:
                    return self._member(node, base, node.attr, "read")
                return self._named(f".{node.attr}") if node.attr in self._fields else None
            case ast.Call():
                return self._call(node)
            case ast.IfExp():
                self._expression(node.test)
                return self._expression(node.body) or self._expression(node.orelse)
            case ast.BoolOp():
                things = [self._expression(value) for value in node.values]
                return next(filter(None, things), None)
            case ast.NamedExpr():
                thing = self._expression(node.value)
                self._bind(node.target, thing)
                return thing
            case ast.Subscript():
                self._expression(node.slice)
                return _element(self._expression(node.value))
            case ast.Lambda():
                with self._scope():
                    self._scopes[-1].names.update((a.arg, None) for a in node.args.args)
                    self._expression(node.body)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node)
            case _:
                self._children(node)
        return None

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        with self._scope():
            for generator in node.generators:
                self._bind(generator.target, _element(self._expression(generator.iter)))
                for condition in generator.ifs:
                    self._expression(condition)
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            for part in parts:
                self._expression(part)

    def _children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child)
            elif isinstance(child, ast.expr):
                self._expression(child)
            else:
                self._children(child)

    def _call(self, node: ast.Call) -> _Thing | None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("hasattr", "getattr", "setattr"):
            return self._by_name(node, function.id)
        if isinstance(function, ast.Attribute):
            base = self._expression(function.value)
            if base is not None:
                return self._method(node, function, base)
            called = function.attr
        else:
            thing = self._expression(function)
            if thing is not None:
                return self._made(node, thing)
            called = function.id if isinstance(function, ast.Name) else ""
        arguments = self._arguments(node)
        if called in _PASSING:
            return _element(next(filter(None, arguments), None))
        return self._returned(called, arguments, _backends_in(node))

    def _arguments(self, node: ast.Call) -> list[_Thing | None]:
        things = [self._expression(argument) for argument in node.args]
        for keyword in node.keywords:
            self._expression(keyword.value)
        return things

    def _method(self, node: ast.Call, function: ast.Attribute, base: _Thing) -> _Thing | None:
        member = self._find(base, function.attr)
        if member is not None and member.kind == "class":
            return self._made(node, self._member(function, base, function.attr, "read"))
        self._called(node, base, function.attr)
        returned = (self._thing(s.returns, base) for s in member.signatures) if member else ()
        return next(filter(None, returned), None)

    def _made(self, node: ast.Call, thing: _Thing | None) -> _Thing | None:
        """An object of a class, made by calling it."""
        if thing is None or thing.kind != "class":
            self._arguments(node)
            return None
        made = replace(thing, kind="object")
        self._called(node, made, "__init__")
        return made

    def _called(self, node: ast.Call, base: _Thing, name: str) -> None:
        things = self._arguments(node)
        if any(isinstance(a, ast.Starred) for a in node.args) or any(
            keyword.arg is None for keyword in node.keywords
        ):
            self._problem(node, f"arguments of {ast.unparse(node.func)} can't be counted")
        self._use(
            node,
            base,
            name,
            "call",
            arguments=tuple(thing.argument if thing else "" for thing in things),
            keywords=tuple(keyword.arg or "" for keyword in node.keywords),
        )

    def _by_name(self, node: ast.Call, how: str) -> _Thing | None:
        """Of ``hasattr``, ``getattr`` and ``setattr``."""
        base, *others = self._arguments(node)
        if base is None:
            return None
        name = node.args[1]
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            self._use(node, base, "", "dynamic")
            return replace(base, kind="unknown") if how == "getattr" else None
        if how == "setattr":
            self._member(node, base, name.value, "write")
            return None
        if how == "hasattr" or len(others) > 1:
            self._scopes[-1].guards.add((base.name, name.value))
        kind: Kind = "ask" if how == "hasattr" else "read"
        return self._member(node, base, name.value, kind)

    # What things are

    def _member(self, node: ast.expr, base: _Thing, name: str, kind: Kind) -> _Thing | None:
        """Note the use of a member, and say what it is."""
        self._use(node, base, name, kind)
        member = self._find(base, name)
        if member is None or member.kind == "function":
            return None
        if member.kind == "class":
            return _Thing("class", member.type, base.backends)
        return self._thing(member.type, base)

    def _thing(self, type_: str, base: _Thing) -> _Thing | None:
        """What pybind11 calls so; TensorRT's in a container is unknown."""
        classes = {name for surface in self._surfaces for name in surface.classes}
        if type_ in classes:
            return _Thing("object", type_, base.backends)
        words = type_.replace("[", " ").replace("]", " ").replace(",", " ").split()
        if type_ == "object" or "::" in type_ or classes.intersection(words):
            return _Thing("unknown", "", base.backends)
        return None

    def _find(self, base: _Thing, name: str) -> Member | None:
        found = (surface.find(base.name, name) for surface in self._surfaces)
        return next((member for member in found if member is not None), None)

    def _returned(
        self, function: str, arguments: Sequence[_Thing | None], backends: frozenset[str]
    ) -> _Thing | None:
        if NAMES.get(f"{function}()") == ARGUMENT:
            self._collected.names.add(f"{function}()")
            return arguments[0] if arguments else None
        thing = self._named(f"{function}()")
        return thing and replace(thing, backends=backends)

    def _name(self, name: str) -> _Thing | None:
        return next((s.names[name] for s in reversed(self._scopes) if name in s.names), None)

    def _named(self, key: str) -> _Thing | None:
        """What `NAMES` says."""
        if key not in NAMES:
            return None
        self._collected.names.add(key)
        name = NAMES[key]
        if name in (NOT_OURS, ARGUMENT):
            return None
        return _Thing("module") if name == MODULE else _Thing("object", name)

    def _required(self, key: str, node: ast.expr | ast.stmt) -> _Thing | None:
        if key not in NAMES:
            self._problem(node, f"{key} may be TensorRT's: name it in tests/contract/names.py")
        return self._named(key)

    def _check_named(self, key: str, thing: _Thing | None, node: ast.expr) -> None:
        """That a name which has an entry holds what the entry says."""
        if thing is None or thing.kind == "unknown" or key not in NAMES:
            return
        named = self._named(key)
        if named is None or (named.kind, named.name) != (thing.kind, thing.name):
            self._problem(node, f"{key} is {NAMES[key]} by name, {thing.name or MODULE} by value")

    def _use(
        self,
        node: ast.expr | ast.stmt,
        base: _Thing,
        name: str,
        kind: Kind,
        arguments: tuple[str, ...] = (),
        keywords: tuple[str, ...] = (),
    ) -> None:
        if base.kind == "unknown" and kind != "dynamic":
            self._problem(node, f"the class of what has .{name} is unknown: give it a name")
            return
        guarded = any((base.name, name) in scope.guards for scope in self._scopes)
        self._collected.uses.append(
            Use(
                self._file,
                position(node),
                base.name,
                name,
                kind,
                arguments,
                keywords,
                bound=base.kind == "object",
                guarded=guarded,
                backends=base.backends & self._backends,
            )
        )

    def _problem(self, node: ast.expr | ast.stmt, text: str) -> None:
        self._collected.problems.append(f"{self._file}:{node.lineno}: {text}")

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self._scopes.append(_Scope())
        backends = self._backends
        yield
        self._backends = backends
        self._scopes.pop()


def _element(thing: _Thing | None) -> _Thing | None:
    """Of something that is iterated or indexed."""
    return thing and replace(thing, kind="unknown", name="")


def _is_any(annotation: ast.expr | None) -> bool:
    """``Any``, or a union with it."""
    match annotation:
        case ast.Name():
            return annotation.id == "Any"
        case ast.BinOp():
            return _is_any(annotation.left) or _is_any(annotation.right)
        case _:
            return False


def _assigned_fields(tree: ast.Module) -> Iterator[str]:
    """Attributes that classes of a file keep."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.ClassDef):
            for field_ in node.body:
                if isinstance(field_, ast.AnnAssign) and _is_any(field_.annotation):
                    yield ast.unparse(field_.target)


def _backends_in(node: ast.Call) -> frozenset[str]:
    """Those that a call names literally; all where it names none."""
    literal = {a.value for a in node.args if isinstance(a, ast.Constant)}
    return _ALL.intersection(map(str, literal)) or _ALL


def _branches(test: ast.expr) -> tuple[frozenset[str], frozenset[str]]:
    """Backends with which a condition can hold, and those with which it can't."""
    match test:
        case ast.BoolOp(op=ast.And()):
            yes = _ALL
            for value in test.values:
                yes &= _branches(value)[0]
            return yes, _ALL
        case ast.UnaryOp(op=ast.Not()):
            yes, no = _branches(test.operand)
            return no, yes
        case ast.Compare(
            ops=[ast.Eq() | ast.NotEq() as equal], comparators=[ast.Constant(value=backend)]
        ) if backend in _ALL:
            one, others = frozenset({str(backend)}), _ALL - {str(backend)}
            return (one, others) if isinstance(equal, ast.Eq) else (others, one)
        case _:
            return _ALL, _ALL
