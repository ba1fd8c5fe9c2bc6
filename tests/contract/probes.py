"""What our callbacks are told when C++ calls them: run in a child, where the bindings are.

Each takes the module and answers with what JSON can carry. Where a source is given, it takes the
place of the function that makes the callback.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from importlib import import_module
from itertools import count
from types import SimpleNamespace
from typing import Any

__all__ = ["PROBES", "attempt", "everything"]

Answer = dict[str, Any]

PLAN = bytes(range(100))


def allocator(trt: Any, source: str | None = None) -> Answer:
    """Memory asked for, given back and asked to grow, in all ways that are bound."""
    calls: list[Any] = []

    class Allocations:
        def allocate(self, nbytes: int, alignment: int) -> int | None:
            calls.append(["allocate", nbytes, alignment])
            return 0x7000 if nbytes == 4096 else None

        def deallocate(self, address: int) -> bool:
            calls.append(["deallocate", address])
            return True

    make = _maker("swapnet.executor.backends.tensorrt", "_allocator", source)
    ours, base = make(trt, Allocations()), trt.IGpuAllocator
    got = []
    if hasattr(base, "allocate"):
        memory = base.allocate(ours, 4096, 256, 0)
        got += [_address(memory), base.deallocate(ours, memory)]
    memory = base.allocate_async(ours, 4096, 256, 0, 5)
    got += [_address(memory), base.deallocate_async(ours, memory, 5)]
    refused = base.allocate_async(ours, 8192, 512, 0, 5)
    grown = base.reallocate(ours, _capsule(0x7000), 256, 8192)
    return {"calls": calls, "got": got, "refused": _address(refused), "grown": _address(grown)}


def plan_reader(trt: Any, source: str | None = None) -> Answer:
    """Reads at all three kinds of positions, and a seek to before the start."""
    make = _maker("swapnet.executor.backends.tensorrt", "_plan_reader", source)
    ours, base = make(trt, memoryview(PLAN)), trt.IStreamReaderV2
    kinds = trt.SeekPosition
    memory = ctypes.create_string_buffer(8)
    read = []
    for offset, where in ((10, kinds.SET), (2, kinds.CUR), (-8, kinds.END)):
        sought = base.seek(ours, offset, where)
        nbytes = base.read(ours, _capsule(ctypes.addressof(memory)), 8, 5)
        read.append([sought, nbytes, list(memory.raw)])
    return {"read": read, "before": base.seek(ours, -101, kinds.END)}


def progress_monitor(trt: Any, source: str | None = None) -> Answer:
    """Steps of the outermost phase and of one inside of it, then a report that raises."""
    told: list[Any] = []
    refusing = False

    def report(done: int, total: int) -> None:
        told.append([done, total])
        if refusing:
            raise KeyboardInterrupt

    ticks = count(0, 1000)
    time.monotonic = lambda: float(next(ticks))
    make = _maker("swapnet.builder.compilers.tensorrt.engine", "make_monitor", source)
    ours, base = make(trt, report, lambda: False), trt.IProgressMonitor
    base.phase_start(ours, "outer", None, 3)
    base.phase_start(ours, "inner", "outer", 9)
    go_on = [base.step_complete(ours, "inner", 4), base.step_complete(ours, "outer", 1)]
    base.phase_finish(ours, "inner")
    refusing = True
    go_on.append(base.step_complete(ours, "outer", 2))
    return {"told": told, "go_on": go_on, "raised": type(ours.raised).__name__}


def logger(trt: Any, source: str | None = None) -> Answer:
    """A line of each severity."""
    tensorrt = import_module("swapnet.tensorrt")
    backend = tensorrt.TENSORRT["rtx" in trt.__name__]
    ours = _maker("swapnet.tensorrt", "logger", source)(backend)
    with tensorrt.listening(backend) as log:
        for severity in trt.ILogger.Severity.__members__.values():
            trt.ILogger.log(ours, severity, f"said as {severity.name}")
    return {"lines": [[kind.name, text] for kind, text in log.lines]}


PROBES: dict[str, Callable[[Any, str | None], Answer]] = {
    "IGpuAllocator": allocator,
    "IStreamReaderV2": plan_reader,
    "IProgressMonitor": progress_monitor,
    "ILogger": logger,
}
"""By the class that the callback is of."""


def attempt(trt: Any, base: str, source: str) -> Answer:
    """A probe that may raise."""
    try:
        return PROBES[base](trt, source)
    except Exception as error:
        return {"raised": repr(error)}


def everything(trt: Any) -> Answer:
    """Of all probes."""
    return {
        "callbacks": {base: probe(trt, None) for base, probe in PROBES.items()},
        "builder": missing_builder(trt),
        "levels": hardware_levels(trt),
    }


def missing_builder(trt: Any) -> str:
    """What is raised where the library makes no builder."""
    engine = import_module("swapnet.builder.compilers.tensorrt.engine")
    log = import_module("swapnet.tensorrt").Log()
    try:
        engine._make_builder(trt, SimpleNamespace(backend="tensorrt"), log)
    except Exception as error:
        return type(error).__name__
    return ""


def hardware_levels(trt: Any) -> dict[str, str]:
    """What is set for each of the compatibilities that can be asked for."""
    options = import_module("swapnet.builder.compilers.tensorrt.options")
    network = import_module("swapnet.builder.compilers.tensorrt.network")
    job = import_module("swapnet.builder.compilers.tensorrt.job")
    log = import_module("swapnet.tensorrt").Log()
    levels = {}
    for name in options.HARDWARE_COMPATIBILITY:
        asked = job.Job("tensorrt", "", "", "", False, {}, 1 << 20, hardware_compatibility=name)
        builder = SimpleNamespace(create_builder_config=_AnyConfig)
        made = network.make_config(trt, builder, asked, log)
        levels[name] = made.hardware_compatibility_level.name
    return levels


class _AnyConfig:
    """Takes every setting."""

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *_, **__: True


def _maker(module: str, function: str, source: str | None) -> Any:
    loaded = import_module(module)
    if source is not None:
        exec(source, vars(loaded))
    return getattr(loaded, function)


def _capsule(address: int) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
    )
    return new(address, None, None)


def _address(capsule: Any) -> int:
    if capsule is None:
        return 0
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return int(pointer(capsule, None) or 0)
