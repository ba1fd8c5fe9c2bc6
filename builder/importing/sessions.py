"""Sessions of ONNX Runtime that run a model as it is, or ask it for types and shapes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["open_session", "quiet_options"]


def quiet_options(
    *, optimise: bool = True, packs: bool = False, threads: int | None = None
) -> ort.SessionOptions:
    """Options of a session that prints nothing; packed weights pay off over many inferences."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
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
        raise ModelError(
            f"ONNX Runtime refuses {name}",
            why=str(error).strip().splitlines()[0],
            hint="change or replace the operator that it names, or try another opset",
        ) from error
