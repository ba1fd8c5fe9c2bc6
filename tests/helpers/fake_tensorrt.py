"""TensorRT's runtime as far as the executor uses it, strict, with plans that are ONNX models.

Addresses are those of a `SimulatedAccelerator`, that is of the host. What a plan has inside is
allocated as TensorRT does it, through the allocator of the runtime, and read from there at each
execution: whoever overwrites it too early gets wrong numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["SCRATCH_BYTES", "fake_tensorrt"]

SCRATCH_BYTES = 10_000
"""What each engine needs while it executes."""


class ILogger:
    def __init__(self) -> None:
        self.severity = 0


class IGpuAllocator:
    def __init__(self) -> None:
        self.made = True


class IStreamReaderV2:
    def __init__(self) -> None:
        self.made = True


class DynamicShapesKernelSpecializationStrategy:
    EAGER, LAZY = "eager", "lazy"


class RuntimeConfig:
    def __init__(self) -> None:
        self.strategy = "static"
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


class TensorIOMode:
    INPUT, OUTPUT = "input", "output"


class ExecutionContextAllocationStrategy:
    USER_MANAGED = "user managed"


class SeekPosition:
    SET, CUR, END = range(3)


class EngineValidity:
    VALID, INVALID = "valid", "invalid"


class ComputeCapability(Enum):
    """GPUs that a build is for."""

    CURRENT = "current"


class Runtime:
    """Makes engines of plans.

    Attributes
    ----------
    failing
        Numbers of the plans that it refuses, in order of asking.
    """

    made: Sequence[Runtime] = ()
    failing: Sequence[int] = ()

    def __init__(self, logger: ILogger) -> None:
        self.logger: Any = logger
        self.gpu_allocator: Any = None
        self.engine_host_code_allowed = False
        self.asked = 0
        type(self).made = [*type(self).made, self]

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Engine | None:
        number, self.asked = self.asked, self.asked + 1
        if number in type(self).failing:
            self.logger.log(1, f"plan {number} is refused")
            return None
        try:
            return Engine(self, memoryview(serialized_engine).tobytes())
        except _OutOfMemory:
            self.logger.log(1, "OutOfMemory")
            return None


class DeferringRuntime(Runtime):
    """The same as TensorRT-RTX has it: weights come later."""

    made: Sequence[Runtime] = ()
    validity = EngineValidity.VALID

    def __init__(self, logger: ILogger) -> None:
        super().__init__(logger)
        self.defer_weights_loading = False

    def get_engine_validity(self, buffer: memoryview) -> tuple[str, int]:
        assert isinstance(buffer, memoryview), "a copy of the weights"
        return self.validity, 2


class _OutOfMemory(Exception):
    pass


class Engine:
    """An engine.

    Attributes
    ----------
    greed
        How many times each weight is allocated.
    """

    greed = 1

    def __init__(self, runtime: Runtime, plan: bytes) -> None:
        self._wasted: list[int] = []
        self._runtime = runtime
        model = onnx.load_model_from_string(plan)
        self._inside = {
            t.name: numpy_helper.to_array(t)
            for t in model.graph.initializer
            if prod(t.dims) * 4 >= 1024
        }
        shapes = {v.name: v.type.tensor_type for v in (*model.graph.input, *model.graph.output)}
        self.names = [*(v.name for v in model.graph.input), *(v.name for v in model.graph.output)]
        self.inputs = [v.name for v in model.graph.input]
        self._shapes = {
            name: tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
            for name, kind in shapes.items()
        }
        self.dtypes = {
            name: onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            for name, kind in shapes.items()
        }
        _lift(model, self._inside)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # TensorScatter warns where it copies
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.addresses: dict[str, int] = {}
        if not getattr(runtime, "defer_weights_loading", False):
            self._load(self._inside)

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    @property
    def device_memory_size_v2(self) -> int:
        return SCRATCH_BYTES

    @property
    def weights_loaded(self) -> bool:
        return bool(self.addresses)

    def get_tensor_name(self, index: int) -> str:
        return str(self.names[index])

    def get_tensor_mode(self, name: str) -> str:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, settings: Any) -> Context:
        if isinstance(settings, RuntimeConfig):
            assert settings.dynamic_shapes_kernel_specialization_strategy == "eager"
            settings = settings.strategy
        assert settings == ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)

    def load_weights_async(self, stream_reader: Any, stream: int) -> bool:
        assert not self.weights_loaded
        assert stream_reader.seek(0, SeekPosition.SET)
        plan = b"".join(iter(lambda: bytes(stream_reader.read(1000, stream)), b""))
        model = onnx.load_model_from_string(plan)
        found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        try:
            self._load({name: found[name] for name in self._inside})
        except _OutOfMemory:
            return False
        return True

    def unload_weights(self) -> bool:
        for address in (*self.addresses.values(), *self._wasted):
            assert self._runtime.gpu_allocator.deallocate(address)
        self.addresses, self._wasted = {}, []
        return True

    def weights(self) -> dict[str, NDArray[Any]]:
        """As they lie on the device now."""
        assert self.addresses.keys() == self._inside.keys(), "weights are not loaded"
        return {
            name: array_at(address, self._inside[name].dtype, self._inside[name].shape)
            for name, address in self.addresses.items()
        }

    def _load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            address = self._runtime.gpu_allocator.allocate(array.nbytes, 256, 0)
            assert isinstance(address, int)
            if not address:
                raise _OutOfMemory
            self.addresses[name] = address
            for _ in range(1, self.greed):
                self._wasted.append(self._runtime.gpu_allocator.allocate(array.nbytes, 256, 0))
            array_at(address, array.dtype, array.shape)[...] = array

    def __del__(self) -> None:
        if getattr(self, "addresses", None):
            self.unload_weights()


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._given: dict[str, tuple[int, ...]] = {}
        self._scratch: tuple[int, int] | None = None

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in self._engine.names

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert isinstance(shape, tuple)
        declared = self._engine.get_tensor_shape(name)
        self._given[name] = shape
        return all(d in (-1, size) for d, size in zip(declared, shape, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        declared = self._engine.get_tensor_shape(name)
        if -1 not in declared:
            return declared
        engine = self._engine
        # Integers may say how many tokens there are, which must not be fewer than are given.
        tokens = max((shape[1] for shape in self._given.values() if len(shape) == 3), default=1)
        ones = {np.dtype(np.int32): tokens - 1, np.dtype(np.int64): 1}
        given = {
            n: np.full(
                self._given.get(n, engine.get_tensor_shape(n)),
                ones.get(engine.dtypes[n], 0),
                engine.dtypes[n],
            )
            for n in engine.inputs
        }
        (found,) = engine.session.run([name], {**given, **engine.weights()})
        return tuple(found.shape)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= SCRATCH_BYTES
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int)
        assert self._scratch is not None
        ctypes.memset(self._scratch[0], 0xEE, self._scratch[1])
        engine = self._engine
        given = {
            name: array_at(
                self._addresses[name],
                engine.dtypes[name],
                self._given.get(name, engine.get_tensor_shape(name)),
            )
            for name in engine.inputs
        }
        names = [name for name in engine.names if name not in engine.inputs]
        results = engine.session.run(names, {**given, **engine.weights()})
        for name, array in zip(names, results, strict=True):
            array_at(self._addresses[name], array.dtype, array.shape)[...] = array
        return True


def array_at(address: int, dtype: Any, shape: Sequence[int]) -> NDArray[Any]:
    """The memory at an address as an array."""
    kind = np.dtype(dtype)
    raw = (ctypes.c_char * max(prod(shape) * kind.itemsize, 1)).from_address(address)
    return np.frombuffer(raw, kind, prod(shape)).reshape(shape)


def _lift(model: onnx.ModelProto, inside: Mapping[str, NDArray[Any]]) -> None:
    """Initialisers become inputs."""
    kept = [t for t in model.graph.initializer if t.name not in inside]
    for tensor in model.graph.initializer:
        if tensor.name in inside:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def fake_tensorrt(runtime: Callable[..., Runtime] = Runtime) -> ModuleType:
    """A module that can be imported in the place of the real one."""
    module = ModuleType("tensorrt")
    names: dict[str, Any] = {
        "__version__": "10.0.fake",
        "ILogger": ILogger,
        "IGpuAllocator": IGpuAllocator,
        "IStreamReaderV2": IStreamReaderV2,
        "TensorIOMode": TensorIOMode,
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
        "SeekPosition": SeekPosition,
        "EngineValidity": EngineValidity,
        "ComputeCapability": ComputeCapability,
        "Runtime": runtime,
    }
    if runtime is DeferringRuntime:
        specialisation = DynamicShapesKernelSpecializationStrategy
        names["DynamicShapesKernelSpecializationStrategy"] = specialisation
    for name, value in names.items():
        setattr(module, name, value)
    return module
