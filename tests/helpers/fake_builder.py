"""The builder of TensorRT as versions 10 and 11 have it, for what TensorRT-RTX can't show.

Strict: what is not defined here raises AttributeError, so that code can't use what is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from swapnet import tensorrt

__all__ = ["FakeTensorRT", "installed"]


class _Logger:
    Severity = IntEnum(
        "Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0
    )

    def log(self, severity: int, text: str) -> None:
        raise NotImplementedError


class _Monitor:
    pass


class _TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class _Profile:
    __slots__ = ("shapes",)

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Sequence[int], ...]] = {}

    def set_shape(
        self, name: str, smallest: Sequence[int], best: Sequence[int], largest: Sequence[int]
    ) -> None:
        if any(low > high for low, high in zip(smallest, largest, strict=True)):
            raise ValueError("Shapes provided for min/opt/max are not consistent")
        self.shapes[name] = (smallest, best, largest)


class _Config:
    __slots__ = (
        "_cache",
        "_fake",
        "builder_optimization_level",
        "flags",
        "hardware_compatibility_level",
        "max_aux_streams",
        "pools",
        "profiles",
        "progress_monitor",
    )
    builder_optimization_level: int
    hardware_compatibility_level: Any
    progress_monitor: Any

    def __init__(self, fake: FakeTensorRT) -> None:
        self._fake = fake
        self._cache: _TimingCache | None = None
        self.max_aux_streams = -1
        self.flags: list[int] = []
        self.pools: dict[int, int] = {}
        self.profiles: list[_Profile] = []

    def set_memory_pool_limit(self, pool: int, nbytes: int) -> None:
        self.pools[pool] = nbytes

    def set_flag(self, flag: int) -> None:
        self.flags.append(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return -1 if "profile" in self._fake.refuses else 0

    def create_timing_cache(self, data: bytes) -> _TimingCache | None:
        return None if data == b"damaged" else _TimingCache(bytes(data))

    def set_timing_cache(self, cache: _TimingCache, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data == b"of another GPU":
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> _TimingCache | None:
        return self._cache


class _Builder:
    def __init__(self, fake: FakeTensorRT, logger: Any) -> None:
        if "builder" in fake.refuses:
            logger.log(1, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._fake, self._logger = fake, logger

    def create_network(self, flags: int) -> Any:
        self._fake.network_flags.append(flags)
        return None if "network" in self._fake.refuses else SimpleNamespace()

    def create_builder_config(self) -> _Config | None:
        if "config" in self._fake.refuses:
            return None
        self._fake.configs.append(_Config(self._fake))
        return self._fake.configs[-1]

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: Any, config: _Config) -> bytes | None:
        del network
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        monitor.phase_start("Timing", "Building", 5)
        steps = [monitor.step_complete("Timing", 0), monitor.step_complete("Building", 0)]
        monitor.phase_finish("Timing")
        if not all(steps):
            return None
        if config.get_timing_cache() is not None:
            config._cache = _TimingCache(b"times")
        if "build" in self._fake.refuses:
            self._logger.log(1, "no implementation for node mul_1\nin one of its tactics")
            return None
        if self._fake.workspace_bytes > config.pools.get(0, sys.maxsize):
            self._logger.log(1, "could not find any implementation due to insufficient workspace")
            return None
        if self._fake.activation_line:
            self._logger.log(3, self._fake.activation_line)
        return b"a plan"


class _Parser:
    def __init__(self, fake: FakeTensorRT) -> None:
        self._fake = fake
        self.num_errors = len(fake.parser_errors)

    def parse_from_file(self, path: str) -> bool:
        self._fake.parsed.append(path)
        return "parse" not in self._fake.refuses

    def get_error(self, index: int) -> Any:
        node, name, operator, text = self._fake.parser_errors[index]
        return SimpleNamespace(
            node=lambda: node,
            node_name=lambda: name,
            node_operator=lambda: operator,
            desc=lambda: text,
        )


@dataclass
class FakeTensorRT:
    """A module ``tensorrt``, and what was done with it.

    Attributes
    ----------
    major
        10 or 11: version 11 has no flag for strong typing here, and one compatibility level more.
    refuses
        What returns None or False: builder, network, config, profile, parse, build.
    parser_errors
        Position, name, operator and text of each; -1 for errors of the model.
    workspace_bytes
        What the kernels need.
    activation_line
        What is logged of activations.
    """

    major: int = 10
    refuses: frozenset[str] = frozenset()
    parser_errors: Sequence[tuple[int, str, str, str]] = ()
    workspace_bytes: int = 0
    activation_line: str = "Total Activation Memory: 4096 bytes"
    network_flags: list[int] = field(default_factory=list)
    configs: list[_Config] = field(default_factory=list)
    parsed: list[str] = field(default_factory=list)

    @property
    def module(self) -> Any:
        """What ``import tensorrt`` gives."""
        levels = ["NONE", "AMPERE_PLUS", *["SAME_COMPUTE_CAPABILITY"] * (self.major > 10)]
        return SimpleNamespace(
            __version__=f"{self.major}.3.0",
            ILogger=_Logger,
            IProgressMonitor=_Monitor,
            Builder=partial(_Builder, self),
            OnnxParser=lambda *_: _Parser(self),
            MemoryPoolType=SimpleNamespace(
                WORKSPACE=0, **({"TACTIC_DRAM": 4} if self.major > 10 else {})
            ),
            BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE=13),
            HardwareCompatibilityLevel=IntEnum("HardwareCompatibilityLevel", levels, start=0),
            NetworkDefinitionCreationFlag=SimpleNamespace(
                **({"STRONGLY_TYPED": 1} if self.major == 10 else {})
            ),
        )


@contextmanager
def installed(fake: FakeTensorRT) -> Iterator[FakeTensorRT]:
    """``import tensorrt`` gives the fake meanwhile."""
    caches = (tensorrt.load_tensorrt, tensorrt.logger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", fake.module)
        for cached in caches:
            cached.cache_clear()
        try:
            yield fake
        finally:
            for cached in caches:
                cached.cache_clear()
