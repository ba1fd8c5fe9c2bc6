"""TensorRT and TensorRT-RTX: a block is a serialized engine, its weights bound or inside.

With *external* weights the engine is small, is made once and stays: swapping is reading bytes to
the addresses that it was bound to. With *embedded* weights the engine is made again in each
inference, in the reading thread, from host memory with its plan. The memory that TensorRT allocates
for it lies in the block's place of the arena. TensorRT-RTX need not make the engine again: it loads
and unloads the weights of an engine that stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import numpy as np

from swapnet.errors import BackendError, EngineError
from swapnet.executor.backends.base import Bindings, Memory
from swapnet.executor.backends.gpu import GpuBackend
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind
from swapnet.executor.gpu.allocation import Allocations, Heap, Region, Source
from swapnet.executor.gpu.clock import GpuMark
from swapnet.executor.gpu.device_values import GpuValues
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.gpu.plans import PlanLoader
from swapnet.executor.planning.plan import Plan, Step
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import BeforeRead, Loader, Reader
from swapnet.executor.swapping.moments import Mark
from swapnet.manifest import WEIGHTS, Block, Manifest
from swapnet.profile import Need, with_needs
from swapnet.strips import Striping
from swapnet.tensorrt import listening, load_tensorrt, logger
from swapnet.tensors import Array
from swapnet.units import align_up

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TensorRTBackend"]

_ROOM = 4
"""Memory in which an engine is made for the first time, in multiples of its extent."""

_SPARE_BYTES = 4 << 20
"""Memory that engines may ask for while they execute, beyond that of their making."""


_Answer = TypeVar("_Answer")


class TensorRTBackend(GpuBackend):
    """Engines that share one scratch memory and one allocator of ours.

    Each engine is made once when the backend is opened: its needs beside weights are known then,
    and are in `manifest`.

    Parameters
    ----------
    folder, manifest
        The engine.
    accelerator, kind
        The GPU, and the kind of memory for weights.

    Raises
    ------
    BackendUnavailableError
        The library is not installed.
    EngineError
        A plan is missing, was changed, or was built for another GPU or version.
    BackendError
        The library refuses a plan.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, accelerator: Accelerator, kind: MemoryKind
    ) -> None:
        super().__init__(manifest, accelerator, kind)
        self.name = manifest.compiled.backend
        self._trt = load_tensorrt(self.name)
        self._heap = Heap(accelerator)
        self._allocations = Allocations(self._heap)
        self._allocator = _allocator(self._trt, self._allocations)
        self._runtime = self._open_runtime()
        self._runtime.gpu_allocator = self._allocator
        if manifest.compiled.version.endswith("+"):
            self._runtime.engine_host_code_allowed = True
        self._defers = hasattr(self._runtime, "defer_weights_loading")
        self._skeletons = Skeletons(folder, manifest)
        self._engines: dict[int, _Engine] = {}
        """By block: engines that stay, and engines that are loaded now."""
        self._values: GpuValues | None = None
        try:
            needs = [self._open(block, folder) for block in manifest.blocks]
            needs[0] = msgspec.structs.replace(
                needs[0], skeleton_bytes=needs[0].skeleton_bytes + _SPARE_BYTES
            )
            self.manifest = with_needs(manifest, needs)
            outside = sum(
                need.skeleton_bytes
                for need, block in zip(needs, manifest.blocks, strict=True)
                if block.weight_style == "embedded"
            )
            self._heap.limit_bytes = self._heap.used_bytes + outside + _SPARE_BYTES
            self._scratch_bytes = max(need.activation_bytes for need in needs)
            self._scratch = accelerator.allocate(MemoryKind.DEVICE, self._scratch_bytes)
        except BaseException:
            self._release()
            raise
        for engine in self._engines.values():
            self._give_scratch(engine)

    def values(self, inside: Arena | None = None, striping: Striping | None = None) -> GpuValues:
        self._values = GpuValues(self.manifest, self._accelerator, self._compute, self._begin)
        return self._values

    def loader(
        self, storage: Reader, arena: Memory, plan: Plan, before_read: BeforeRead | None
    ) -> Loader:
        """The base's loader; it makes engines of blocks with embedded weights on arrival."""
        assert isinstance(arena, GpuArena)
        inner = super().loader(storage, arena, plan, before_read)
        if all(block.weight_style == "external" for block in self.manifest.blocks):
            return inner
        return PlanLoader(
            inner,
            self.manifest,
            plan.places,
            self._load_plan,
            self._unload,
            storage,
            arena,
            self._accelerator,
            self._copies,
            before_read=before_read,
        )

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[_TensorRTSegment]:
        manifest = self.manifest
        return [
            _TensorRTSegment(
                self,
                {
                    block: {
                        **bindings.values,
                        **{
                            weight.name: bindings.weights[block, weight.name]
                            for weight in manifest.weights_of(block)
                        },
                    }
                    for block in range(step.first, step.last + 1)
                },
            )
            for step in steps
        ]

    def _load_plan(self, block: int, plan: memoryview, address: int, nbytes: int) -> Mark:
        region = Region(address, nbytes)
        staying = self._engines.get(block)
        if staying is not None:
            with self._asking(f"the weights of block {block} can't be loaded", region) as ask:
                reader = _plan_reader(self._trt, plan)
                ask(staying.engine.load_weights_async(reader, self._copies.handle))
            mark = GpuMark(self._copies.record(), self._clock)
            mark.wait()
            return mark
        engine = self._make(block, plan, region)
        self._give_scratch(engine)
        self._engines[block] = engine
        # The library may copy on the default stream, for which ours do not wait.
        return GpuMark(self._accelerator.default_stream().record(), self._clock)

    def _unload(self, block: int) -> None:
        engine = self._engines.get(block)
        if engine is None:
            return
        if engine.stays:
            with self._asking(f"the weights of block {block} can't be unloaded", None) as ask:
                ask(not engine.engine.weights_loaded or engine.engine.unload_weights())
        else:
            del self._engines[block]
            with self._accelerator.current():
                engine.release()

    def run(self, block: int, addresses: Mapping[str, int]) -> None:
        """Enqueue a block whose tensors lie at ``addresses``."""
        engine, values = self._engines.get(block), self._values
        if engine is None or values is None:
            raise _refused(f"block {block} ran without its engine", "it was not loaded")
        with self._accelerator.current():
            engine.bind(addresses, values.kept)
            engine.take_shapes(values.shapes)
        self._compute.call(lambda handle: self._enqueue(block, engine, handle))

    def close(self) -> None:
        self._settle()
        self._release()

    def _open_runtime(self) -> tensorrt.Runtime:
        with self._accelerator.current(), listening(self.name) as log:
            try:
                return self._trt.Runtime(logger(self.name))
            except TypeError as error:
                raise _refused(f"the runtime of {self.name} can't be made", log.reason()) from error

    def _release(self) -> None:
        with self._accelerator.current():
            for engine in self._engines.values():
                engine.release()
            self._engines = {}
        self._heap.close()
        if hasattr(self, "_scratch"):
            self._scratch.free()

    def _open(self, block: Block, folder: Path) -> Need:
        """Make a block's engine to learn its needs; it stays if its weights are not inside."""
        if not block.is_graph:
            return Need(block.skeleton_bytes, 0)
        before = self._heap.used_bytes
        external = block.weight_style == "external"
        plan = (
            memoryview(self._skeletons.read(block.index))
            if external
            else _stored_plan(folder, block)
        )
        self._check(block, plan)
        deferred = not external and self._defers
        if deferred:
            self._runtime.defer_weights_loading = True
        if not external and not deferred:
            return self._try_out(block, plan)
        try:
            engine = self._make(block.index, plan, self._heap)
        finally:
            if deferred:
                self._runtime.defer_weights_loading = False
        engine.stays = True
        self._engines[block.index] = engine
        taken = self._heap.used_bytes - before
        return Need(taken + len(plan) * external, engine.scratch_bytes)

    def _try_out(self, block: Block, plan: memoryview) -> Need:
        """Make an engine and forget it; its needs beyond the block's place come from the heap."""
        nbytes = _ROOM * block.extent.nbytes
        room = self._accelerator.allocate(MemoryKind.DEVICE, nbytes)
        try:
            region = Region(room.address, nbytes)
            engine = self._make(block.index, plan, region)
            scratch = engine.scratch_bytes
            with self._accelerator.current():
                engine.release()
        finally:
            room.free()
        return Need(max(region.used_bytes - block.extent.nbytes, 0), scratch)

    def _check(self, block: Block, plan: memoryview) -> None:
        # Only TensorRT-RTX can be asked whether a plan runs here.
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        with listening(self.name) as log:
            validity, diagnostics = self._runtime.get_engine_validity(plan)
        if validity == self._trt.EngineValidity.INVALID:
            here = self._accelerator.attributes
            raise EngineError(
                f"block {block.index} does not run here: TensorRT-RTX calls its engine invalid",
                why=f"{log.reason()}; built for {self.manifest.compiled.fingerprint}, here is "
                f"{here.name} ({here.architecture}); diagnostics {diagnostics}",
                hint="update the driver, or build it again with --target for this GPU",
            )

    def _make(self, block: int, plan: memoryview, source: Source) -> _Engine:
        what = f"the engine of block {block} can't be made"
        with self._asking(what, source) as ask:
            engine = ask(self._runtime.deserialize_cuda_engine(plan))
        # A context keeps its own memory as long as its engine lives.
        try:
            with self._asking(f"block {block} can't be executed", source) as ask:
                context = ask(engine.create_execution_context(_context_settings(self._trt, engine)))
        except BackendError:
            # Otherwise the error's traceback keeps the engine, and its end would give back memory
            # that others have by then.
            del engine
            raise
        return _Engine(self._trt, engine, context)

    def _give_scratch(self, engine: _Engine) -> None:
        if self._scratch_bytes:
            with self._accelerator.current():
                engine.context.set_device_memory(self._scratch.address, self._scratch_bytes)

    def _enqueue(self, block: int, engine: _Engine, stream: int) -> None:
        with listening(self.name) as log:
            if not engine.context.execute_async_v3(stream):
                raise _refused(f"block {block} can't be executed", log.reason())

    @contextmanager
    def _asking(self, what: str, source: Source | None) -> Iterator[_Ask]:
        """Call the library, which answers None or False and logs the reason."""
        with (
            self._accelerator.current(),
            listening(self.name) as log,
            self._allocations.into(source or self._heap),
        ):

            def ask(answer: _Answer | None) -> _Answer:
                if answer is None or answer is False:
                    raise _refused(what, self._allocations.refused or log.reason())
                return answer

            yield ask


