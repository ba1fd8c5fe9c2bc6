"""ONNX in, engine directory out: read, optimise, slice, cut, compile, measure."""

from swapnet.builder.build import BACKENDS, build

__all__ = ["BACKENDS", "build"]
