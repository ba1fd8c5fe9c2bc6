"""The configuration of a block's builder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swapnet.builder.compilers.tensorrt.errors import setting_refusal
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.tensorrt import Log

if TYPE_CHECKING:
    import tensorrt

__all__ = ["make_config"]


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
