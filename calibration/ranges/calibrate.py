"""Value ranges of a model's activations on representative inputs, under a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from swapnet.arrays import Array
from swapnet.budget import Budget, Demand
from swapnet.builder.build import build
from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.normalise import normalise
from swapnet.builder.precision.selection import Channels, activation_names, channelled, check_int8
from swapnet.calibration.ranges.collect import Extreme
from swapnet.calibration.ranges.fixed_cost import fixed_bytes, kept_bytes
from swapnet.calibration.ranges.graph import Model, Variant, open_model, work_folder
from swapnet.calibration.ranges.groups import group_limit, group_tensors
from swapnet.calibration.ranges.worker import Found, Job, observe_in_child
from swapnet.data.spool import Sample, Spool, samples_to_plan, spool
from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.engine import Engine
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.machine import memory_to_measure_in_bytes, usable_memory_bytes
from swapnet.manifest import Precision
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.failure import ProcessDied
from swapnet.progress import Progress, silent
from swapnet.ranges import METHODS, Method, Range, RangeCache
from swapnet.units import format_size

__all__ = ["calibrate_model", "calibrate_ranges"]


def calibrate_model(
    model: str | Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    precision: Precision = "int8",
    method: Method = "minmax",
    percentile: float = 99.99,
    budget: str | int = "100%",
    memory_limit: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    apart: bool = False,
    progress: Progress = silent,
) -> RangeCache:
    """Ranges and means of the values of a model, from running it swapped on representative inputs.

    A range is of finite values: infinite ones, such as those of masks, do not count.

    Parameters
    ----------
    model
        ONNX file of any size.
    samples
        Inputs by name, one sample after the other; read once, and kept on disk until the end.
    precision
        ``"int8"`` needs ranges of its operators' inputs and outputs, and means of the inputs of
        weighted ones; ``"fp16"`` needs ranges of all values.
    method, percentile
        Way to take ranges; ``percentile`` is of absolute values, for that method.
    budget
        Memory of the model while it runs: a size, bytes or a share.
    memory_limit
        Run under the kernel's limit of that budget.
    shapes
        Input shapes to plan for; by default those of the largest sample.
    apart
        Build what is observed in a process of its own, as the command line does.
    progress
        Called with each stage.

    Raises
    ------
    InputError
        A sample does not fit the model, the method or percentile is invalid, or a value is NaN.
    ModelError
        The model can't be read, built or run.
    BudgetError
        The budget is too small, or the kernel killed the process.
    StorageError
        The temporary folder can't be written.
    BackendError
        The runtime library refuses, or the kernel's limit is not available.
    """
    source = open_source(Path(model))
    with work_folder(source.path) as folder:
        normal = normalise(source, folder)
        if precision == "int8":
            check_int8(normal.proto.graph, source.name)
        graph = normal.proto.graph
        return calibrate_ranges(
            normal.path,
            samples,
            tensors=activation_names(graph) if precision == "int8" else None,
            channels=channelled(graph) if precision == "int8" else None,
            method=method,
            percentile=percentile,
            budget=budget,
            memory_limit=memory_limit,
            shapes=shapes,
            apart=apart,
            source_sha256=source.identity,
            source_name=source.name,
            progress=progress,
        )


def calibrate_ranges(
    model: Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    tensors: Sequence[str] | None = None,
    channels: Mapping[str, Channels] | None = None,
    method: Method = "minmax",
    percentile: float = 99.99,
    budget: str | int = "100%",
    memory_limit: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    device: Device | None = None,
    source_sha256: str | None = None,
    source_name: str | None = None,
    apart: bool = False,
    progress: Progress = silent,
) -> RangeCache:
    """Run samples through an optimised model, and take a range of each activation.

    Further parameters and errors are those of `calibrate_model`. Activations that are infinite
    somewhere are observed in a second pass, which leaves those elements out.

    Parameters
    ----------
    tensors
        Names of float32 activations; by default all of them.
    channels
        Values to take means of; those of unknown rank are left out.
    method, percentile
        ``entropy`` and ``percentile`` run the samples twice or more: extremes first, then
        histograms of groups of tensors.
    budget
        A quarter of it is for the tensors of a group. A share of the demand is never more than a
        third of the machine's memory, where that is enough.
    memory_limit
        The kernel's limit is the fixed cost and the budget; needs root.
    device
        Compute threads.
    source_sha256, source_name
        Hash and name of the model that the cache belongs to, if ``model`` was made from it.
    """
    _check(method, percentile)
    parsed = Budget.parse(budget)
    parsed.check_fixed()
    model = Path(model)
    with work_folder(model) as folder, _explained(source_name or model.name):
        progress("read", 0, 1)
        opened = open_model(model, folder)
        chosen = opened.chosen(tensors if tensors is not None else opened.activations())
        spooled = spool(samples, opened.inputs, folder)
        planned, to_plan = samples_to_plan(
            spooled, opened.inputs, _largest(spooled.shapes, shapes or {})
        )
        passes = _Passes(
            model=opened,
            spooled=spooled,
            shapes=planned,
            sample=to_plan[0],
            budget=parsed,
            memory_limit=memory_limit,
            threads=(device or Device()).threads,
            apart=apart,
            progress=progress,
        )
        found = passes.run(chosen, opened.ranked(channels or {}), method, percentile)
    import onnxruntime

    return RangeCache(
        schema="swapnet-ranges/1",
        model_sha256=source_sha256 or opened.source.identity,
        model=source_name or model.name,
        method=method,
        samples=len(spooled.paths),
        onnxruntime=onnxruntime.__version__,
        ranges={n: Range(min(e.low, 0.0), max(e.high, 0.0)) for n, e in found.extremes.items()},
        percentile=percentile if method == "percentile" else None,
        means=found.means,
    )


@dataclass(frozen=True)
class _Taker:
    """Way to take ranges from histograms.

    ``known`` has the extremes of all tensors. A budget may be a share of the whole model's
    ``weights_bytes``, while a group needs only a part of them.
    """

    method: Literal["entropy", "percentile"]
    percentile: float
    known: Mapping[str, Extreme]
    weights_bytes: int


@dataclass(frozen=True)
class _Pass:
    """One engine over all samples.

    ``budget_bytes`` are for the model and the values that are kept; ``weights_bytes`` are swapped.
    """

    job: Job
    budget_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class _Passes:
    """Settings that all passes share."""

    model: Model
    spooled: Spool
    shapes: Mapping[str, tuple[int, ...]]
    sample: Sample
    budget: Budget
    memory_limit: bool
    threads: int
    apart: bool
    progress: Progress

    def run(
        self,
        chosen: Sequence[str],
        channels: Mapping[str, Channels],
        method: Method,
        percentile: float,
    ) -> Found:
        """Ranges of the chosen tensors, and means of channels."""
        taken = {value.name for value in self.model.inputs}
        inputs = tuple(name for name in chosen if name in taken)
        computed = tuple(name for name in chosen if name not in taken)
        variant = self.model.with_extremes(computed, channels, "extremes")
        first = self._prepared(variant, computed, inputs, channels=channels)
        found = self._without_infinities(self._observed(first))
        if method == "minmax":
            return found
        nbytes = self.model.nbytes(self.shapes, self.sample)
        sizes = [(name, nbytes[name]) for name in computed]
        groups = list(group_tensors(sizes, group_limit(self.budget, first.budget_bytes)))
        taker = _Taker(method, percentile, found.extremes, first.weights_bytes)
        taken_ranges = self._histograms(taker, groups[0] if groups else (), inputs)
        for group in groups[1:]:
            taken_ranges |= self._histograms(taker, group, ())
        return Found({name: taken_ranges[name] for name in chosen}, found.means)

    def _without_infinities(self, found: Found) -> Found:
        """Extremes of finite elements where some were infinite."""
        if not found.infinite:
            return found
        variant = self.model.with_extremes(found.infinite, {}, "finite", finite=True)
        finite = self._observed(self._prepared(variant, found.infinite, ()))
        return Found(found.extremes | finite.extremes, found.means)

    def _histograms(
        self, taker: _Taker, tensors: tuple[str, ...], inputs: tuple[str, ...]
    ) -> dict[str, Extreme]:
        """Ranges of a group; of its halves in turn if the budget is too small for it."""
        variant = self.model.with_outputs(tensors, f"histograms-{self.model.source.name}")
        try:
            prepared = self._prepared(variant, tensors, inputs, taker)
        except BudgetError:
            if len(tensors) < 2:
                raise
            half = len(tensors) // 2
            found = self._histograms(taker, tensors[:half], inputs)
            return found | self._histograms(taker, tensors[half:], ())
        return self._observed(prepared).extremes

    def _prepared(
        self,
        variant: Variant,
        tensors: tuple[str, ...],
        inputs: tuple[str, ...],
        taker: _Taker | None = None,
        channels: Mapping[str, Channels] | None = None,
    ) -> _Pass:
        """Build the variant; raises a BudgetError if it does not fit."""
        engine = variant.path.with_suffix("")
        shapes = {name: self.shapes[name] for name in variant.inputs}
        arrays = self.sample.arrays(self.model.inputs)
        build(
            variant.path,
            engine,
            backend="onnxruntime",
            shapes=shapes,
            data=[{name: arrays[name] for name in variant.inputs}],
            process_per_block=self.apart,
            progress=self.progress,
        )
        manifest = Engine.open(engine, device=Device(pool=ThreadPool.GLOBAL)).manifest
        job = Job(
            folder=str(engine),
            budget_bytes=0,
            threads=self.threads,
            samples=tuple(map(str, self.spooled.paths)),
            method=taker.method if taker else "minmax",
            tensors=tensors,
            inputs=inputs,
            percentile=taker.percentile if taker else 100.0,
            known={name: taker.known[name] for name in (*inputs, *tensors)} if taker else {},
            channels={name: given.count for name, given in (channels or {}).items()},
        )
        kept = kept_bytes(job)
        needed = demand(manifest)
        weights_bytes = taker.weights_bytes if taker else needed.weights_bytes
        total = self.budget.resolve(
            Demand(weights_bytes, needed.other_bytes + kept, needed.smallest_bytes + kept)
        )
        smallest, reason = smallest_budget(manifest)
        if self.budget.of == "demand":
            total = min(total, max(smallest + kept, memory_to_measure_in_bytes()))
        if total < smallest + kept:
            raise BudgetError(
                f"{self.model.source.name} can't be calibrated in {format_size(total)}",
                why=f"it needs {smallest + kept} bytes, the budget allows {total}; {reason}",
                hint=f"give at least {smallest + kept} bytes",
                smallest_bytes=smallest + kept,
            )
        admitted_bytes(Budget(total), manifest)
        return _Pass(msgspec.structs.replace(job, budget_bytes=total - kept), total, weights_bytes)

    def _observed(self, prepared: _Pass) -> Found:
        job = prepared.job
        if not self.memory_limit:
            return observe_in_child(job, self.progress)
        limit = fixed_bytes(job.method, job.threads) + prepared.budget_bytes
        with MemoryGroup(limit) as group:
            return observe_in_child(job, self.progress, group=group, limit_bytes=limit)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say what is known of memory where a process was killed."""
    try:
        yield
    except BackendError as error:
        died = error if isinstance(error, ProcessDied) else error.__cause__
        if not isinstance(died, ProcessDied) or not died.was_killed:
            raise
        raise BackendError(
            f"{name} could not be calibrated: {died.what}",
            why=f"{error.why}: {format_size(usable_memory_bytes())} is available"
            if error is died
            else error.why,
            hint="free some memory, or take the ranges on a larger machine and give them with "
            "--calibration",
        ) from error


def _largest(
    found: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The larger size of each dimension; the build refuses what does not fit."""
    return {
        name: tuple(map(max, shape, given[name]))
        if len(given.get(name, ())) == len(shape)
        else shape
        for name, shape in found.items()
    }


def _check(method: str, percentile: float) -> None:
    if method not in METHODS:
        raise InputError(
            f"there is no method {method!r}",
            why=f"methods are {', '.join(METHODS)}",
            hint="choose one of them",
        )
    if not 0 < percentile <= 100:
        raise InputError(
            f"a percentile of {percentile:g} is invalid",
            why="it must be above 0 and at most 100",
            hint="give 99.99, or 100 for all values",
        )
