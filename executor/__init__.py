"""Engine directory in, outputs out: storage, plan, swap pipeline, backends, executor."""

from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.executor import Inference, Stats, StepEvent, SwapExecutor
from swapnet.executor.plan import Plan, PlanOptions
from swapnet.executor.storage import LoadMode

__all__ = [
    "Device",
    "Inference",
    "LoadMode",
    "Plan",
    "PlanOptions",
    "Stats",
    "StepEvent",
    "SwapExecutor",
    "ThreadPool",
]
