"""Small alternatives timed beside each other, as the executor would run them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from swapnet.builder.importing.graph import Graph, used_names
from swapnet.executor.backends.onnxruntime import session_options
from swapnet.executor.device import available_processors
from swapnet.tensors import ONNX_TYPES, numpy_dtype

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Candidate", "candidate", "time_alternatives"]

_ROUNDS = 15
_FEWEST_ROUNDS = 5
_PATIENCE_MS = 300.0
"""After so long, and `_FEWEST_ROUNDS`, alternatives have been compared enough."""

_GIVEN_BELOW_BYTES = 64 << 10
"""Larger weights take random numbers: kernels are as fast with any."""

_IR_VERSION = 10

_Key = tuple[Any, ...]
_known: dict[_Key, tuple[float, ...]] = {}


@dataclass(frozen=True)
class Candidate:
    """A few operators to time.

    Attributes
    ----------
    nodes
        In execution order.
    inline
        Constants that stay in the skeleton.
    inputs
        Element type and shape of what else is read, weights among it.
    given
        Numbers of small weights, such as zero points; those of other inputs are random.
    outputs
        Names of the results.
    opset_imports
        Version of each domain.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inline: Mapping[str, onnx.TensorProto]
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    given: Mapping[str, npt.NDArray[np.generic]]
    outputs: tuple[str, ...]
    opset_imports: tuple[onnx.OperatorSetIdProto, ...]


def candidate(graph: Graph, nodes: Iterable[onnx.NodeProto] | None = None) -> Candidate:
    """Operators of a graph with planned shapes as a candidate; by default all of them.

    The values that none of them reads are the outputs.
    """
    chosen = tuple(graph.nodes if nodes is None else nodes)
    used = dict.fromkeys(name for node in chosen for name in used_names(node))
    written = dict.fromkeys(name for node in chosen for name in node.output if name)
    return Candidate(
        chosen,
        {name: graph.inline[name] for name in used if name in graph.inline},
        {
            name: (_dtype(graph, name), graph.shapes(name)[1])
            for name in used
            if name not in written and name not in graph.inline
        },
        {
            name: np.array(constant.bytes().view(numpy_dtype(constant.dtype))).reshape(
                constant.shape
            )
            for name in used
            if (constant := graph.constants.get(name)) and constant.nbytes < _GIVEN_BELOW_BYTES
        },
        tuple(name for name in written if name not in used),
        tuple(graph.opset_imports),
    )


def time_alternatives(
    alternatives: Sequence[Candidate], *, threads: int | None = None
) -> tuple[float, ...]:
    """Times of alternatives, in turns so that other work of the machine meets all of them.

    Sessions are those of the executor: operators as they stand, no prepacked weights, threads that
    do not spin. What was measured once in this process is not measured again.

    Parameters
    ----------
    threads
        Compute threads; by default as many as the executor takes.

    Returns
    -------
    tuple of float
        Lower quartiles in milliseconds, for what else the machine does only adds to them; infinite
        where ONNX Runtime has no kernel.
    """
    count = threads or available_processors()
    key = (count, *map(_signature, alternatives))
    if key not in _known:
        _known[key] = _measured(alternatives, count)
    return _known[key]


def _measured(alternatives: Sequence[Candidate], threads: int) -> tuple[float, ...]:
    feeds = [_feeds(one) for one in alternatives]
    sessions = [_session(one, f, threads) for one, f in zip(alternatives, feeds, strict=True)]
    times: list[list[float]] = [[] for _ in alternatives]
    spent_ms = 0.0
    for turn in range(1, _ROUNDS + 1):
        for session, given, found in zip(sessions, feeds, times, strict=True):
            if session is None:
                found.append(inf)
                continue
            start = perf_counter()
            session.run(None, given)
            found.append(1e3 * (perf_counter() - start))
            spent_ms += found[-1]
        if turn >= _FEWEST_ROUNDS and spent_ms > _PATIENCE_MS:
            break
    return tuple(sorted(found)[len(found) // 4] for found in times)


def _session(
    one: Candidate, feeds: Mapping[str, npt.NDArray[np.generic]], threads: int
) -> ort.InferenceSession | None:
    """A session that has run once; None where there is no kernel."""
    import onnxruntime as ort

    inputs = [
        helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)
        for name, (dtype, shape) in one.inputs.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in one.outputs]
    graph = helper.make_graph(one.nodes, "candidate", inputs, outputs, list(one.inline.values()))
    model = helper.make_model(graph, opset_imports=one.opset_imports, ir_version=_IR_VERSION)
    options = session_options(shared_arena=False)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        session.run(None, feeds)
    except Exception:  # each kind of refusal has a class of its own
        return None
    return session


def _feeds(one: Candidate) -> dict[str, npt.NDArray[np.generic]]:
    """Given numbers, else random integers of the whole range or normally distributed floats."""
    generator = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[np.generic]] = dict(one.given)
    for name, (dtype, shape) in one.inputs.items():
        if name in feeds:
            continue
        kind: np.dtype[Any] = numpy_dtype(dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            feeds[name] = generator.integers(limits.min, limits.max, shape, kind, endpoint=True)
        else:
            feeds[name] = generator.standard_normal(shape, np.float32).astype(kind)
    return feeds


def _dtype(graph: Graph, name: str) -> str:
    held = graph.values if name in graph.values else graph.constants
    return held[name].dtype


def _signature(one: Candidate) -> _Key:
    """Key of equal times: operators, attributes, types and shapes, but no names.

    Numbers of constants count only where they are shapes, axes or bounds: 64-bit integers.
    """
    numbers: dict[str, int] = {}

    def numbered(names: Iterable[str]) -> tuple[int, ...]:
        return tuple(numbers.setdefault(n, len(numbers)) if n else -1 for n in names)

    operators = tuple(
        (
            node.domain,
            node.op_type,
            tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute)),
            numbered(node.input),
            numbered(node.output),
        )
        for node in one.nodes
    )
    constants = tuple(
        (numbered([name]), tensor.data_type, tuple(tensor.dims), _bounds(tensor))
        for name, tensor in one.inline.items()
    )
    inputs = tuple((numbered([name]), *typed) for name, typed in one.inputs.items())
    versions = tuple((entry.domain, entry.version) for entry in one.opset_imports)
    return operators, constants, inputs, numbered(one.outputs), versions


def _bounds(tensor: onnx.TensorProto) -> tuple[int, ...]:
    if tensor.data_type != ONNX_TYPES["int64"]:
        return ()
    return tuple(int(number) for number in numpy_helper.to_array(tensor).reshape(-1))
