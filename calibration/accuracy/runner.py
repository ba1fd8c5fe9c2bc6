"""SwapNet as a Polygraphy backend: a loader, a runner, and options of ``polygraphy run``."""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from polygraphy.backend.base import BaseLoader, BaseRunner
from polygraphy.common import TensorMetadata

from swapnet.budget import Budget
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.files import working_folder
from swapnet.tensors import numpy_dtype
from swapnet.token_rows import ROWS

__all__ = ["SwapEngineFromOnnx", "SwapRunner"]


class SwapEngineFromOnnx(BaseLoader):  # type: ignore[misc]
    """Builds an engine from an ONNX file when it is called, as Polygraphy's loaders do.

    Parameters
    ----------
    model
        ONNX file.
    folder
        Engine directory to write; None for a temporary one, which goes with the loader.
    options
        Further keywords of `swapnet.build`.

    Examples
    --------
    >>> runner = SwapRunner(SwapEngineFromOnnx("model.onnx"), "weights:25%")  # doctest: +SKIP
    """

    def __init__(self, model: str | Path, folder: str | Path | None = None, **options: Any) -> None:
        self._model = model
        self._folder = folder
        self._options = options

    def call_impl(self) -> Engine:
        """Build and open the engine; raises as `swapnet.build`."""
        from swapnet.builder.build import build

        folder = self._folder
        if folder is None:
            opened = ExitStack()
            folder = opened.enter_context(working_folder("swapnet-")) / "engine"
            weakref.finalize(self, opened.close)
        build(self._model, folder, **self._options)
        return Engine.open(folder)


class SwapRunner(BaseRunner):  # type: ignore[misc]
    """Runs an engine inside a budget.

    Parameters
    ----------
    engine
        Engine directory, open engine, or a function that gives one: `SwapEngineFromOnnx`.
    budget
        As for `SwapExecutor`.
    name
        Name in reports.

    Notes
    -----
    Its input metadata has the symbols of the model in place of sizes that may change, and the
    planned shapes as the largest.

    Examples
    --------
    >>> from polygraphy.comparator import Comparator  # doctest: +SKIP
    >>> results = Comparator.run([OnnxrtRunner(session), SwapRunner("engines/mine", "64MiB")])
    """

    def __init__(
        self,
        engine: Engine | str | Path | Callable[[], Engine],
        budget: Budget | str | int,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, prefix="swapnet-runner")
        self._engine = engine
        self._budget = budget

    def activate_impl(self) -> None:
        engine = self._engine() if callable(self._engine) else self._engine
        self._executor = SwapExecutor(engine, self._budget)

    def get_input_metadata_impl(self) -> TensorMetadata:
        manifest = self._executor.manifest
        metadata = TensorMetadata()
        for tensor in (taken for taken in manifest.inputs if taken.name != ROWS):
            planned = manifest.planned_shapes[tensor.name]
            dtype = numpy_dtype(tensor.dtype)
            metadata.add(tensor.name, dtype, tensor.shape, max_shape=planned)
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
        start = time.perf_counter()
        outputs = self._executor(feed_dict)
        self.inference_time = time.perf_counter() - start  # in seconds, as Polygraphy wants it
        return OrderedDict(outputs)

    def deactivate_impl(self) -> None:
        self._executor.close()
        del self._executor
