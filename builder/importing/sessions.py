"""Sessions of ONNX Runtime that a build asks for types, shapes and values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["open_session", "quiet_options"]


def quiet_options(*, optimise: bool = True) -> ort.SessionOptions:
    """Options of a session that prints nothing and packs no weights."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(
    model: Path | bytes, options: ort.SessionOptions, disabled: Iterable[str] = ()
) -> ort.InferenceSession:
    """A session on the CPU.

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
        raise ModelError(
            "ONNX Runtime refuses the model",
            why=str(error).strip().splitlines()[0],
            hint="change or replace the operator that it names, or try another opset",
        ) from error
