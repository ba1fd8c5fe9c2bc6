"""The network of a block, parsed from its ONNX model, and the shapes that it is built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swapnet.builder.compilers.tensorrt.errors import parser_refusal, setting_refusal
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.tensorrt import Log, logger

if TYPE_CHECKING:
    import tensorrt

__all__ = ["add_profile", "parse_network"]


def parse_network(
    trt: tensorrt.Module, builder: tensorrt.Builder, job: Job, log: Log
) -> tensorrt.INetworkDefinition:
    """A strongly typed ``INetworkDefinition``: precision is that of the model.

    Raises
    ------
    ModelError
        The parser refuses an operator, or the model.
    """
    network = builder.create_network(_strongly_typed(trt))
    if network is None:
        raise setting_refusal(job, "no network", log)
    parser = trt.OnnxParser(network, logger(job.backend))
    if not parser.parse_from_file(job.model):
        raise parser_refusal(job, parser, log)
    return network


def _strongly_typed(trt: tensorrt.Module) -> int:
    """The flag; from version 11 on it is the default, and may be gone some day."""
    if hasattr(trt, "NetworkDefinitionCreationFlag"):
        flags = trt.NetworkDefinitionCreationFlag
        if hasattr(flags, "STRONGLY_TYPED"):
            return 1 << int(flags.STRONGLY_TYPED)
    return 0


def add_profile(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, job: Job, log: Log
) -> None:
    """Add the one optimisation profile that inputs of symbolic shape need.

    Raises
    ------
    ModelError
        The library refuses the shapes.
    """
    if not job.profiles:
        return
    profile = builder.create_optimization_profile()
    for name, shapes in job.profiles.items():
        try:
            profile.set_shape(name, shapes.smallest, shapes.planned, shapes.planned)
        except ValueError as error:
            raise setting_refusal(job, f"shapes of {name!r}: {error}", log) from error
    if config.add_optimization_profile(profile) < 0:
        raise setting_refusal(job, "optimisation profile", log)
