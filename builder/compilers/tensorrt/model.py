"""The ONNX model of a block on disk, from which TensorRT's parser makes a network."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph
from swapnet.manifest import TENSOR_ALIGNMENT
from swapnet.tensors import ONNX_TYPES
from swapnet.units import align_up

__all__ = ["save_model"]


def save_model(
    graph: Graph, part: Part, name: str, path: Path, *, embedded: Collection[str]
) -> None:
    """Write a part to ``path``, and its ``embedded`` weights to a file beside it (``.data``).

    Raises
    ------
    OSError
        The files can't be written.
    """
    model = skeleton(graph, part, name, embedded)
    data = path.with_suffix(".data")
    offset = 0
    with data.open("wb") as file:
        for weight in embedded:
            constant = graph.constants[weight]
            file.seek(offset)
            file.write(constant.bytes().data)
            tensor = model.graph.initializer.add()
            tensor.name = weight
            tensor.data_type = ONNX_TYPES[constant.dtype]
            tensor.dims.extend(constant.shape)
            tensor.data_location = tensor.EXTERNAL
            for key, value in (
                ("location", data.name),
                ("offset", offset),
                ("length", constant.nbytes),
            ):
                tensor.external_data.add(key=key, value=str(value))
            offset = align_up(offset + constant.nbytes, TENSOR_ALIGNMENT)
    path.write_bytes(model.SerializeToString(deterministic=True))
