"""SwapNet as a Polygraphy runner, for comparisons with any other backend by Polygraphy's tools."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from swapnet.budget import Budget
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.tensors import numpy_dtype

__all__ = ["SwapRunner"]


class SwapRunner(BaseRunner):  # type: ignore[misc]
    """Runs an engine, given as a directory or open, inside a budget; ``name`` is for reports.

    Examples
    --------
    >>> from polygraphy.comparator import Comparator  # doctest: +SKIP
    >>> results = Comparator.run([OnnxrtRunner(session), SwapRunner("engines/mine", "64MiB")])
    """

    def __init__(
        self, engine: Engine | str | Path, budget: Budget | str | int, name: str | None = None
    ) -> None:
        super().__init__(name=name, prefix="swapnet-runner")
        self._engine = engine
        self._budget = budget

    def activate_impl(self) -> None:
        self._executor = SwapExecutor(self._engine, self._budget)

    def get_input_metadata_impl(self) -> TensorMetadata:
        manifest = Engine.open(self._engine).manifest
        metadata = TensorMetadata()
        for tensor in manifest.inputs:
            metadata.add(
                tensor.name, numpy_dtype(tensor.dtype), manifest.planned_shapes[tensor.name]
            )
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
        start = time.perf_counter()
        outputs = self._executor(feed_dict)
        self.inference_time = time.perf_counter() - start  # in seconds, as Polygraphy wants it
        return OrderedDict(outputs)

    def deactivate_impl(self) -> None:
        self._executor.close()
        del self._executor
