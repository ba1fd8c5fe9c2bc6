"""SwapNet: run deep networks that do not fit in memory.

Names are imported when they are first used, so that an executing process loads no builder.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from swapnet.errors import (
    BackendError,
    BackendUnavailableError,
    BudgetError,
    EngineError,
    InputError,
    ModelError,
    StorageError,
    SwapnetError,
)
from swapnet.version import VERSION

if TYPE_CHECKING:
    from swapnet.budget import Budget, Demand
    from swapnet.builder.build import build
    from swapnet.calibration.accuracy.runner import SwapEngineFromOnnx, SwapRunner
    from swapnet.calibration.bench import bench
    from swapnet.calibration.delays.measure import measure
    from swapnet.calibration.quantize import quantize
    from swapnet.custom_ops import use_custom_ops
    from swapnet.executor.bench.report import Report
    from swapnet.executor.conversations import State
    from swapnet.executor.device import Device, ThreadPool
    from swapnet.executor.engine import Engine
    from swapnet.executor.events import Event
    from swapnet.executor.execution import Inference, StepEvent
    from swapnet.executor.executor import SwapExecutor
    from swapnet.executor.generation.answer import Answer, Generated
    from swapnet.executor.generation.generator import Generator
    from swapnet.executor.gpu.accelerator import Accelerator
    from swapnet.executor.metrics import Metrics
    from swapnet.executor.pace import Pace
    from swapnet.executor.planning.plan import Place, Plan, PlanOptions, Read, Step
    from swapnet.executor.planning.usage import Usage
    from swapnet.executor.runtime.model import ModelStats, RuntimeModel
    from swapnet.executor.runtime.objectives import Changes
    from swapnet.executor.runtime.policy import Policy
    from swapnet.executor.runtime.runtime import SwapRuntime
    from swapnet.executor.state import Cache
    from swapnet.executor.stats import Histogram, Stats
    from swapnet.executor.swapping.storage import LoadMode
    from swapnet.manifest import Manifest
    from swapnet.profile import Profile
    from swapnet.progress import Progress
    from swapnet.ranges import RangeCache

__version__ = VERSION

logging.getLogger("swapnet").addHandler(logging.NullHandler())

__all__ = [
    "Accelerator",
    "Answer",
    "BackendError",
    "BackendUnavailableError",
    "Budget",
    "BudgetError",
    "Cache",
    "Changes",
    "Demand",
    "Device",
    "Engine",
    "EngineError",
    "Event",
    "Generated",
    "Generator",
    "Histogram",
    "Inference",
    "InputError",
    "LoadMode",
    "Manifest",
    "Metrics",
    "ModelError",
    "ModelStats",
    "Pace",
    "Place",
    "Plan",
    "PlanOptions",
    "Policy",
    "Profile",
    "Progress",
    "RangeCache",
    "Read",
    "Report",
    "RuntimeModel",
    "State",
    "Stats",
    "Step",
    "StepEvent",
    "StorageError",
    "SwapEngineFromOnnx",
    "SwapExecutor",
    "SwapRunner",
    "SwapRuntime",
    "SwapnetError",
    "ThreadPool",
    "Usage",
    "__version__",
    "bench",
    "build",
    "measure",
    "quantize",
    "use_custom_ops",
]

_HOMES = {
    "budget": ("Budget", "Demand"),
    "builder.build": ("build",),
    "calibration.accuracy.runner": ("SwapEngineFromOnnx", "SwapRunner"),
    "calibration.bench": ("bench",),
    "calibration.delays.measure": ("measure",),
    "calibration.quantize": ("quantize",),
    "custom_ops": ("use_custom_ops",),
    "executor.bench.report": ("Report",),
    "executor.conversations": ("State",),
    "executor.device": ("Device", "ThreadPool"),
    "executor.engine": ("Engine",),
    "executor.events": ("Event",),
    "executor.execution": ("Inference", "StepEvent"),
    "executor.executor": ("SwapExecutor",),
    "executor.generation.answer": ("Answer", "Generated"),
    "executor.generation.generator": ("Generator",),
    "executor.gpu.accelerator": ("Accelerator",),
    "executor.metrics": ("Metrics",),
    "executor.pace": ("Pace",),
    "executor.planning.plan": ("Place", "Plan", "PlanOptions", "Read", "Step"),
    "executor.planning.usage": ("Usage",),
    "executor.runtime.model": ("ModelStats", "RuntimeModel"),
    "executor.runtime.objectives": ("Changes",),
    "executor.runtime.policy": ("Policy",),
    "executor.runtime.runtime": ("SwapRuntime",),
    "executor.state": ("Cache",),
    "executor.stats": ("Histogram", "Stats"),
    "executor.swapping.storage": ("LoadMode",),
    "manifest": ("Manifest",),
    "profile": ("Profile",),
    "progress": ("Progress",),
    "ranges": ("RangeCache",),
}
"""Public names by the module that defines them."""

_LAZY = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swapnet' has no attribute {name!r}")
    value = getattr(import_module(f"swapnet.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
