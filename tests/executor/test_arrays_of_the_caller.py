"""Outputs in arrays of the caller, and arrays of other libraries."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime import IOBinding

from swapnet.errors import InputError
from swapnet.executor import SwapExecutor
from swapnet.executor.inputs import check_inputs, check_outputs
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.engines import Arrays, BuildToy, Engine, assert_same
from tests.helpers.gpu import BuildGpu


class Exported:
    """An array as another library has it: it can be exported, and is none of NumPy's."""

    def __init__(self, array: NDArray[Any], kind: int = 1) -> None:
        self.array = array
        self.kind = kind

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0


def destinations(outputs: Arrays) -> Arrays:
    """Arrays of these shapes that hold something else."""
    return {
        name: np.full_like(array, True if array.dtype == bool else 7)
        for name, array in outputs.items()
    }


def each(*names: str) -> pytest.MarkDecorator:
    """Toys, each in the process that builds it for others too."""
    group = pytest.mark.xdist_group
    return pytest.mark.parametrize("name", [pytest.param(n, marks=group(n)) for n in names])


@each("used-twice", "dynamic", "only-lookup", "ends")
def test_outputs_are_written_there_bit_by_bit(engine: BuildToy, name: str) -> None:
    """Of known size and of others, of tables, of values that are inputs too."""
    toy = engine(name)
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        for seed in range(2):
            expected = executor(toy.feeds(seed))
            out = destinations(expected)
            found = executor(toy.feeds(seed), out)
            assert found.keys() == out.keys()
            assert all(found[key] is array for key, array in out.items())
            assert_same(out, expected)
            submitted = destinations(expected)
            executor.submit(toy.feeds(seed), submitted).result()
            assert_same(submitted, expected)


def test_kernels_write_there_without_a_copy(
    engine: BuildToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swapnet.executor.swapping import host_values

    toy = engine("used-twice")
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        out = executor(toy.feeds())
        monkeypatch.delattr(host_values, "new_array")
        monkeypatch.delattr(host_values, "placed")
        executor(toy.feeds(1), out)


@pytest.mark.parametrize("name", ["used-twice", "dynamic"])
def test_what_lies_where_it_was_is_not_bound_again(
    engine: BuildToy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = engine(name)
    bound: list[str] = []
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        inputs, expected = toy.feeds(), executor(toy.feeds(1))
        out = executor(inputs)
        executor(inputs, out)
        for method in ("bind_input", "bind_output"):
            real = getattr(IOBinding, method)

            def noted(self: Any, *given: Any, real: Callable[..., None] = real) -> None:
                if len(given) > 3:  # with an address
                    bound.append(given[0])
                real(self, *given)

            monkeypatch.setattr(IOBinding, method, noted)
        for key, array in toy.feeds(1).items():
            inputs[key][...] = array
        assert_same(executor(inputs, out), expected)
        assert not bound
        executor(toy.feeds(1), out)
        assert {*bound} == {*inputs}


def test_some_outputs_may_be_left_out(engine: BuildToy) -> None:
    toy = engine("ends")
    with SwapExecutor(toy.folder, "100%") as executor:
        expected = executor(toy.feeds())
        assert len(expected) > 1
        for name, array in destinations(expected).items():
            found = executor(toy.feeds(), {name: array})
            assert found[name] is array
            assert_same(found, expected)


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "tensorrt"])
@pytest.mark.usefixtures("trt")
@pytest.mark.slow
def test_a_gpu_writes_them_too(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], backend: str
) -> None:
    folder = gpu_engine("dynamic", backend)
    with SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()) as executor:
        expected = executor(feeds(folder))
        out = destinations(expected)
        found = executor(feeds(folder), out)
    assert all(found[key] is array for key, array in out.items())
    assert_same(out, expected)


def test_an_output_of_unknown_size_must_fit(engine: BuildToy) -> None:
    toy = engine("dynamic")
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        expected = executor(toy.feeds())
        name, array = next(iter(expected.items()))
        short = {
            name: np.empty((array.shape[0], array.shape[1] - 1, *array.shape[2:]), array.dtype)
        }
        with pytest.raises(InputError, match="does not fit into the array") as caught:
            executor(toy.feeds(), short)
        assert "for these inputs, the array is" in caught.value.why
        assert_same(executor(toy.feeds()), expected)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """Gives ``y`` of float32 and of one known shape."""
    return engine("used-twice")


