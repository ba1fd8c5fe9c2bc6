"""Stand-ins for weights of convolutions while ONNX Runtime optimises a model: one of each shape.

ONNX Runtime rearranges weights of convolutions for this processor, and holds all of them in memory,
two or three times. It moves their elements and computes nothing. So it is given weights whose
elements are their own positions. What it makes of these says where the elements of each real
weight go, and they are moved piece by piece.

Normalisation after a convolution is folded here first: ONNX Runtime would compute with stand-ins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from swapnet.builder.importing.constants import keep_only
from swapnet.builder.importing.graph import Constant, read_constant, used_names
from swapnet.builder.rewriting.products_as_convolutions import NCHWC

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["LEAST_SAVED_BYTES", "StandIns"]

LEAST_SAVED_BYTES = 16 << 20
"""Weights that stand-ins must leave out: fewer are optimised faster as they are."""

_PIECE = 1 << 18
"""Elements that are moved at a time."""

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Convolution:
    """A convolution's weight, and the factor of each output channel that is folded into it."""

    weight: Constant
    scale: _Floats | None


@dataclass
class StandIns:
    """A model with stand-ins, and the way back.

    Attributes
    ----------
    proto
        The model; its large tensors are external data.
    arrays
        Stand-ins by name. Element ``i`` has the bits of the integer ``i + 1``: padding is 0.
    """

    proto: onnx.ModelProto
    _path: Path
    arrays: dict[str, _Floats] = field(default_factory=dict)
    _owners: dict[str, _Convolution | None] = field(default_factory=dict)
    """Convolutions by the values that they may compute after fusion; None for those of several."""

    @classmethod
    def of(cls, proto: onnx.ModelProto, folder: Path, path: Path) -> StandIns | None:
        """Give a model stand-ins; None where they save little, and the model stays.

        Parameters
        ----------
        proto
            The model, which is changed. Its external data lies in ``folder``.
        path
            Optimised model to be; stand-ins and weights lie beside it.
        """
        graph = proto.graph
        given = {value.name for value in graph.input}  # a caller may give other values
        tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
        readers = Counter(name for node in graph.node for name in used_names(node))
        readers.update(value.name for value in graph.output)
        found = {
            node.output[0]: tensors[node.input[1]]
            for node in graph.node
            if (node.op_type, node.domain) == ("Conv", "")
            and readers[node.input[1]] == 1
            and node.input[1] in tensors
            and tensors[node.input[1]].data_type == onnx.TensorProto.FLOAT
            and tensors[node.input[1]].data_location == onnx.TensorProto.EXTERNAL
        }
        shapes = {tuple(tensor.dims) for tensor in found.values()}
        count = sum(map(prod, shapes))
        if 4 * (sum(prod(t.dims) for t in found.values()) - count) < LEAST_SAVED_BYTES:
            return None
        made = cls(proto, path)
        stored = path.with_suffix(".positions")
        file: npt.NDArray[np.int32] = np.memmap(stored, np.int32, "w+", shape=(count,))
        for shape in shapes:
            part, file = file[: prod(shape)], file[prod(shape) :]
            for start in range(0, len(part), _PIECE):
                piece = part[start : start + _PIECE]
                piece[:] = np.arange(start + 1, start + 1 + len(piece))
            made.arrays[_name(shape)] = part.view(np.float32).reshape(shape)
        folded: set[str] = set()
        only = {n: node for node in graph.node for n in node.input if readers[n] == 1}
        for node in graph.node:
            if (tensor := found.get(node.output[0])) is not None:
                weight = read_constant(tensor, folder)
                assert weight is not None
                after = only.get(node.output[0])
                scale = _fold(graph, node, after, tensors, folder)
                if after and scale is not None:
                    folded.add(after.input[0])
                    after = only.get(node.output[0])
                convolution = _Convolution(weight, scale)
                activation = after.output[:1] if after and after.op_type != "Conv" else ()
                for value in (node.output[0], *activation):
                    made._owners[value] = None if value in made._owners else convolution
                node.input[1] = _name(weight.shape)
                if weight.shape in shapes:
                    tensor.name = _name(weight.shape)
                    shapes.remove(weight.shape)
        for index in reversed(range(len(graph.node))):
            if folded.intersection(graph.node[index].input):
                del graph.node[index]
        _keep_used(graph)
        return made

    def give(self, options: ort.SessionOptions) -> None:
        """Have a session take the stand-ins; they must stay while it is made."""
        import onnxruntime as ort

        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self.arrays.values()]
        options.add_external_initializers(list(self.arrays), values)

    def restore(self) -> bool:
        """Give the optimised model its own weights, in a file beside it.

        Returns
        -------
        bool
            False where more was done to a weight than its elements moved, or where it is not known
            whose it is: the model is of no use then.
        """
        proto = onnx.load_model(self._path, load_external_data=False)
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        users: dict[tuple[str, tuple[int, ...]], list[tuple[onnx.NodeProto, _Convolution]]] = {}
        for node in proto.graph.node:
            value = node.name.removesuffix("_nchwc") if node.domain == NCHWC else node.output[0]
            convolution = self._owners.get(value)
            if convolution and "Conv" in node.op_type and node.input[1] in tensors:
                key = node.input[1], convolution.weight.shape
                users.setdefault(key, []).append((node, convolution))
        taken = [convolution for each in users.values() for _, convolution in each]
        if Counter(taken) != Counter({c for c in self._owners.values() if c}):
            return False
        self._path.with_suffix(".positions").unlink()
        stored = self._path.with_suffix(".convolutions")
        with stored.open("wb") as file:
            end = 0
            for (name, shape), each in users.items():
                moved = read_constant(tensors[name], self._path.parent)
                if moved is None or not _is_moved(positions := moved.data.view(np.int32), shape):
                    return False
                for node, convolution in each:
                    tensor = proto.graph.initializer.add()
                    tensor.CopyFrom(tensors[name])
                    tensor.name = node.input[1] = convolution.weight.name
                    del tensor.external_data[:]
                    tensor.raw_data = b""
                    set_external_data(tensor, stored.name, end, moved.nbytes)
                    tensor.ClearField("raw_data")
                    _write_moved(convolution, positions, file)
                    end += moved.nbytes
        _keep_used(proto.graph)
        onnx.save_model(proto, self._path)
        return True


