"""Hand-made ONNX models, each with one trap of importing, built in half a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

__all__ = ["TOYS", "Net", "Toy", "mlp"]

Shape = Sequence["int | str"]


class Net:
    """Writes a graph operator by operator; names are given in order, weights are seeded."""

    def __init__(self, seed: int = 0, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._prefix = prefix
        self._random = np.random.default_rng(seed)

    def input(self, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, *names: str) -> None:
        self.outputs += [onnx.ValueInfoProto(name=name) for name in names]

    def constant(self, array: NDArray[Any]) -> str:
        name = f"{self._prefix}w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, dtype: DTypeLike = np.float32) -> str:
        kind = np.dtype(dtype)
        if kind.kind == "f":
            scale = 1 / np.sqrt(shape[0])
            return self.constant((self._random.standard_normal(shape) * scale).astype(kind))
        limits = np.iinfo(kind)
        return self.constant(self._random.integers(limits.min, limits.max, shape, kind))

    def scales(self, *shape: int) -> str:
        """What quantises: by channel, by block, or one for all."""
        return self.constant(self._random.uniform(0.01, 0.02, shape).astype(np.float32))

    def below(self, limit: int, *shape: int, dtype: DTypeLike = np.int8) -> str:
        """Small integers: zero points and biases."""
        return self.constant(self._random.integers(-limit, limit, shape).astype(dtype))

    def bfloat16(self, *shape: int) -> str:
        bits = self._random.standard_normal(shape, np.float32).view(np.uint32) >> 16
        name = self.constant(bits.astype(np.uint16))
        self.weights[-1].data_type = TensorProto.BFLOAT16
        return name

    def widened(self, *shape: int, bfloat: bool = False) -> str:
        """Float32 values that float16 or bfloat16 hold."""
        values = (self._random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        if not bfloat:
            return self.constant(values.astype(np.float16).astype(np.float32))
        return self.constant((values.view(np.uint32) >> 16 << 16).view(np.float32))

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        return self.several(kind, *inputs, outputs=outputs, **attributes)[0]

    def several(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        name = f"{self._prefix}{kind.lower()}{len(self.nodes)}"
        names = [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name, **attributes))
        return names

    def dense(self, value: str, *shape: int) -> str:
        return self("MatMul", value, self.weight(*shape))

    def body(self, name: str, *, constant_nodes: bool = False) -> onnx.GraphProto:
        """A subgraph with its weights as initialisers or as Constant operators."""
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.weights)
        if constant_nodes:
            _use_constant_nodes(graph)
        return graph

    def model(self, opset: int = 17, *, ir_version: int = 8) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "toy", self.inputs, self.outputs, self.weights)
        domains = {node.domain for node in self.nodes if node.domain}
        imports = [
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(domain, 1) for domain in sorted(domains)),
        ]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(model, path)


def _save_unaligned(model: onnx.ModelProto, path: Path) -> None:
    """Weights in a file of their own, each at an odd offset."""
    data = bytearray(b"\xaa" * 7)
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        set_external_data(tensor, f"{path.stem}.weights", offset=len(data), length=len(raw))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        data += raw + b"\xaa" * (1 - len(raw) % 2)
    path.with_name(f"{path.stem}.weights").write_bytes(data)
    onnx.save_model(model, path)


@dataclass(frozen=True)
class Toy:
    """A model and how it is built.

    Attributes
    ----------
    sliced
        An operator is split: equality within 1e-6 of the largest magnitude, else to the bit.
    """

    make: Callable[[], onnx.ModelProto]
    max_block: str = "16KiB"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sliced: bool = False
    portable: bool = False
    save: Callable[[onnx.ModelProto, Path], None] = _save


def mlp(layers: int = 6, width: int = 64, **versions: int) -> onnx.ModelProto:
    """``layers`` square matrices with a Relu after each."""
    net = Net()
    value = net.input("x", (2, width))
    for _ in range(layers):
        value = net("Relu", net.dense(value, width, width))
    net.output(value)
    return net.model(**versions)


def _use_constant_nodes(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del graph.initializer[:]


def _constant_nodes() -> onnx.ModelProto:
    model = mlp()
    _use_constant_nodes(model.graph)
    return model


def _sparse() -> onnx.ModelProto:
    """Sparse weights in each of the two forms, as an initialiser and as a Constant operator."""
    net = Net()
    net.output(net("MatMul", net("Relu", net("MatMul", net.input("x", (2, 64)), "a")), "b"))
    model = net.model()
    random = np.random.default_rng(0)
    at = random.choice(64 * 64, 1000, replace=False)
    at.sort()
    for name, indices in (("a", at), ("b", np.stack(np.divmod(at, 64), axis=1))):
        values = random.standard_normal(len(at)).astype(np.float32)
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(values, name),
            numpy_helper.from_array(indices, f"{name}.at"),
            [64, 64],
        )
        if name == "a":
            model.graph.sparse_initializer.append(sparse)
        else:
            node = helper.make_node("Constant", [], [name], sparse_value=sparse)
            model.graph.node.insert(0, node)
    return model


def _listed_as_inputs() -> onnx.ModelProto:
    """Initialisers are graph inputs too, as before IR version 4."""
    model = mlp(opset=9, ir_version=3)
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
    return model


def _unsorted() -> onnx.ModelProto:
    model = mlp()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _used_twice() -> onnx.ModelProto:
    net = Net()
    value = net.input("x", (2, 64))
    twice = net.weight(64, 64)
    for _ in range(3):
        value = net("Tanh", net("MatMul", value, twice))
        value = net("Relu", net.dense(value, 64, 64))
    net.output(value)
    return net.model()


def _widened() -> onnx.ModelProto:
    """Float16 and bfloat16 in float32, shared, looked up, and beside values that are neither."""
    net = Net()
    value = net("Gather", net.widened(2048, 128), net.input("ids", (5,), TensorProto.INT64))
    twice = net.widened(128, 128)
    for index in range(6):
        value = net("Tanh", net("MatMul", value, net.widened(128, 128, bfloat=index % 2 == 1)))
        value = net("Add", value, net.weight(128))
        if index % 3 == 0:
            value = net("Tanh", net("MatMul", value, twice))
    net.output(net.dense(value, 128, 128))
    return net.model()


def _tied(kind: str) -> Callable[[], onnx.ModelProto]:
    """An embedding table of 1 MiB that also gives the logits."""

    def make() -> onnx.ModelProto:
        net = Net()
        ids = net.input("ids", (5,), TensorProto.INT64)
        table = net.weight(4096, 64)
        value = net("Relu", net.dense(net("Gather", table, ids), 64, 64))
        if kind == "Gemm":
            net.output(net("Gemm", value, table, transB=1))
        else:
            net.output(net("MatMul", value, net("Transpose", table, perm=[1, 0])))
        return net.model()

    return make


def _lookups() -> onnx.ModelProto:
    """Indices that are given, computed, negative; a table that is not the first operator."""
    net = Net()
    ids = net.input("ids", ("batch", 3), TensorProto.INT64)
    table = net.weight(4096, 64)
    embedded = net("Gather", table, ids)
    shifted = net("Sub", ids, net.constant(np.array(4096, np.int64)))
    value = net("Add", embedded, net("Gather", net.weight(4096, 64), shifted))
    net.output(net.dense(value, 64, 64), embedded)
    return net.model()


def _computed_indices(rows: int | str) -> Callable[[], onnx.ModelProto]:
    """Indices that an operator computes and that are an output too."""

    def make() -> onnx.ModelProto:
        net = Net()
        value = net.dense(net.input("x", (rows, 16)), 16, 4096)
        indices = net("ArgMax", value, axis=1, keepdims=0)
        net.output(net.dense(net("Gather", net.weight(4096, 64), indices), 64, 64), indices)
        return net.model()

    return make


def _dynamic() -> onnx.ModelProto:
    """Sequences of any length through an attention."""
    net = Net()
    value = net.input("x", ("batch", "length", 64))
    mask = net.input("mask", ("batch", "length"), TensorProto.INT64)
    keys = net.dense(value, 64, 64)
    scores = net("MatMul", net.dense(value, 64, 64), net("Transpose", keys, perm=[0, 2, 1]))
    bias = net("Unsqueeze", net("Cast", mask, to=TensorProto.FLOAT), net.constant(np.array([1])))
    mixed = net("MatMul", net("Softmax", net("Mul", scores, bias), axis=-1), value)
    shape = net("Shape", mixed)
    flat = net("Reshape", mixed, net.constant(np.array([-1, 64])))
    net.output(net("Reshape", net.dense(flat, 64, 64), shape))
    return net.model()


def _half() -> onnx.ModelProto:
    """Weights of half the size, widened at run time: folding would store them twice as large."""
    net = Net()
    value = net.input("x", (2, 128))
    for _ in range(4):
        wide = net("Cast", net.weight(128, 64, dtype=np.float16), to=TensorProto.FLOAT)
        value = net("Relu", net("MatMul", value, wide))
        value = net("Concat", value, value, axis=1)
    net.output(value)
    return net.model()


def _bfloat16() -> onnx.ModelProto:
    net = Net()
    value = net.input("x", (2, 64), TensorProto.BFLOAT16)
    for _ in range(3):
        wide = net("Cast", net.bfloat16(64, 64), to=TensorProto.FLOAT)
        value = net("MatMul", net("Cast", value, to=TensorProto.FLOAT), wide)
        value = net("Cast", value, to=TensorProto.BFLOAT16)
    net.output(net("Cast", value, to=TensorProto.FLOAT))
    return net.model()


def _integers() -> onnx.ModelProto:
    """uint8 activations, int8 and uint8 weights."""
    net = Net()
    image = net.input("image", (1, 16, 6, 6), TensorProto.UINT8)
    zero = net.constant(np.array(3, np.uint8))
    value = net("ConvInteger", image, net.weight(128, 16, 3, 3, dtype=np.uint8), zero)
    value = net("Cast", net("Reshape", value, net.constant(np.array([16, 128]))), to=1)
    rows, scale, zero = net.several("DynamicQuantizeLinear", value, outputs=3)
    product = net("MatMulInteger", rows, net.weight(128, 128, dtype=np.int8), zero)
    net.output(net("Mul", net("Cast", product, to=1), scale), product)
    return net.model()


def _quantised() -> onnx.ModelProto:
    """QLinearConv, QLinearMatMul and a weight behind DequantizeLinear."""
    net = Net()
    scale = net.constant(np.array(0.02, np.float32))
    zero, middle = net.constant(np.array(0, np.int8)), net.constant(np.array(128, np.uint8))
    value = net("QuantizeLinear", net.input("x", (1, 16, 6, 6)), scale, middle)
    kernel = net.weight(128, 16, 3, 3, dtype=np.int8)
    value = net("QLinearConv", value, scale, middle, kernel, scale, zero, scale, middle)
    value = net("Reshape", value, net.constant(np.array([16, 128])))
    matrix = net.weight(128, 128, dtype=np.int8)
    value = net("QLinearMatMul", value, scale, middle, matrix, scale, zero, scale, middle)
    value = net("DequantizeLinear", value, scale, middle)
    wide = net("DequantizeLinear", net.weight(128, 128, dtype=np.int8), scale, zero)
    net.output(net("MatMul", value, wide))
    return net.model()


def _microsoft() -> onnx.ModelProto:
    net = Net()
    value = net.input("x", (2, 64))
    for _ in range(3):
        value = net("FusedMatMul", value, net.weight(64, 64), transB=1, domain="com.microsoft")
        value = net("Gelu", value, domain="com.microsoft")
    net.output(value)
    return net.model()


def _branches() -> onnx.ModelProto:
    """Branches that capture a value and a weight, and hold weights; neither can be cut."""
    net, then, other = Net(), Net(prefix="then."), Net(prefix="else.")
    value = net.dense(net.input("x", (2, 64)), 64, 64)
    outer = net.weight(64, 64)
    inner = numpy_helper.from_array(np.full((64, 64), 0.01, np.float32), "inner")
    for branch, weight in ((then, outer), (other, "inner")):
        branch.output(branch("Relu", branch("MatMul", value, weight)))
    condition = net.input("condition", (), TensorProto.BOOL)
    value = net(
        "If",
        condition,
        then_branch=helper.make_graph(then.nodes, "then", [], then.outputs),
        else_branch=helper.make_graph(other.nodes, "else", [], other.outputs, [inner]),
    )
    net.output(net.dense(value, 64, 64))
    return net.model()


def _loop() -> onnx.ModelProto:
    """A body that runs three times, holds a weight and captures another."""
    net, body = Net(), Net(prefix="body.")
    value = net.dense(net.input("x", (2, 64)), 64, 64)
    outer = net.weight(64, 64)
    inner = numpy_helper.from_array(np.full((64, 64), 0.01, np.float32), "inner")
    body.input("i", (), TensorProto.INT64)
    go_on = body("Identity", body.input("go", (), TensorProto.BOOL))
    carried = body("MatMul", body("MatMul", body.input("carried", (2, 64)), outer), "inner")
    body.output(go_on, carried)
    graph = helper.make_graph(body.nodes, "body", body.inputs, body.outputs, [inner])
    trips = net.constant(np.array(3, np.int64))
    value = net("Loop", trips, net.constant(np.array(True)), value, body=graph)
    net.output(net.dense(value, 64, 64))
    return net.model()


def _nested() -> onnx.ModelProto:
    """Like Silero VAD: branches with all the weights, an LSTM in a branch of a branch.

    Both use the same names for other weights, hold one weight twice, and give one as it is.
    """
    net = Net()
    x, condition = net.input("x", (5, 2, 16)), net.input("condition", (), TensorProto.BOOL)
    branches: list[onnx.GraphProto] = []
    for seed in (1, 2):
        outer = Net(seed, prefix="branch.")
        positive = outer("Greater", outer("ReduceSum", x, keepdims=0), outer.scales())
        inner: list[onnx.GraphProto] = []
        for prefix in ("then.", "else."):
            recurrent = Net(3, prefix)
            weights = recurrent.weight(1, 128, 16), recurrent.weight(1, 128, 32)
            recurrent.output(
                recurrent.several(
                    "LSTM", x, *weights, recurrent.weight(1, 256), outputs=2, hidden_size=32
                )[1]
            )
            inner.append(recurrent.body(prefix, constant_nodes=prefix == "then."))
        last = outer("If", positive, then_branch=inner[0], else_branch=inner[1])
        value = outer.dense(last, 32, 64)
        outer.output(value, outer.weight(32, 32))
        branches.append(outer.body(f"branch{seed}", constant_nodes=seed == 1))
    value, fixed = net.several(
        "If", condition, outputs=2, then_branch=branches[0], else_branch=branches[1]
    )
    net.output(net.dense(value, 64, 64), net.dense(fixed, 32, 64))
    return net.model()


def _scan() -> onnx.ModelProto:
    """A body that runs once for each row and holds a weight; a branch in it holds another."""
    net, body = Net(), Net(1, prefix="body.")
    start, rows = net.input("start", (64,)), net.dense(net.input("x", (3, 64)), 64, 64)
    state, row = body.input("state", (64,)), body.input("row", (64,))
    value = body("Add", body.dense(row, 64, 64), state)
    branches: dict[str, onnx.GraphProto] = {}
    for kind in ("then", "else"):
        branch = Net(2 + len(branches), prefix=f"{kind}.")
        branch.output(branch("Tanh", branch.dense(value, 64, 64)))
        branches[f"{kind}_branch"] = branch.body(kind)
    positive = body("Greater", body("ReduceSum", row, keepdims=0), body.scales())
    value = body("If", positive, **branches)
    body.output(value, body("Neg", value))
    graph = body.body("body")
    last, every = net.several("Scan", start, rows, outputs=2, body=graph, num_scan_inputs=1)
    net.output(net.dense(last, 64, 64), net.dense(every, 64, 64))
    return net.model()


def _ends() -> onnx.ModelProto:
    """Outputs that are used further on, an input and a constant as outputs, an unused input."""
    net = Net()
    first = net("Relu", net.dense(net.input("x", (2, 64)), 64, 64))
    second = net.dense(first, 64, 64)
    third = net("Add", net.dense(second, 64, 64), first)
    net.input("unused", (4,))
    fixed = net.weight(64, 64)
    fourth = net("MatMul", third, fixed)
    net.output(third, net.input("straight", (3,)), first, fixed, second, fourth)
    return net.model()


def _sequence() -> onnx.ModelProto:
    """A value that is no tensor, between operators with weights."""
    net = Net()
    value = net.dense(net.input("x", (4, 64)), 64, 64)
    parts = net("SplitToSequence", value, axis=0, keepdims=1)
    picked = [net("SequenceAt", parts, net.constant(np.array(i))) for i in (0, 3)]
    net.output(*(net.dense(value, 64, 64) for value in picked))
    return net.model()


def _images(width: int) -> Callable[[], onnx.ModelProto]:
    """Convolutions with a skip connection, a depthwise and a transposed one."""

    def make() -> onnx.ModelProto:
        net = Net()
        around = [1, 1, 1, 1]
        value = net.input("image", (1, 3, 8, 8))
        value = net("Conv", value, net.weight(width, 3, 3, 3), net.weight(width), pads=around)
        skip = value = net("Relu", value)
        for _ in range(2):
            kernel = net.weight(width, width, 3, 3)
            value = net("Relu", net("Conv", value, kernel, net.weight(width), pads=around))
        value = net("Relu", net("Add", value, skip))
        value = net("Conv", value, net.weight(width, 1, 3, 3), group=width, pads=around)
        value = net("ConvTranspose", value, net.weight(width, 4, 2, 2), strides=[2, 2])
        net.output(net("GlobalAveragePool", value), value)
        return net.model()

    return make


def _wide(opset: int) -> Callable[[], onnx.ModelProto]:
    """Gemm and MatMul of four times the block limit, a bias that is computed."""

    def make() -> onnx.ModelProto:
        net = Net()
        value = net.input("x", (3, 64))
        value = net("Relu", net("Gemm", value, net.weight(256, 64), net.weight(256), transB=1))
        bias = net("Tanh", net.dense(value, 256, 200))
        value = net("Gemm", value, net.weight(256, 200), bias)
        net.output(net("Relu", net.dense(net("Softmax", value, axis=1), 200, 96)))
        return net.model(opset)

    return make


def _grouped() -> onnx.ModelProto:
    """Convolutions and transposed ones, in groups and not, each larger than a block."""
    net = Net()
    value = net.input("image", (1, 64, 6, 6))
    around = [1, 1, 1, 1]
    value = net("Conv", value, net.weight(64, 16, 3, 3), net.weight(64), group=4, pads=around)
    value = net("Relu", value)
    value = net("ConvTranspose", value, net.weight(64, 48, 3, 3), net.weight(48), strides=[2, 2])
    value = net("ConvTranspose", value, net.weight(48, 24, 3, 3), net.weight(72), group=3)
    net.output(net("GlobalAveragePool", value), value)
    return net.model()


def _integers_sliced() -> onnx.ModelProto:
    """Integer products larger than a block, with a zero point for each column or for all."""
    net = Net()
    image = net.input("image", (1, 16, 6, 6), TensorProto.UINT8)
    zeros = net.constant(np.array(3, np.uint8)), net.constant(np.array(100, np.uint8))
    value = net("ConvInteger", image, net.weight(256, 16, 3, 3, dtype=np.uint8), *zeros)
    flat = net.constant(np.array([32, 128]))
    value = net("Sigmoid", net("Mul", net("Cast", value, to=1), net.scales()))
    value = net("Reshape", value, flat)
    rows, _, zero = net.several("DynamicQuantizeLinear", value, outputs=3)
    matrix, columns = net.weight(128, 160, dtype=np.int8), net.below(9, 160)
    net.output(net("MatMulInteger", rows, matrix, zero, columns))
    pixels = net("Reshape", image, net.constant(np.array([9, 64])))
    scaled = net.weight(64, 320, dtype=np.int8), net.scales(), net.scales(320)
    offsets = zeros[0], net.below(9, 320), net.weight(320)
    value = net("MatMulIntegerToFloat", pixels, *scaled, *offsets, domain="com.microsoft")
    dynamic = net.weight(320, 100, dtype=np.int8), net.scales(), net.below(9), net.weight(100)
    net.output(net("DynamicQuantizeMatMul", value, *dynamic, domain="com.microsoft"))
    return net.model()


def _quantised_sliced() -> onnx.ModelProto:
    """Quantised operators larger than a block, with scales for each channel."""
    net = Net()
    scale, coarse = net.scales(), net.constant(np.array(4, np.float32))
    middle = net.constant(np.array(128, np.uint8))
    value = net("QuantizeLinear", net.input("x", (1, 16, 6, 6)), scale, middle)
    for group, channels in ((1, 128), (4, 64)):
        kernel = net.weight(channels, 16 if group == 1 else 32, 3, 3, dtype=np.int8)
        weight = kernel, net.scales(channels), net.constant(np.zeros(channels, np.int8))
        bias = net.below(999, channels, dtype=np.int32)
        around: dict[str, Any] = {"group": group, "pads": [1, 1, 1, 1]}
        value = net("QLinearConv", value, scale, middle, *weight, coarse, middle, bias, **around)
    value = net("Reshape", value, net.constant(np.array([18, 128])))
    weight = net.weight(128, 160, dtype=np.int8), net.scales(160), net.below(9, 160)
    value = net("QLinearMatMul", value, scale, middle, *weight, coarse, middle)
    zeros = net.constant(np.zeros(200, np.int8))
    weight = net.weight(200, 160, dtype=np.int8), net.scales(200), zeros
    bias = net.below(999, 200, dtype=np.int32)
    attributes: dict[str, Any] = {"transB": 1, "domain": "com.microsoft"}
    value = net("QGemm", value, scale, middle, *weight, bias, coarse, middle, **attributes)
    shared = net.weight(200, 160, dtype=np.uint8), scale, middle
    net.output(net("QLinearMatMul", value, scale, middle, *shared, coarse, middle))
    return net.model()


def _dequantised() -> onnx.ModelProto:
    """Weights larger than a block behind DequantizeLinear, scaled by channel, row or tensor.

    Of signs, for ONNX Runtime rounds what it multiplies with such weights to eight bits.
    """
    net = Net()
    value = net.input("x", (1, 32, 6, 6))
    kernel = net.weight(64, 32, 3, 3, dtype=np.int8), net.scales(64), net.below(9, 64)
    value = net("Conv", value, net("DequantizeLinear", *kernel, axis=0), net.weight(64))
    value = net("Sign", net("Reshape", value, net.constant(np.array([8, 128]))))
    columns = net.weight(128, 160, dtype=np.uint8), net.scales(160)
    value = net("Sign", net("MatMul", value, net("DequantizeLinear", *columns, axis=1)))
    rows = net.weight(200, 160, dtype=np.int8), net.scales(160)
    value = net("Sign", net("Gemm", value, net("DequantizeLinear", *rows, axis=1), transB=1))
    plain = net.weight(200, 96, dtype=np.int8), net.scales(), net.below(9)
    net.output(net("MatMul", value, net("DequantizeLinear", *plain)))
    return net.model()


def _recurrent() -> onnx.ModelProto:
    net = Net()
    value = net.input("x", (5, 2, 16))
    weights = net.weight(1, 128, 16), net.weight(1, 128, 32), net.weight(1, 256)
    value = net.several("LSTM", value, *weights, outputs=3, hidden_size=32)[0]
    value = net("Squeeze", value, net.constant(np.array([1])))
    net.output(net.dense(value, 32, 64))
    return net.model()


def _both_directions(kind: str, gates: int, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    """A recurrent operator of two directions with a state that is given, larger than a block."""

    def make() -> onnx.ModelProto:
        net = Net()
        state = [net.input("state", (2, 3, 32))]
        if kind == "LSTM":
            state.append(net.constant(np.full((2, 3, 32), 0.1, np.float32)))
        weights = [net.weight(2, 32 * gates, width) for width in (16, 32)]
        given = [net.input("x", (5, 3, 16)), *weights, net.weight(2, 64 * gates), "", *state]
        attributes.update(hidden_size=32, direction="bidirectional")
        every, *last = net.several(kind, *given, outputs=1 + len(state), **attributes)
        flat = net("Reshape", every, net.constant(np.array([15, 64])))
        net.output(net.dense(flat, 64, 64), *last)
        return net.model()

    return make


def _last_of_both() -> onnx.ModelProto:
    """Only the last state of a recurrent operator of two directions, and lengths of sequences."""
    net = Net()
    lengths = net.constant(np.array([5, 2, 4], np.int32))
    given = net.input("x", (5, 3, 16)), net.weight(2, 96, 16), net.weight(2, 96, 32), "", lengths
    names = ["", "last"]
    attributes: dict[str, Any] = {"hidden_size": 32, "direction": "bidirectional"}
    net.nodes.append(helper.make_node("GRU", given, names, "gru", **attributes))
    net.output("last")
    return net.model()


def _packing() -> onnx.ModelProto:
    """Every operator whose kernels pack weights, one after the other."""
    net = Net()
    value = net.input("x", ("time", 1, 128))
    lstm = net.weight(2, 256, 128), net.weight(2, 256, 64), net.weight(2, 512)
    value = net("LSTM", value, *lstm, hidden_size=64, direction="bidirectional")
    value = net("Reshape", value, net.constant(np.array([0, 1, 128])))
    gru = net.weight(1, 192, 128), net.weight(1, 192, 64)
    value = net("Squeeze", net("GRU", value, *gru, hidden_size=64), net.constant(np.array([1])))
    integers = net.weight(1, 64, 512, dtype=np.int8), net.weight(1, 128, 512, dtype=np.int8)
    scale, zero = net.constant(np.array([0.01], np.float32)), net.constant(np.array([0], np.int8))
    given = [value, *integers, net.weight(1, 1024), "", "", "", "", scale, zero, scale, zero]
    value = net("DynamicQuantizeLSTM", *given, hidden_size=128, domain="com.microsoft")
    value = net("Reshape", value, net.constant(np.array([1, -1, 128])))
    given = [value, net.weight(128, 384), net.weight(384)]
    value = net("Attention", *given, num_heads=2, domain="com.microsoft")
    value = net("Squeeze", value, net.constant(np.array([0])))
    value = net("Tanh", net.dense(value, 128, 192))
    value = net("Relu", net("Gemm", value, net.weight(192, 256), net.weight(256)))
    value = net("FusedMatMul", value, net.weight(128, 256), transB=1, domain="com.microsoft")
    value = net("Gemm", value, net.weight(128, 128), net.weight(128))
    scale, zero = (
        net.constant(np.array([0.002], np.float32)),
        net.constant(np.array([120], np.uint8)),
    )
    given = [value, net.weight(128, 320, dtype=np.uint8), scale, zero]
    value = net("Tanh", net("DynamicQuantizeMatMul", *given, domain="com.microsoft"))
    net.output(value)
    small, scale, zero = net.several("DynamicQuantizeLinear", value, outputs=3)
    value = net("MatMulInteger", small, net.weight(320, 192, dtype=np.int8), zero)
    value = net(
        "Div", net("Cast", value, to=TensorProto.FLOAT), net.constant(np.array(1e5, np.float32))
    )
    steps = net.constant(np.array(0.02, np.float32)), net.constant(np.array(128, np.uint8))
    matrix = net.weight(192, 192, dtype=np.uint8), net.constant(np.array(0.004, np.float32))
    value = net("QuantizeLinear", value, *steps)
    given = [value, net.weight(192, 192, dtype=np.int8), steps[0], matrix[1], steps[1]]
    value = net("Tanh", net("MatMulIntegerToFloat", *given, domain="com.microsoft"))
    value = net("QuantizeLinear", value, *steps)
    value = net("QLinearMatMul", value, *steps, *matrix, steps[1], *steps)
    net.output(net("DequantizeLinear", value, *steps))
    return net.model()


def _packing_bits() -> onnx.ModelProto:
    """Products of 4 and 8 bits: scales packed too, and read beside what is packed."""
    net = Net()
    bit_products: dict[str, Any] = {"domain": "com.microsoft", "block_size": 32}
    value = net.input("x", ("rows", 320))
    given = [value, net.weight(256, 10, 16, dtype=np.uint8), net.scales(2560)]
    value = net("MatMulNBits", *given, K=320, N=256, bits=4, accuracy_level=4, **bit_products)
    given = [net("Tanh", value), net.weight(256, 8, 32, dtype=np.uint8), net.scales(2048)]
    value = net("MatMulNBits", *given, K=256, N=256, bits=8, accuracy_level=4, **bit_products)
    given = [net("Tanh", value), net.weight(1024, 8, 16, dtype=np.uint8), net.scales(8192)]
    given += [net.weight(1024, 4, dtype=np.uint8), "", net.weight(1024)]
    value = net("MatMulNBits", *given, K=256, N=1024, bits=4, accuracy_level=0, **bit_products)
    net.output(value)
    return net.model()


def _transformer(length: int | str, width: int, opset: int = 17) -> Callable[[], onnx.ModelProto]:
    """Products of few rows: some of one value, with and without bias, Relu and what is between."""

    def make() -> onnx.ModelProto:
        net = Net()
        value = net.input("x", ("batch", length, width))
        query, key, mixed = (
            net("Add", net.dense(value, width, width), net.weight(width)) for _ in range(3)
        )
        scores = net("MatMul", query, net("Transpose", key, perm=[0, 2, 1]))
        mixed = net("MatMul", net("Softmax", scores, axis=2), mixed)
        value = net("Add", value, net("Add", net.weight(width), net.dense(mixed, width, width)))
        wide = net("Relu", net("Add", net.dense(value, width, 2 * width), net.weight(2 * width)))
        value = net("Add", value, net.dense(wide, 2 * width, width))
        flat = net("Reshape", value, net.constant(np.array([-1, width])))
        transposed = net("Gemm", flat, net.weight(width, width), net.weight(width), transB=1)
        net.output(net("Relu", transposed), net("Relu", net.dense(flat, width, width)))
        return net.model(opset)

    return make


def _many() -> onnx.ModelProto:
    """Two hundred operators without weights between two with."""
    net = Net()
    start = value = net.dense(net.input("x", (2, 64)), 64, 64)
    for index in range(200):
        value = net("Sin" if index % 2 else "Cos", value)
    net.output(net.dense(net("Add", value, start), 64, 64))
    return net.model()


def _weightless() -> onnx.ModelProto:
    net = Net()
    net.output(net("Sigmoid", net("Neg", net.input("x", (2, 3)))))
    return net.model()


def _only_lookup() -> onnx.ModelProto:
    net = Net()
    net.output(net("Gather", net.weight(4096, 64), net.input("ids", (2, 3), TensorProto.INT32)))
    return net.model()


TOYS: Mapping[str, Toy] = {
    "constant-nodes": Toy(_constant_nodes),
    "sparse": Toy(_sparse),
    "listed-as-inputs": Toy(_listed_as_inputs),
    "external-unaligned": Toy(mlp, save=_save_unaligned),
    "unsorted": Toy(_unsorted),
    "used-twice": Toy(_used_twice),
    "widened": Toy(_widened, max_block="136KiB"),
    "tied-gemm": Toy(_tied("Gemm"), max_block="2MiB"),
    "tied-gemm-sliced": Toy(_tied("Gemm"), max_block="256KiB", sliced=True),
    "tied-matmul": Toy(_tied("MatMul"), max_block="2MiB"),
    "tied-matmul-sliced": Toy(_tied("MatMul"), max_block="256KiB", sliced=True),
    "lookups": Toy(_lookups, shapes={"ids": (4, 3)}),
    "computed-indices": Toy(_computed_indices(4)),
    "computed-indices-dynamic": Toy(_computed_indices("rows"), shapes={"x": (4, 16)}),
    "only-lookup": Toy(_only_lookup),
    "dynamic": Toy(_dynamic, shapes={"x": (3, 7, 64)}),
    "half": Toy(_half),
    "half-sliced": Toy(_half, max_block="8KiB", sliced=True),
    "bfloat16": Toy(_bfloat16),
    "bfloat16-sliced": Toy(_bfloat16, max_block="4KiB", sliced=True),
    "integers": Toy(_integers),
    "quantised": Toy(_quantised),
    "integers-sliced": Toy(_integers_sliced, sliced=True),
    "quantised-sliced": Toy(_quantised_sliced),
    "quantised-sliced-portable": Toy(_quantised_sliced, portable=True),
    "dequantised-sliced": Toy(_dequantised, sliced=True),
    "microsoft": Toy(_microsoft),
    "branches": Toy(_branches),
    "loop": Toy(_loop),
    "nested": Toy(_nested),
    "scan": Toy(_scan),
    "ends": Toy(_ends),
    "sequence": Toy(_sequence),
    "images": Toy(_images(16)),
    "images-portable": Toy(_images(16), portable=True),
    "images-sliced": Toy(_images(48), sliced=True),
    "grouped-sliced": Toy(_grouped, sliced=True),
    "grouped-sliced-portable": Toy(_grouped, sliced=True, portable=True),
    "wide-opset-7": Toy(_wide(7), sliced=True),
    "wide-opset-21": Toy(_wide(21), sliced=True),
    "packing": Toy(_packing, max_block="128KiB", shapes={"x": (5, 1, 128)}),
    "packing-bits": Toy(_packing_bits, max_block="64KiB", shapes={"x": (5, 320)}),
    "recurrent": Toy(_recurrent),
    "lstm-sliced": Toy(_both_directions("LSTM", 4)),
    "gru-sliced": Toy(_both_directions("GRU", 3, linear_before_reset=1), max_block="24KiB"),
    "rnn-sliced": Toy(_both_directions("RNN", 1, activations=["Tanh", "Relu"]), max_block="8KiB"),
    "gru-last-sliced": Toy(_last_of_both, max_block="24KiB"),
    "transformer": Toy(_transformer(24, 256), max_block="640KiB"),
    "transformer-opset-12": Toy(_transformer(24, 256, 12), max_block="640KiB"),
    "transformer-dynamic": Toy(
        _transformer("length", 256), max_block="640KiB", shapes={"x": (2, 12, 256)}
    ),
    "transformer-sliced": Toy(_transformer(24, 256), max_block="128KiB", sliced=True),
    "transformer-portable": Toy(_transformer(24, 256), max_block="640KiB", portable=True),
    "many": Toy(_many),
    "weightless": Toy(_weightless),
}
"""By trap; a backend is right when it executes all of them."""