def test_what_can_not_take_an_output_is_refused(toy: Engine) -> None:
    (output,) = toy.manifest.outputs
    shape = tuple(map(int, output.shape))
    bytes_ = np.zeros(np.prod(shape) * 4 + 1, np.uint8)
    wrong: dict[str, Any] = {
        "float64": np.empty(shape),
        "3x3": np.empty((3, 3), np.float32),
        "not C-contiguous": np.empty(shape[::-1], np.float32).T,
        "not aligned": bytes_[1:].view(np.float32).reshape(shape),
        "read-only": read_only(np.empty(shape, np.float32)),
        "not an array": [0.0],
    }
    for reason, value in wrong.items():
        with pytest.raises(InputError, match="can't be written into") as caught:
            check_outputs(toy.manifest, {output.name: value}, {})
        assert reason in caught.value.why
        assert "float32" in caught.value.hint
    for given, message in (
        ({"z": bytes_}, "unknown output 'z'"),
        *((array, "is not a dict") for array in ([1], [], np.zeros(1), np.zeros(2))),
    ):
        with pytest.raises(InputError, match=message):
            check_outputs(toy.manifest, given, {})  # type: ignore[arg-type]


def test_memory_that_is_used_twice_is_refused(engine: BuildToy) -> None:
    toy = engine("ends")
    output = toy.manifest.outputs[0]
    array = np.empty([int(size) for size in output.shape], output.dtype)
    with pytest.raises(InputError, match=f"'{output.name}' overlaps the one for 'x'"):
        check_outputs(toy.manifest, {output.name: array}, {"x": array})


# DLPack


@each("used-twice", "half", "bfloat16")
@pytest.mark.slow
def test_arrays_of_other_libraries_are_taken_and_written(engine: BuildToy, name: str) -> None:
    toy = engine(name)
    feeds = toy.feeds()
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        expected = executor(feeds)
        out = destinations(expected)
        found = executor(
            {key: Exported(array) for key, array in feeds.items()},
            {key: Exported(array) for key, array in out.items()},
        )
        assert_same(found, expected)
        assert_same(out, expected)


def test_they_are_not_copied_unless_that_is_asked_for(toy: Engine) -> None:
    feeds = toy.feeds()
    given = {name: Exported(array) for name, array in feeds.items()}
    same, copied = (check_inputs(toy.manifest, given, copy=copy) for copy in (False, True))
    for name, array in feeds.items():
        assert np.shares_memory(same[name], array)
        assert not np.shares_memory(copied[name], array)


@pytest.mark.slow
def test_outputs_can_be_imported_and_outlive_the_executor(engine: BuildToy) -> None:
    """Small ones on the heap, large ones in pages of their own, and those of unknown size."""
    for name in ("used-twice", "dynamic", "half"):
        toy = engine(name)
        with SwapExecutor(toy.folder, "100%") as executor:
            outputs = executor(toy.feeds())
            expected = {name: array.copy() for name, array in outputs.items()}
            imported = {name: np.from_dlpack(Exported(array)) for name, array in outputs.items()}
            assert all(np.shares_memory(imported[key], outputs[key]) for key in outputs)
            del outputs
            executor(toy.feeds(1))
        gc.collect()
        assert_same(imported, expected)


def test_memory_of_a_gpu_is_refused(toy: Engine) -> None:
    given = {name: Exported(array, kind=2) for name, array in toy.feeds().items()}
    with pytest.raises(InputError, match="is not in host memory") as caught:
        check_inputs(toy.manifest, given)
    assert "DLPack's type 2" in caught.value.why
    assert "tensor.cpu()" in caught.value.hint


def test_what_fails_to_export_is_refused_with_its_reason(toy: Engine) -> None:
    class Broken(Exported):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("this tensor requires a gradient")

    given = {name: Broken(array) for name, array in toy.feeds().items()}
    with pytest.raises(InputError, match="requires a gradient"):
        check_inputs(toy.manifest, given)
