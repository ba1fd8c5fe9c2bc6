"""Shapes of values at the inputs of an inference, by the formulas of the build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from swapnet.errors import BackendError, BudgetError
from swapnet.manifest import Manifest, Tensor
from swapnet.symbols import known_sizes, model_symbols, size_of
from swapnet.tensors import ELEMENT_BYTES, Array, as_dims, concrete_nbytes

__all__ = ["ActualShapes", "Shape", "ShapeError", "StripShapes"]

T = TypeVar("T")

Shape = tuple[int, ...]

_MOST_KNOWN = 64
"""Sets of input shapes whose sizes are kept: each token of a decoder has others."""


class ShapeError(BackendError):
    """An output has another shape than its formula says.

    Attributes
    ----------
    name, shape
        The output, and its true shape.
    """

    def __init__(self, what: str, name: str, shape: Shape) -> None:
        super().__init__(what, why=f"output {name!r} is {as_dims(shape)}, by its formula it is not")
        self.name = name
        self.shape = shape


class StripShapes:
    """Shapes of the rows of a strip, and of all else: ``by_name`` as in `ActualShapes`."""

    def __init__(self) -> None:
        self.by_name: Mapping[str, Shape] = {}


class ActualShapes:
    """Shapes of all values and outputs that follow from the shapes of the inputs.

    Attributes
    ----------
    by_name
        The shapes; another mapping as soon as one of them is another.
    planned
        The shapes at the planned shapes of the inputs, and these.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._symbols = model_symbols(manifest.inputs)
        self._alike: dict[tuple[int | str, ...], list[str]] = {}  # names by shape
        for tensor in (*manifest.values, *manifest.outputs):
            if manifest.is_sized(tensor):
                self._alike.setdefault(tensor.shape, []).append(tensor.name)
        self._kinds = {(t.shape, t.dtype, t.nbytes): t for t in manifest.values}
        self._known: dict[tuple[Shape, ...], _Sizes] = {}
        self._now: tuple[Shape, ...] = ()
        self.by_name: Mapping[str, Shape] = {}
        self._begin(manifest.planned_shapes)
        self.planned = {**self.by_name, **manifest.planned_shapes}

    def begin(self, inputs: Mapping[str, Array]) -> None:
        """Take the shapes of an inference's inputs."""
        self._begin({tensor.name: inputs[tensor.name].shape for tensor in self._manifest.inputs})

    def check_room(self) -> None:
        """Refuse values that are larger than planned, where no check of the inputs does.

        Raises
        ------
        BudgetError
            A value has another place behind it.
        """
        for tensor in self._kinds.values():
            shape = self.by_name.get(tensor.name, ())
            nbytes = concrete_nbytes(tensor.dtype, shape) or 0
            if nbytes > max(tensor.nbytes, ELEMENT_BYTES[tensor.dtype]):
                raise BudgetError(
                    f"value {tensor.name!r} is larger than planned for",
                    why=f"it is {as_dims(shape)} and takes {nbytes} bytes, {tensor.nbytes} were "
                    "planned",
                    hint="open the executor with a larger context=",
                )

    def learning(self, run: Callable[[], T]) -> T:
        """What ``run`` gives, which is tried again with each shape that ONNX Runtime has otherwise.

        Raises
        ------
        ShapeError
            An output has another shape again.
        """
        learnt: set[str] = set()
        while True:
            try:
                return run()
            except ShapeError as error:
                if error.name in learnt or not self.learn(error):
                    raise
                learnt.add(error.name)

    def learn(self, error: ShapeError) -> bool:
        """Take a shape that ONNX Runtime found otherwise; True where it was not known.

        A formula follows from few sizes, and may be wrong at others. Values of the same formula
        probably have the same size.
        """
        tensor = self._manifest.tensors[error.name]
        if self.by_name.get(error.name) == error.shape or len(tensor.shape) != len(error.shape):
            return False
        self._known[self._now].learn(tensor, error.shape)
        self._update()
        return True

    def _begin(self, shapes: Mapping[str, Shape]) -> None:
        now = tuple(tuple(shapes[tensor.name]) for tensor in self._manifest.inputs)
        if now == self._now and self.by_name:
            return
        if now not in self._known:
            if len(self._known) == _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            # A decoder's cache says each size sixty times.
            alike = {(t.shape, each): t for t, each in zip(self._manifest.inputs, now, strict=True)}
            sizes = known_sizes([*alike.values()], shapes, {}, {})
            numbers = {f"_{index}": sizes[symbol] for index, symbol in enumerate(self._symbols)}
            self._known[now] = _Sizes(self._manifest.formulas, numbers)
        self._now = now
        self._update()

    def _update(self) -> None:
        sizes = self._known[self._now]
        found: dict[str, Shape] = {}
        for dims, names in self._alike.items():
            found |= dict.fromkeys(names, sizes.shape(dims))
        self.by_name = found


class _Sizes:
    """Sizes of dimensions at one set of input shapes."""

    def __init__(self, formulas: Mapping[str, str], numbers: Mapping[str, int]) -> None:
        self._formulas = formulas
        self._by_formula = {
            formula: size_of(int(formula) if formula.isdigit() else formula, numbers) or 0
            for formula in set(formulas.values())
        }
        self._learnt: dict[str, int] = {}

    def shape(self, dims: tuple[int | str, ...]) -> Shape:
        return tuple(dim if isinstance(dim, int) else self._size(dim) for dim in dims)

    def learn(self, tensor: Tensor, shape: Shape) -> None:
        for dim, size in zip(tensor.shape, shape, strict=True):
            if isinstance(dim, str) and self._size(dim) != size:
                formula = self._formulas[dim]
                if not any(self._formulas[other] == formula for other in self._learnt):
                    self._by_formula[formula] = size
                self._learnt[dim] = size

    def _size(self, dim: str) -> int:
        return self._learnt.get(dim, self._by_formula[self._formulas[dim]])
