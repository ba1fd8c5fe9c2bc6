"""Several engines under one budget: shares of memory, turns to compute, an order of reads."""

from swapnet.executor.runtime.model import ModelStats, RuntimeModel
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.runtime import SwapRuntime

__all__ = ["ModelStats", "Policy", "RuntimeModel", "SwapRuntime"]
