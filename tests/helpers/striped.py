"""A model whose blocks are executed in strips of rows at small budgets."""

from __future__ import annotations

import numpy as np
import onnx

from tests.helpers.zoo import Net

__all__ = ["u_shape"]


def u_shape(height: int | str, width: int | str) -> onnx.ModelProto:
    """Down by four and up again, with a scale for all rows, and outputs of two heights."""
    net = Net()
    x = net.input("x", (1, 3, height, width))

    def conv(value: str, inner: int, channels: int, stride: int = 1) -> str:
        weight = net.weight(channels, inner, 3, 3)
        return net("Relu", net("Conv", value, weight, pads=[1] * 4, strides=[stride] * 2))

    second = conv(conv(conv(x, 3, 32), 32, 32), 32, 32, 2)
    deep = net(
        "MaxPool", net("Add", second, conv(second, 32, 32)), kernel_shape=[2, 2], strides=[2, 2]
    )
    deep = net("Mul", conv(deep, 32, 32), net.input("scale", (1, 32, 1, 1)))
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    up = net("Resize", deep, "", scales, mode="linear")
    net.output(net("Conv", net("Concat", up, second, axis=1), net.weight(8, 64, 1, 1)), deep)
    return net.model()
