"""Shapes of values at an inference's inputs: by formulas, and by what ONNX Runtime found."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.executor.swapping.actual_shapes import ActualShapes, ShapeError
from swapnet.manifest import Manifest, Tensor
from swapnet.tensors import Array
from tests.helpers.engines import BuildToy


@pytest.fixture
def manifest(engine: BuildToy) -> Manifest:
    """Input x (n, w, 64); values of a half, of another half, and of a size that nothing tells."""
    values = tuple(
        Tensor(name, "float32", shape, 4)
        for name, shape in (("a", ("a.0", 64)), ("b", ("b.0",)), ("c", ("c.0",)), ("d", (8,)))
    )
    return msgspec.structs.replace(
        engine("dynamic").manifest,
        inputs=(Tensor("x", "float32", ("n", "w", 64), 4),),
        values=values,
        outputs=(),
        planned_shapes={"x": (3, 20, 64)},
        formulas={"a.0": "_1//2", "b.0": "_1//2"},
    )


def feed(*shape: int) -> dict[str, Array]:
    return {"x": np.zeros(shape, np.float32)}


def wrong(name: str, *shape: int) -> ShapeError:
    return ShapeError("blocks 0 to 0 failed", name, shape)


def test_shapes_follow_from_inputs(manifest: Manifest) -> None:
    actual = ActualShapes(manifest)
    planned = actual.by_name
    assert planned == {"a": (10, 64), "b": (10,), "d": (8,)}
    actual.begin(feed(3, 20, 64))
    assert actual.by_name is planned
    actual.begin(feed(3, 7, 64))
    assert actual.by_name == {"a": (3, 64), "b": (3,), "d": (8,)}


def test_what_was_found_holds_for_the_same_formula_and_inputs(manifest: Manifest) -> None:
    actual = ActualShapes(manifest)
    actual.begin(feed(3, 7, 64))
    assert actual.learn(wrong("a", 4, 64))
    assert actual.by_name == {"a": (4, 64), "b": (4,), "d": (8,)}
    assert actual.learn(wrong("b", 3))
    assert actual.by_name == {"a": (4, 64), "b": (3,), "d": (8,)}
    actual.begin(feed(3, 20, 64))
    assert actual.by_name["a"] == (10, 64)
    actual.begin(feed(3, 7, 64))
    assert actual.by_name == {"a": (4, 64), "b": (3,), "d": (8,)}


def test_what_is_known_already_teaches_nothing(manifest: Manifest) -> None:
    actual = ActualShapes(manifest)
    assert not actual.learn(wrong("a", 10, 64))
    assert not actual.learn(wrong("b", 10, 64))


def test_an_output_is_learnt_once_in_an_inference(manifest: Manifest) -> None:
    actual = ActualShapes(manifest)
    wrongs = [wrong("a", 4, 64), wrong("b", 3), None, wrong("a", 5, 64), wrong("a", 4, 64)]

    def run() -> str:
        if (error := wrongs.pop(0)) is not None:
            raise error
        return "done"

    assert actual.learning(run) == "done"
    assert actual.by_name == {"a": (4, 64), "b": (3,), "d": (8,)}
    with pytest.raises(ShapeError, match="4x64"):
        actual.learning(run)


def test_one_symbol_has_one_size(manifest: Manifest) -> None:
    twice = msgspec.structs.replace(
        manifest,
        inputs=(*manifest.inputs, Tensor("y", "float32", ("n",), 4)),
        planned_shapes={"x": (3, 20, 64), "y": (3,)},
    )
    actual = ActualShapes(twice)
    with pytest.raises(InputError, match="two sizes"):
        actual.begin({**feed(3, 20, 64), "y": np.zeros(2, np.float32)})
