"""A model in the precision that was asked for, as a runtime library takes it best."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from swapnet.builder.importing.graph import copied
from swapnet.builder.importing.source import PROTOBUF_LIMIT_BYTES, SourceModel, open_source
from swapnet.builder.precision.activations import (
    SATURATING,
    SIGNED,
    UNSIGNED,
    Encoding,
    quantise_activations,
)
from swapnet.builder.precision.biases import correct_biases, quantise_biases
from swapnet.builder.precision.half import to_float16
from swapnet.builder.precision.int4 import BLOCK_SIZES, in_int4
from swapnet.builder.precision.normalise import normalise
from swapnet.builder.precision.selection import (
    Weighted,
    activation_names,
    channelled,
    check_excluded,
    check_int8,
    quantisable,
    weighted,
)
from swapnet.builder.precision.weights import LIMIT, quantise_weights
from swapnet.builder.rewriting.narrowing import Narrow
from swapnet.errors import InputError
from swapnet.fingerprint import int8_saturates
from swapnet.manifest import Precision
from swapnet.ranges import RangeCache, check_means, check_ranges
from swapnet.tensorrt import TENSORRT

__all__ = [
    "Converted",
    "PrecisionOptions",
    "Slower",
    "convert",
    "interchange",
    "library_of",
]

Slower = Callable[["onnx.ModelProto", Collection[str]], Collection[str]]
"""Takes a normalised model, and names to leave out; gives operators that int8 makes slower."""

_INT8_WEIGHTS = "int8.data"

_FUSED = frozenset({"Add", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"})
"""Kinds that ONNX Runtime fuses into the product before them."""


@dataclass(frozen=True)
class PrecisionOptions:
    """Precision in which a model is stored and computed.

    Attributes
    ----------
    precision
        ``"fp32"`` leaves it as it is.
    weight_only
        Weights are stored so, and computed with in float32. On the CPU float16 is always so.
    ranges
        Calibration cache: int8 activations need one; float16 leaves in float32 what overflows
        according to it.
    exclude
        Names of operators that stay in float32.
    per_channel
        A scale for each output channel of an int8 weight, else one for all of it.
    block_size
        Number of int4 weights that share a scale; None for 32.
    """

    precision: Precision = "fp32"
    weight_only: bool = False
    ranges: RangeCache | None = None
    exclude: tuple[str, ...] = ()
    per_channel: bool = True
    block_size: int | None = None

    def is_stored_only(self, backend: str) -> bool:
        """Whether weights are stored in the precision, and computed with in float32."""
        on_cpu = backend == "onnxruntime"
        return self.weight_only or (on_cpu and self.precision == "fp16")

    def uses_ranges(self, backend: str) -> bool:
        """Whether ranges of values change what is built."""
        has_ranges = self.precision in ("fp16", "int8")
        return has_ranges and not self.widens_in_blocks(backend)

    def widens_in_blocks(self, backend: str) -> bool:
        """Whether blocks widen weights that are stored narrow, and the model stays as it is."""
        is_widened = self.precision != "int4" and self.is_stored_only(backend)
        return is_widened and backend not in TENSORRT

    def check(self, backend: str, *, calibrated: bool = False, data: bool = False) -> None:
        """Refuse options that do not go together.

        ``calibrated`` says that there will be ranges, ``data`` that they will be taken from data.

        Raises
        ------
        InputError
            int8 without ranges, options without a lower precision or of another one, or no kernels
            for it there.
        """
        calibrated = calibrated or self.ranges is not None
        block_size = self.block_size
        if block_size is not None and (self.precision != "int4" or block_size not in BLOCK_SIZES):
            raise InputError(
                f"a block size of {block_size} is not for {self.precision}",
                why=f"blocks of int4 have {', '.join(map(str, BLOCK_SIZES))} weights, others have "
                "none",
                hint="give --precision int4 and one of these, or leave --block-size out",
            )
        if self.precision == "int4":
            _check_int4(backend, calibrated=calibrated)
        if self.precision == "fp32":
            given = {
                "weight-only": self.weight_only,
                "calibration": calibrated,
                "exclude": bool(self.exclude),
            }
            for name in (name for name, is_given in given.items() if is_given):
                raise InputError(
                    f"--{name} is not for fp32",
                    why="it says how a lower precision is reached",
                    hint="give --precision fp16, int8 or int4 too",
                )
        if self.precision == "fp16" and self.weight_only and backend in TENSORRT:
            raise InputError(
                f"float16 weights alone are not for {backend}",
                why="it computes in float16 where weights are float16",
                hint="leave --weight-only out, or give --precision int8",
            )
        if self.precision != "int8" or self.weight_only:
            return
        if backend == "onnxruntime-cuda":
            raise InputError(
                "onnxruntime-cuda does not compute in int8",
                why="ONNX Runtime's CUDA provider has no int8 kernels of convolutions and products",
                hint="add --weight-only: weights stored as int8, computed with in float32",
            )
        if not calibrated and not data:
            raise InputError(
                "int8 needs the ranges of the model's values",
                why="no calibration cache is given, and no data to measure them on",
                hint="give --data or --calibration (in Python: calibration=calibrate_model(model, "
                "data)), or --weight-only: weights in int8, values in float32",
            )


def _check_int4(backend: str, *, calibrated: bool) -> None:
    if backend != "onnxruntime":
        raise InputError(
            f"int4 is not for {backend}",
            why="MatMulNBits, the product of 4 bits, is ONNX Runtime's own and runs on the CPU",
            hint="give --backend onnxruntime, or --precision int8",
        )
    if calibrated:
        raise InputError(
            "int4 takes no ranges",
            why="its weights are rounded without data, and values where they are multiplied",
            hint="leave --calibration out; swapnet quantize needs no --data either",
        )


@dataclass(frozen=True)
class Converted:
    """A model to optimise, cut and compile.

    Attributes
    ----------
    source
        The model, or what it was converted to, with the name and hash of the original.
    narrow
        Form in which its float32 weights are stored; None for float32.
    keep
        Names of operators, as they are or fused, with weights that stay float32 all the same.
    full_range
        int8 weights have all 8 bits: where sums of products saturate the result is wrong.
    """

    source: SourceModel
    narrow: Narrow | None = None
    keep: frozenset[str] = frozenset()
    full_range: bool = False


def convert(
    source: SourceModel,
    options: PrecisionOptions,
    folder: Path,
    *,
    backend: str,
    slower: Slower,
    portable: bool = False,
) -> Converted:
    """Convert for a backend; fp32 is the model itself.

    ===========  =======================  ==========================  ==========================
    ..           onnxruntime              tensorrt, tensorrt-rtx      onnxruntime-cuda
    ===========  =======================  ==========================  ==========================
    fp16         float16 weights          float16 values and weights  float16 values and weights
    int8         uint8 values, int8       int8 values with zero       refused
                 weights (7 bits where    point 0, int8 weights
                 sums may saturate)
    weight_only  float16, or int8 in      int8 by output channel      float16, or int8 in groups
                 groups
    int4         int4 weights in blocks   refused                     refused
    ===========  =======================  ==========================  ==========================

    Parameters
    ----------
    folder
        Folder for converted models; they must stay there while the result is used.
    slower
        Says which operators int8 does not make faster; the CPU computes them in float32 from
        weights that are stored narrow.
    portable
        Convert for any processor, also for one where sums of int8 products saturate.

    Raises
    ------
    InputError
        An excluded operator does not exist, or the ranges are of another model.
    ModelError
        The model can't be converted, or nothing of it computes in int8.
    """
    if options.precision == "fp32":
        return Converted(source)
    if options.ranges is not None:
        check_ranges(options.ranges, source.identity, ())
    narrow: Narrow = "int8" if options.precision == "int8" else "float16"
    on_cpu = backend == "onnxruntime"
    stores_narrow = options.widens_in_blocks(backend)
    if stores_narrow and not options.exclude:
        return Converted(source, narrow)
    normal = normalise(source, folder)
    graph = normal.proto.graph
    check_excluded(graph, options.exclude)
    if options.precision == "int4":
        # As onnxruntime-genai: at level 0 a product takes several times as long.
        level = 0 if options.weight_only else 4
        proto = in_int4(
            normal,
            folder,
            block_size=options.block_size or BLOCK_SIZES[0],
            accuracy_level=level,
            exclude=options.exclude,
        )
        return Converted(_written(normal, proto, folder))
    keep = _fused_names(graph, options.exclude)
    if stores_narrow:
        return Converted(normal, narrow, keep)
    if options.precision == "fp16":
        ranges = options.ranges.ranges if options.ranges else {}
        half = to_float16(normal.proto, folder, ranges=ranges, exclude=options.exclude)
        return Converted(_written(normal, half, folder))
    if options.weight_only:
        return Converted(_with_int8_weights(normal, options, folder))
    if on_cpu:
        kept = {*options.exclude, *slower(normal.proto, options.exclude)}
        encoding = SATURATING if portable or int8_saturates() else UNSIGNED
        quantised = _in_int8(normal, options, folder, kept, encoding)
        return Converted(quantised, narrow, keep, full_range=encoding is UNSIGNED)
    return Converted(_in_int8(normal, options, folder, options.exclude, SIGNED))


def library_of(precision: Precision) -> str:
    """The backend with the rules that a file in a precision follows."""
    return "onnxruntime" if precision == "int4" else "tensorrt"


def interchange(source: SourceModel, options: PrecisionOptions, folder: Path) -> onnx.ModelProto:
    """The model in standard operators, for any library: symmetric Q/DQ pairs, or float16.

    int4 is for ONNX Runtime. Its weights are written to ``folder``; raises as `convert`.
    """
    converted = convert(
        source,
        options,
        folder,
        backend=library_of(options.precision),
        slower=lambda *_: frozenset[str](),
    )
    return converted.source.proto


def _in_int8(
    normal: SourceModel,
    options: PrecisionOptions,
    folder: Path,
    exclude: Collection[str],
    encoding: Encoding,
) -> SourceModel:
    """Q/DQ pairs around what computes in int8."""
    graph = normal.proto.graph
    compute = _scaled(weighted(graph, exclude=exclude), options)
    check_int8(graph, normal.name)
    if not compute:
        raise InputError(
            f"nothing of {normal.name} is left to compute in int8",
            why=f"{len(exclude)} operators are excluded or slower in int8, all that could",
            hint="exclude fewer, or add --weight-only",
        )
    assert options.ranges is not None
    operators = quantisable(graph, exclude=exclude)
    needed = activation_names(graph, exclude=exclude)
    check_ranges(options.ranges, normal.identity, needed)
    proto = _with_rounded(normal, options, folder, compute, limit=encoding.weight_limit)
    ranges = {name: options.ranges.ranges[name] for name in needed}
    quantised = quantise_activations(proto, folder, operators, ranges, encoding)
    if not encoding.symmetric:
        quantise_biases(quantised, folder)
    return _written(normal, quantised, folder)


def _with_int8_weights(normal: SourceModel, options: PrecisionOptions, folder: Path) -> SourceModel:
    stored = _scaled(weighted(normal.proto.graph, exclude=options.exclude), options)
    return _written(normal, _with_rounded(normal, options, folder, stored, limit=LIMIT), folder)


def _with_rounded(
    normal: SourceModel,
    options: PrecisionOptions,
    folder: Path,
    operators: Sequence[Weighted],
    *,
    limit: int,
) -> onnx.ModelProto:
    """A copy with int8 weights, and biases that make up for their rounding where means are known.

    Raises
    ------
    InputError
        A value has more or fewer channels than means.
    """
    proto = copied(normal.proto)
    quantise_weights(proto, folder, operators, _INT8_WEIGHTS, limit=limit)
    if options.ranges is not None:
        channels = channelled(normal.proto.graph)
        check_means(options.ranges, {name: given.count for name, given in channels.items()})
        means = {n: found for n, found in options.ranges.means.items() if n in channels}
        correct_biases(proto, normal.proto, folder, operators, means)
    return proto


def _scaled(operators: Sequence[Weighted], options: PrecisionOptions) -> tuple[Weighted, ...]:
    """The operators with one scale for a whole weight, if that was chosen."""
    if options.per_channel:
        return tuple(operators)
    return tuple(replace(one, axis=None) for one in operators)


def _written(normal: SourceModel, proto: onnx.ModelProto, folder: Path) -> SourceModel:
    """Save a converted model as a file to optimise."""
    path = folder / "converted-precision.onnx"
    large = proto.ByteSize() >= PROTOBUF_LIMIT_BYTES
    onnx.save_model(proto, path, save_as_external_data=large, location=f"{path.stem}.data")
    converted = open_source(path)
    return replace(converted, sha256=normal.sha256, name=normal.name, data=normal.data)


def _fused_names(graph: onnx.GraphProto, exclude: Collection[str]) -> frozenset[str]:
    """Names that excluded operators may have once they are fused with those that follow.

    ONNX Runtime names a fused operator after its last part, and one in a hardware layout after
    its output.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    names: set[str] = set()
    for node in graph.node:
        last = node if node.name in exclude else None
        while last is not None:
            names.update((last.name, f"{last.output[0]}_nchwc"))
            following = readers.get(last.output[0], [])
            is_fused = len(following) == 1 and following[0].op_type in _FUSED
            last = following[0] if is_fused else None
    return frozenset(names)
