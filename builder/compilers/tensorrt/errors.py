"""Refusals of a library, as one error that names block, node and operator."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.errors import BackendUnavailableError, ModelError
from swapnet.tensorrt import Log

if TYPE_CHECKING:
    import tensorrt

__all__ = ["builder_refusal", "parser_refusal", "setting_refusal", "unavailable", "wants_memory"]

_LONGEST = 600
"""Characters of a reason: the libraries repeat themselves."""

_MEMORY = re.compile(r"out ?of ?memory|workspace", re.IGNORECASE)


def parser_refusal(job: Job, parser: tensorrt.OnnxParser, log: Log) -> ModelError:
    """Error of an ``OnnxParser`` that returned False."""
    reasons = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    return _refusal(job, "; ".join(dict.fromkeys(reasons)) or log.reason())


def builder_refusal(job: Job, log: Log) -> ModelError:
    """Error of a ``Builder`` that returned no engine."""
    return _refusal(job, log.reason())


def setting_refusal(job: Job, setting: str, log: Log) -> ModelError:
    """Error of a method that returned None or False."""
    return _refusal(job, f"{setting}: {log.reason('refused')}")


def unavailable(backend: str, log: Log) -> BackendUnavailableError:
    """Error of a library that makes no ``Builder``."""
    return BackendUnavailableError(
        f"{backend} can't build here",
        why=log.reason("it makes no builder, which needs a CUDA GPU"),
        hint="build on the GPU that executes, or with --backend tensorrt-rtx, which needs none",
    )


def wants_memory(error: ModelError) -> bool:
    """Whether a refusal is for want of workspace."""
    return _MEMORY.search(error.why) is not None


def _parser_error(error: tensorrt.ParserError) -> str:
    """Node, operator and reason; an operator without a name is known by its position."""
    said = " ".join(error.desc().split())
    reason = "the parser does not know it" if said == "false" else said
    name, operator = error.node_name(), error.node_operator()
    if not name and error.node() < 0:
        return reason
    node = f"node {name!r}" if name else f"node number {error.node()}"
    return f"{node} ({operator}): {reason}" if operator else f"{node}: {reason}"


def _refusal(job: Job, reason: str) -> ModelError:
    if _MEMORY.search(reason):
        reason = "; ".join(sorted(reason.split("; "), key=lambda part: not _MEMORY.search(part)))
        hint = "give more --workspace, or a smaller --max-block"
    elif job.profiles:
        hint = (
            "give the shapes that it is used with: --shapes, --min-shapes; or replace the operator"
        )
    elif job.external:
        hint = "use --weights auto, which embeds what can't be an input; or replace the operator"
    else:
        hint = "replace the operator, or build with --backend onnxruntime"
    shortened = reason if len(reason) <= _LONGEST else reason[:_LONGEST] + " …"
    return ModelError(f"{job.title} can't be compiled by {job.backend}", why=shortened, hint=hint)
