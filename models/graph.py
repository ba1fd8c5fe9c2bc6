"""A small writer of ONNX graphs: operators in memory, weights straight to the disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swapnet.tensors import ONNX_TYPES, external_tensor

if TYPE_CHECKING:
    import onnx

    from swapnet.models.weights import Weights

__all__ = ["IR_VERSION", "OPSET", "Graph"]

OPSET = 17
IR_VERSION = 8
_ALIGNMENT = 4096
_RELU_GAIN = math.sqrt(2)
_SPREAD = 0.1

Shape = Sequence["int | str"]


class Graph:
    """An ONNX graph being written to `path`, with its weights in ``path.data`` beside it.

    Each weight is written as it is declared and then dropped, so that memory holds one at a time.
    Values are handled by name. Use as a context manager, and call `save` at the end.

    Attributes
    ----------
    parameters : int
        Number of trainable parameters declared so far.
    """

    def __init__(self, path: Path, weights: Weights) -> None:
        self.parameters = 0
        self._path = path
        self._weights = weights
        self._data = path.with_name(path.name + ".data").open("wb")
        self._digest = hashlib.sha256()
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: dict[str, onnx.ValueInfoProto] = {}

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> str:
        """Declare an input of the network; a string in `shape` is a dimension that varies."""
        self._inputs.append(_info(name, shape, dtype))
        return name

    def output(self, name: str, value: str, shape: Shape) -> None:
        """Declare a float32 output of the network, and give the value its public name."""
        self._outputs[value] = _info(name, shape, "float32")

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator of one output, and return that output's name."""
        from onnx import helper

        output = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, values: object, dtype: str) -> str:
        """Add a small constant, kept inside the ``.onnx`` file."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(
        self,
        name: str,
        shape: tuple[int, ...],
        deviation: float,
        mean: float = 0.0,
        *,
        transposed: bool = False,
        trainable: bool = True,
    ) -> str:
        """Write one float32 weight to the data file.

        Parameters
        ----------
        name, shape
            Name and shape of the tensor in the source of weights.
        deviation, mean
            Initial distribution of seeded weights.
        transposed
            Store a matrix transposed, as MatMul wants the weight of a linear layer.
        trainable
            Count it among `parameters`.
        """
        values = self._weights.tensor(name, shape, deviation, mean)
        if transposed:
            values = values.T
        values = np.ascontiguousarray(values)
        if trainable:
            self.parameters += values.size
        self._write(bytes(-self._data.tell() % _ALIGNMENT))
        place = (Path(self._data.name).name, self._data.tell(), values.nbytes)
        self._stored.append(external_tensor(name, "float32", values.shape, *place))
        self._write(values.data)
        return name

    def conv(
        self,
        value: str,
        name: str,
        channels: tuple[int, int],
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        pads: tuple[int, int] | None = None,
        bias: bool = False,
        gain: float = _RELU_GAIN,
    ) -> str:
        """Add a square 2-D convolution that keeps H and W but for its stride.

        Parameters
        ----------
        value
            (N, channels[0], H, W).
        name
            Prefix of ``.weight`` and ``.bias``.
        kernel
            Odd side of the kernel.
        groups
            Groups of channels, each convolved by itself.
        pads
            Before and after, of H and of W; by default those that keep H and W.
        gain
            Gain of a seeded layer; the default suits one that is followed by a ReLU.
        """
        before, after = channels[0] // groups, channels[1]
        inputs = [
            self.weight(
                f"{name}.weight",
                (after, before, kernel, kernel),
                gain / math.sqrt(before * kernel * kernel),
            )
        ]
        if bias:
            inputs.append(self.weight(f"{name}.bias", (after,), _SPREAD))
        start, end = pads or (dilation * (kernel // 2),) * 2
        grouped = {"group": groups} if groups > 1 else {}
        return self.node(
            "Conv",
            value,
            *inputs,
            dilations=[dilation] * 2,
            kernel_shape=[kernel] * 2,
            pads=[start, start, end, end],
            strides=[stride] * 2,
            **grouped,
        )

    def batch_norm(
        self, value: str, name: str, channels: int, *, gain: float = 1.0, epsilon: float = 1e-5
    ) -> str:
        """Add a batch normalisation; its seeded scale is about `gain`."""
        return self.node(
            "BatchNormalization",
            value,
            self.weight(f"{name}.weight", (channels,), _SPREAD * gain, gain),
            self.weight(f"{name}.bias", (channels,), _SPREAD * gain),
            self.weight(f"{name}.running_mean", (channels,), _SPREAD, trainable=False),
            self.weight(f"{name}.running_var", (channels,), _SPREAD, 1.0, trainable=False),
            epsilon=epsilon,
        )

    def gemm(
        self, value: str, name: str, features: tuple[int, int], *, gain: float = _RELU_GAIN
    ) -> str:
        """Add a linear layer of a (N, features[0]) value, with its weight as (out, in)."""
        before, after = features
        weight = self.weight(f"{name}.weight", (after, before), gain / math.sqrt(before))
        return self.node(
            "Gemm", value, weight, self.weight(f"{name}.bias", (after,), _SPREAD), transB=1
        )

    def relu6(self, value: str) -> str:
        """Bound a value to 0 to 6."""
        low, high = (self.constant(limit, "float32") for limit in (0, 6))
        return self.node("Clip", value, low, high)

    def double(self, value: str) -> str:
        """Repeat each pixel of a (N, C, H, W) value, to twice its height and width."""
        scales = self.constant([1, 1, 2, 2], "float32")
        return self.node(
            "Resize",
            value,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def save(self) -> int:
        """Write the ``.onnx`` file, and return the number of trainable parameters.

        The SHA-256 of the data file is in the metadata as ``weights_sha256``, so files that
        differ only in their weights differ.
        """
        import onnx
        from onnx import helper

        public = {value: info.name for value, info in self._outputs.items()}
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [public.get(name, name) for name in names]
        graph = helper.make_graph(
            self._nodes,
            self._path.stem,
            self._inputs,
            [*self._outputs.values()],
            [*self._stored, *self._constants],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="swapnet.models",
        )
        helper.set_model_props(model, {"weights_sha256": self._digest.hexdigest()})
        onnx.save_model(model, self._path)
        return self.parameters

    def _write(self, content: bytes | memoryview) -> None:
        self._digest.update(content)
        self._data.write(content)


def _info(name: str, shape: Shape, dtype: str) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)
