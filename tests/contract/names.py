"""How the code names what is TensorRT's, and what only some versions have.

A test fails where an entry is missing, and where one is no longer needed.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ARGUMENT", "DYNAMIC", "MODULE", "NAMES", "NOT_OURS", "ONLY"]

MODULE = "the module"

ARGUMENT = "what it is given"
"""Of a function: it returns its first argument."""

NOT_OURS = "not of TensorRT"

NAMES: Mapping[str, str] = {
    # Parameters annotated Any, and variables whose class nothing else tells.
    "trt": MODULE,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "library": MODULE,
    "severity": "ILogger.Severity",
    "where": "SeekPosition",
    "answer": NOT_OURS,
    # Attributes.
    "._trt": MODULE,
    "._runtime": "Runtime",
    "._allocator": "IGpuAllocator",
    ".engine": "ICudaEngine",
    ".context": "IExecutionContext",
    # Functions that return Any.
    "load_tensorrt()": MODULE,
    "logger()": "ILogger",
    "make_config()": "IBuilderConfig",
    "parse_network()": "INetworkDefinition",
    "make_monitor()": NOT_OURS,  # a subclass with attributes of its own
    "_make_builder()": "Builder",
    "_allocator()": "IGpuAllocator",
    "_plan_reader()": "IStreamReaderV2",
    "_open_runtime()": "Runtime",
    "_context_settings()": NOT_OURS,  # a strategy, or a configuration that has one
    "ask()": ARGUMENT,
}
"""Class by name, as these modules use it: ``name``, ``.attribute`` or ``function()``."""

ONLY: Mapping[str, Mapping[str, str]] = {
    "tensorrt-rtx": {
        "ComputeCapability": "TensorRTOptions.check refuses targets for tensorrt",
        "IBuilderConfig.num_compute_capabilities": "job.targets is empty for tensorrt",
        "IBuilderConfig.set_compute_capability": "job.targets is empty for tensorrt",
        "EngineValidity": "after get_engine_validity, which is asked for",
        "DynamicShapesKernelSpecializationStrategy": "asked for before it is used",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "of the one that has it",
        "Runtime.defer_weights_loading": "set where TensorRTBackend._defers, which asks for it",
        "ICudaEngine.load_weights_async": "of an engine that stays although it embeds its weights",
        "ICudaEngine.unload_weights": "of an engine that stays although it embeds its weights",
        "ICudaEngine.weights_loaded": "of an engine that stays although it embeds its weights",
    },
    "tensorrt": {
        "IGpuAllocator.allocate": "RTX binds allocate_async alone, which calls the override of it",
        "IGpuAllocator.deallocate": "RTX binds deallocate_async alone, which calls it",
    },
}
"""What only one library has, by its backend, and why the code may use it nevertheless.

Members of a class that is named here need no entry of their own.
"""

DYNAMIC: Mapping[str, str] = {
    "HardwareCompatibilityLevel": "of HARDWARE_COMPATIBILITY; refused where it is unknown",
    "ComputeCapability": "compared with its members by TensorRTOptions.check",
}
"""Classes whose members are asked for by computed names, and where these come from."""
