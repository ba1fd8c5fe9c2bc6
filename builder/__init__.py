"""ONNX in, engine directory out: import, rewrite, cut, compile, write, measure."""

from swapnet.builder.build import build, build_with
from swapnet.builder.compilers.tensorrt.options import TensorRTOptions
from swapnet.builder.options import BACKENDS, BuildOptions
from swapnet.builder.precision.convert import PrecisionOptions

__all__ = [
    "BACKENDS",
    "BuildOptions",
    "PrecisionOptions",
    "TensorRTOptions",
    "build",
    "build_with",
]