class _Ask(Protocol):
    """Passes an answer on, and raises where it is None or False."""

    def __call__(self, answer: _Answer | None) -> _Answer: ...


class _Engine:
    """An engine with its one context."""

    def __init__(
        self,
        trt: tensorrt.Module,
        engine: tensorrt.ICudaEngine,
        context: tensorrt.IExecutionContext,
    ) -> None:
        self.engine = engine
        self.context = context
        self.stays = False
        self.scratch_bytes = align_up(int(engine.device_memory_size_v2), 4096)
        self._bound: Mapping[str, int] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = trt.TensorIOMode.INPUT
        self._names = names
        self._outputs = [name for name in names if engine.get_tensor_mode(name) != given]
        self._dynamic = [
            name
            for name in names
            if engine.get_tensor_mode(name) == given and -1 in tuple(engine.get_tensor_shape(name))
        ]

    def bind(self, addresses: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """Give each tensor its address, unless the addresses are those of the latest call."""
        bound = self._bound is addresses
        for name in self._names:
            address = kept.get(name, addresses[name])
            if bound and name not in kept:
                continue
            if not self.context.set_tensor_address(name, address):
                raise _refused(f"{name!r} can't be bound", f"to address {address:#x}")
        self._bound = addresses

    def take_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Set the shapes of inputs, and add those of outputs to ``shapes``."""
        for name in self._dynamic:
            if not self.context.set_input_shape(name, shapes[name]):
                raise _refused(
                    f"{name!r} can't have the shape {'x'.join(map(str, shapes[name]))}",
                    "it is outside the engine's optimisation profile",
                )
        for name in self._outputs:
            shapes[name] = tuple(self.context.get_tensor_shape(name))

    def release(self) -> None:
        # The context is inside the engine, so it has to go first.
        del self.context
        del self.engine


class _TensorRTSegment:
    """The segment of a step: one launch for each block."""

    def __init__(
        self, backend: TensorRTBackend, addresses: Mapping[int, Mapping[str, int]]
    ) -> None:
        self._backend = backend
        self._addresses = addresses

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        for block, addresses in self._addresses.items():
            self._backend.run(block, addresses)


def _context_settings(
    trt: tensorrt.Module, engine: tensorrt.ICudaEngine
) -> tensorrt.ExecutionContextAllocationStrategy | tensorrt.IRuntimeConfig:
    # Scratch memory is ours. TensorRT-RTX compiles kernels for new shapes eagerly: by default it
    # runs other kernels meanwhile, and their results differ in the last bits.
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return strategy
    settings = engine.create_runtime_config()
    settings.set_execution_context_allocation_strategy(strategy)
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    settings.dynamic_shapes_kernel_specialization_strategy = eager
    return settings


def _stored_plan(folder: Path, block: Block) -> memoryview:
    offset, shape = block.extent.offset, (block.plan_nbytes,)
    return np.memmap(folder / WEIGHTS, np.uint8, "r", offset=offset, shape=shape).data


def _allocator(trt: tensorrt.Module, allocations: Allocations) -> tensorrt.IGpuAllocator:
    """An ``IGpuAllocator`` of ours; it answers 0 for no address, because None would be printed."""

    class Allocator(trt.IGpuAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            return allocations.allocate(size, alignment) or 0

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0

        def deallocate(self, memory: int) -> bool:
            return allocations.deallocate(memory)

    return Allocator()


def _plan_reader(trt: tensorrt.Module, plan: memoryview) -> tensorrt.IStreamReaderV2:
    class PlanReader(trt.IStreamReaderV2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)
            self._position = 0

        def read(self, num_bytes: int, stream: int) -> memoryview:
            start = self._position
            self._position = min(start + num_bytes, len(plan))
            return plan[start : self._position]

        def seek(self, offset: int, where: tensorrt.SeekPosition) -> bool:
            base = {trt.SeekPosition.SET: 0, trt.SeekPosition.CUR: self._position}
            target = base.get(where, len(plan)) + offset
            if not 0 <= target <= len(plan):
                return False
            self._position = target
            return True

    return PlanReader()


def _refused(what: str, why: str) -> BackendError:
    return BackendError(
        what,
        why=why,
        hint="build it again here with another --weights style; else report it with this message",
    )
