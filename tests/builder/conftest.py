"""Graphs as slicing and cutting see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import pytest

from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.shapes import plan_shapes
from swapnet.builder.importing.source import open_source
from swapnet.builder.rewriting.optimise import TYPES, Operators, optimise
from swapnet.data.spool import Sample


@pytest.fixture
def import_model(tmp_path: Path) -> Callable[..., Graph]:
    """Optimises a model, portably, and plans its shapes."""

    def imported(
        model: onnx.ModelProto,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        operators: Operators = Operators.PORTABLE,
        samples: Sequence[Sample] = (),
    ) -> Graph:
        onnx.save(model, tmp_path / "toy.onnx")
        graph = optimise(open_source(tmp_path / "toy.onnx"), tmp_path, operators=operators)
        return plan_shapes(graph, tmp_path / TYPES, shapes or {}, samples=samples)

    return imported
