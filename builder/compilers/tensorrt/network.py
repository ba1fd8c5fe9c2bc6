"""A block as TensorRT takes it: its network, and the settings of its build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swapnet.builder.compilers.tensorrt.errors import parser_refusal, setting_refusal
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.tensorrt import Log, logger

if TYPE_CHECKING:
    import tensorrt

__all__ = ["add_profile", "make_config", "parse_network"]


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


def make_config(
    trt: tensorrt.Module, builder: tensorrt.Builder, job: Job, log: Log
) -> tensorrt.IBuilderConfig:
    """An ``IBuilderConfig``.

    Raises
    ------
    ModelError
        The library refuses a setting.
    """
    config = builder.create_builder_config()
    if config is None:
        raise setting_refusal(job, "no configuration", log)
    pools = trt.MemoryPoolType
    if job.workspace_bytes is not None:
        config.set_memory_pool_limit(pools.WORKSPACE, job.workspace_bytes)
    if job.tactic_bytes is not None and hasattr(pools, "TACTIC_DRAM"):
        # TensorRT-RTX takes powers of two only.
        config.set_memory_pool_limit(pools.TACTIC_DRAM, 1 << (job.tactic_bytes - 1).bit_length())
    if hasattr(config, "max_aux_streams"):
        config.max_aux_streams = 0  # the executor has one stream for kernels
    if job.builder_optimization_level is not None:
        config.builder_optimization_level = job.builder_optimization_level
    if job.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job.hardware_compatibility is not None:
        levels = trt.HardwareCompatibilityLevel
        name = job.hardware_compatibility.upper().replace("+", "_PLUS").replace("-", "_")
        if not hasattr(levels, name):
            known = ", ".join(levels.__members__)
            raise setting_refusal(job, f"hardware compatibility {name}, knows {known}", log)
        config.hardware_compatibility_level = getattr(levels, name)
    if job.targets:
        config.num_compute_capabilities = len(job.targets)
        for index, target in enumerate(job.targets):
            capability = getattr(trt.ComputeCapability, target.upper())
            if not config.set_compute_capability(capability, index):
                raise setting_refusal(job, f"target {target}", log)
    return config


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
            profile.set_shape(name, shapes.smallest, shapes.planned, shapes.largest)
        except ValueError as error:
            raise setting_refusal(job, f"shapes of {name!r}: {error}", log) from error
    if config.add_optimization_profile(profile) < 0:
        raise setting_refusal(job, "optimisation profile", log)
