"""SwapNet: run deep networks that do not fit in memory.

Names are imported when they are first used, so that an executing process loads no builder.
"""

from __future__ import annotations

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
    from swapnet.calibration.accuracy.runner import SwapRunner
    from swapnet.calibration.delays.measure import measure
    from swapnet.calibration.quantize import quantize
    from swapnet.executor.device import Device, ThreadPool
    from swapnet.executor.engine import Engine
    from swapnet.executor.execution import Inference, Stats, StepEvent
    from swapnet.executor.executor import SwapExecutor
    from swapnet.executor.gpu.accelerator import Accelerator
    from swapnet.executor.pace import Pace
    from swapnet.executor.planning.plan import Place, Plan, PlanOptions, Read, Step
    from swapnet.executor.planning.usage import Usage
    from swapnet.executor.runtime.model import ModelStats, RuntimeModel
    from swapnet.executor.runtime.objectives import Changes
    from swapnet.executor.runtime.policy import Policy
    from swapnet.executor.runtime.runtime import SwapRuntime
    from swapnet.executor.swapping.storage import LoadMode
    from swapnet.manifest import Manifest
    from swapnet.profile import Profile
    from swapnet.progress import Progress
    from swapnet.ranges import RangeCache

__version__ = VERSION

__all__ = [
    "Accelerator",
    "BackendError",
    "BackendUnavailableError",
    "Budget",
    "BudgetError",
    "Changes",
    "Demand",
    "Device",
    "Engine",
    "EngineError",
    "Inference",
    "InputError",
    "LoadMode",
    "Manifest",
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
    "RuntimeModel",
    "Stats",
    "Step",
    "StepEvent",
    "StorageError",
    "SwapExecutor",
    "SwapRunner",
    "SwapRuntime",
    "SwapnetError",
    "ThreadPool",
    "Usage",
    "__version__",
    "build",
    "measure",
    "quantize",
]

_LAZY = {
    "Accelerator": "executor.gpu.accelerator",
    "Budget": "budget",
    "Changes": "executor.runtime.objectives",
    "Demand": "budget",
    "Device": "executor.device",
    "Engine": "executor.engine",
    "Inference": "executor.execution",
    "LoadMode": "executor.swapping.storage",
    "Manifest": "manifest",
    "ModelStats": "executor.runtime.model",
    "Pace": "executor.pace",
    "Place": "executor.planning.plan",
    "Plan": "executor.planning.plan",
    "PlanOptions": "executor.planning.plan",
    "Policy": "executor.runtime.policy",
    "Profile": "profile",
    "Progress": "progress",
    "RangeCache": "ranges",
    "Read": "executor.planning.plan",
    "RuntimeModel": "executor.runtime.model",
    "Stats": "executor.execution",
    "Step": "executor.planning.plan",
    "StepEvent": "executor.execution",
    "SwapExecutor": "executor.executor",
    "SwapRunner": "calibration.accuracy.runner",
    "SwapRuntime": "executor.runtime.runtime",
    "ThreadPool": "executor.device",
    "Usage": "executor.planning.usage",
    "build": "builder.build",
    "measure": "calibration.delays.measure",
    "quantize": "calibration.quantize",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swapnet' has no attribute {name!r}")
    value = getattr(import_module(f"swapnet.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
