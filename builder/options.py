"""Options of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swapnet.builder.compilers.tensorrt.options import TensorRTOptions
from swapnet.builder.cutting.limits import Limits, choose_limits
from swapnet.builder.importing.source import SourceModel
from swapnet.builder.precision.convert import PrecisionOptions
from swapnet.errors import BackendUnavailableError, InputError
from swapnet.executor.backends import best_backend
from swapnet.executor.backends.onnxruntime import version
from swapnet.executor.backends.windows import BITS_SINCE, packs_bits
from swapnet.tensorrt import TENSORRT, load_tensorrt

__all__ = ["BACKENDS", "BuildOptions"]

BACKENDS = ("auto", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of a build; `swapnet.build` makes them from its keywords.

    Attributes
    ----------
    backend
        One of `BACKENDS`; ``"auto"`` is TensorRT where it can run here, else ``"onnxruntime"``.
    max_block
        Limit of a block's weights: bytes, or a size such as ``"1MiB"``. By default, for ONNX
        Runtime, such that blocks in memory and sessions take the least together, between 256 KiB
        and 8 MiB; for TensorRT, a twelfth of the weights, between 4 and 64 MiB.
    smallest_budget
        A budget that should work: bytes, or a size. The default limit of a block is then a quarter
        of it for TensorRT, with blocks as coarse as it allows, and at most that for others.
    portable
        Leave out hardware layouts, so that the engine runs on any processor; ``onnxruntime`` only.
    precision
        Precision of weights and values.
    shapes, dims
        Input shapes and sizes of symbols to plan for; those that are not given are assumed, by
        their names and places.
    data
        Representative inputs, as `samples_of` takes them: to plan with and to measure on in place
        of seeded ones. Sizes that are not given are the largest of them.
    process_per_block
        Build in a process of its own, which returns all of its memory; TensorRT's compiler has one
        for each block too.
    tensorrt
        Settings for ``tensorrt`` and ``tensorrt-rtx`` only.
    """

    backend: str = "auto"
    max_block: str | int | None = None
    smallest_budget: str | int | None = None
    portable: bool = False
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    data: Any = None
    process_per_block: bool = False
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)

    def checked(self) -> BuildOptions:
        """The same options for a backend that is chosen; what does not go together is refused.

        Raises
        ------
        InputError
            An option is wrong, or is not one of this backend's.
        BackendUnavailableError
            There is no such backend, or its library is not installed.
        """
        backend = best_backend() if self.backend == "auto" else self.backend
        if backend not in BACKENDS:
            raise BackendUnavailableError(
                f"there is no backend {backend!r}",
                why=f"this SwapNet builds for {', '.join(BACKENDS)}",
                hint="leave --backend out",
            )
        given = [] if backend in TENSORRT else self.tensorrt.given
        if self.portable and backend != "onnxruntime":
            given = ["portable", *given]
        if given:
            raise InputError(
                f"--{given[0].replace('_', '-').replace('targets', 'target')} is not for {backend}",
                why="it is for "
                + ("onnxruntime" if given[0] == "portable" else " and ".join(TENSORRT)),
                hint="leave it out, or choose another --backend",
            )
        if backend in TENSORRT:
            self.tensorrt.check(backend)
        self.precision.check(backend)
        if self.precision.precision == "int4":
            self._check_packing()
        if backend in TENSORRT:
            load_tensorrt(backend)
        return replace(self, backend=backend)

    def _check_packing(self) -> None:
        if self.portable:
            raise InputError(
                "int4 is not for --portable",
                why="products of 4 bits are fast only where they are packed for one processor",
                hint="leave --portable out, or give --precision int8",
            )
        if not packs_bits(version()):
            raise BackendUnavailableError(
                f"int4 needs ONNX Runtime {BITS_SINCE}",
                why=f"ONNX Runtime {version()} can't swap what it packs of products of 4 bits, and "
                "they are thirty times slower unpacked",
                hint=f"install onnxruntime {BITS_SINCE} or newer, or give --precision int8",
            )

    def limits(self, source: SourceModel, narrower: int = 1) -> Limits:
        """The limits of blocks of a model, of which weights are stored ``narrower`` times.

        Engines of TensorRT are as large as lets two of them fit beside the others; for ONNX Runtime
        the number of sessions counts, which have the weights that they read.

        Raises
        ------
        InputError
            A size is invalid or too small.
        """
        return choose_limits(
            self.backend,
            (source.weights_bytes if self.backend in TENSORRT else source.read_bytes) // narrower,
            packs=source.has_operator("MatMulNBits"),
            max_block=self.max_block,
            smallest_budget=self.smallest_budget,
            workspace=self.tensorrt.workspace,
        )
