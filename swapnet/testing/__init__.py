"""Test doubles for code that uses SwapNet: a simulated engine and a simulated GPU.

``write_engine`` writes an engine directory with blocks that compute nothing, but check that the
right bytes lie in their places; an executor opens it as any other. ``SimulatedAccelerator`` is a
GPU in host memory with copies and kernels that run in any order that streams and events allow.

Examples
--------
>>> from swapnet.testing import write_engine  # doctest: +SKIP
>>> write_engine(tmp_path / "engine", [1 << 20] * 8)  # doctest: +SKIP
>>> with swapnet.SwapExecutor(tmp_path / "engine", budget="weights:50%") as executor:
...     executor({"x": numpy.ones(1)})  # doctest: +SKIP
"""

from __future__ import annotations

from swapnet.testing.engine import SimulatedBackend, write_engine
from swapnet.testing.gpu import SimulatedAccelerator

__all__ = ["SimulatedAccelerator", "SimulatedBackend", "write_engine"]
