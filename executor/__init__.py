"""Execute engine directories inside a memory budget: plans, swapping, backends, executors."""

from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.execution import Inference, StepEvent
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.pace import Pace
from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.runtime import ModelStats, RuntimeModel, SwapRuntime
from swapnet.executor.stats import Histogram, Stats
from swapnet.executor.swapping.storage import LoadMode

__all__ = [
    "Device",
    "Histogram",
    "Inference",
    "LoadMode",
    "ModelStats",
    "Pace",
    "Plan",
    "PlanOptions",
    "RuntimeModel",
    "Stats",
    "StepEvent",
    "SwapExecutor",
    "SwapRuntime",
    "ThreadPool",
]
