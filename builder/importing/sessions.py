"""Sessions of ONNX Runtime that run a model as it is, or ask it for types and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.custom_ops import register_custom_ops
from swapnet.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["open_session", "quiet_options"]

_SIGNATURE = re.compile(r"/\S+\.(?:cc|h):\d+ [^()]*\([^()]*\)\s*")
"""Where in ONNX Runtime's source a message comes from."""

_OWN = "rewrite it in ONNX's operators, or export the model without it"

_HINTS = {
    r"max supported IR version: (\d+)": "install a newer onnxruntime, or save the model with "
    "model.ir_version = {0}",
    r"Missing model IR version": "set model.ir_version and save it again, or export it again",
    r"Missing opset": "add the operator set that it was made for: model.opset_import.append("
    "onnx.helper.make_opsetid('', 17))",
    r"support for domain (\S+) is till opset (\d+)": "install a newer onnxruntime, or export the "
    "model with opset {1} of {0} or an older one",
    r"two nodes with same node name \((.*)\)": "give each node another name, or none: "
    "node.name = '' for all nodes named {0!r}",
    r"Duplicate definition of name \((.*)\)": "rename one of the values named {0!r}: each is "
    "written once",
    r"(\S+:\w+)\(-?\d+\) is not a registered": "ONNX Runtime does not have the operator {0}: "
    "give the library that has it, --custom-ops LIB.so; or " + _OWN,
    r"No opset import for domain '(.*)'": "add {0} to model.opset_import where ONNX Runtime has "
    "its operators; where not, " + _OWN,
    r"No Op registered for (\w+) with domain_version of (\d+)": "operator set {1} does not have "
    "{0}: export with the opset that has it, or " + _OWN,
    r"External data path": "put the weights beside the model, in a file and not behind a link",
}
"""What to do about a refusal, by its reason."""

_INVALID = re.compile(
    "INVALID|[Ii]nvalid model|not acyclic|Type Error|ShapeInferenceError|does not match expected"
)
"""Faults of the file, whatever its operators are."""


def quiet_options(
    *, optimise: bool = True, packs: bool = False, threads: int | None = None
) -> ort.SessionOptions:
    """Options of a session that prints nothing; packed weights pay off over many inferences."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    register_custom_ops(options)
    if not packs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(
    model: Path | bytes,
    options: ort.SessionOptions,
    disabled: Iterable[str] = (),
    name: str = "the model",
) -> ort.InferenceSession:
    """A session on the CPU; ``name`` is the model's in messages.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            ["CPUExecutionProvider"],
            disabled_optimizers=list(disabled),
        )
    except (
        errors.Fail,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.NoSuchFile,
        errors.RuntimeException,
    ) as error:
        why = _SIGNATURE.sub("", str(error).strip().splitlines()[0])
        raise ModelError(f"ONNX Runtime refuses {name}", why=why, hint=_hint(why)) from error


def _hint(why: str) -> str:
    for reason, hint in _HINTS.items():
        if found := re.search(reason, why):
            return hint.format(*found.groups())
    if _INVALID.search(why):
        return "export it again; onnx.checker.check_model(path, full_check=True) says more"
    return "change or replace the operator that it names, or try another opset"