def _name(shape: tuple[int, ...]) -> str:
    return f"stand-in of {'x'.join(map(str, shape))}"


def _keep_used(graph: onnx.GraphProto) -> None:
    """Remove initialisers that nothing reads."""
    used = {name for node in graph.node for name in used_names(node)}
    used |= {value.name for value in (*graph.input, *graph.output)}
    keep_only(graph, [tensor for tensor in graph.initializer if tensor.name in used])


def _fold(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    after: onnx.NodeProto | None,
    tensors: Mapping[str, onnx.TensorProto],
    folder: Path,
) -> _Floats | None:
    """Fold the normalisation ``after`` a convolution into its bias; the factors of its weight.

    The arithmetic is that of ONNX Runtime's ``ConvBNFusion`` (``conv_bn_fusion.cc``), to the bit.
    """
    if (
        after is None
        or (after.op_type, after.domain) != ("BatchNormalization", "")
        or after.input[0] != node.output[0]
        or len([name for name in after.output if name]) != 1
        or any(a.name == "training_mode" and a.i for a in after.attribute)
    ):
        return None
    constants = [
        read_constant(tensors[name], folder) if name in tensors else None
        for name in (*after.input[1:], *node.input[2:])
    ]
    if any(constant is None or constant.dtype != "float32" for constant in constants):
        return None
    gamma, beta, mean, variance, *biases = (c.data.view(np.float32) for c in constants if c)
    epsilon = next((a.f for a in after.attribute if a.name == "epsilon"), 1e-5)
    scale: _Floats = gamma / np.sqrt(variance + np.float32(epsilon))
    bias = (biases[0] - mean) * scale + beta if biases else beta - mean * scale
    tensor = numpy_helper.from_array(bias, f"ConvBnFusion_BN_B_{after.input[2]}")
    graph.initializer.append(tensor)
    del node.input[2:]
    node.input.append(tensor.name)
    node.output[0] = after.output[0]
    return scale


def _is_moved(positions: npt.NDArray[np.int32], shape: tuple[int, ...]) -> bool:
    """Whether each element of a stand-in is there once, and else padding."""
    count = prod(shape)
    if len(positions) < count or positions.min() < 0 or positions.max() > count:
        return False
    seen = np.zeros(count + 1, np.bool_)
    seen[positions] = True
    return bool(seen[1:].all()) and np.count_nonzero(positions) == count


def _write_moved(
    convolution: _Convolution, positions: npt.NDArray[np.int32], file: BinaryIO
) -> None:
    weight = convolution.weight.data.view(np.float32)
    channel = len(weight) // convolution.weight.shape[0]
    for start in range(0, len(positions), _PIECE):
        places = positions[start : start + _PIECE].astype(np.intp) - 1
        elements = weight[places]
        if convolution.scale is not None:
            elements *= convolution.scale[places // channel]
        elements[places < 0] = 0
        file.write(elements.data)
