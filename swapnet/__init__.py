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

if TYPE_CHECKING:
    from swapnet.budget import Budget
    from swapnet.builder.build import build
    from swapnet.calibration.quantize import quantize
    from swapnet.executor import SwapExecutor, SwapRuntime

__version__ = "0.2.0"

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "Budget",
    "BudgetError",
    "EngineError",
    "InputError",
    "ModelError",
    "StorageError",
    "SwapExecutor",
    "SwapRuntime",
    "SwapnetError",
    "__version__",
    "build",
    "quantize",
]

_LAZY = {
    "Budget": "swapnet.budget",
    "SwapExecutor": "swapnet.executor",
    "SwapRuntime": "swapnet.executor",
    "build": "swapnet.builder",
    "quantize": "swapnet.calibration.quantize",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swapnet' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
