"""Sum up the rounds of all sides: the report of one engine at one budget."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import mean, median
from typing import Any, get_args

import msgspec

from swapnet.executor.bench.report import Machine, Part, Peer, Report
from swapnet.executor.bench.rounds import Rounds
from swapnet.executor.bench.statistics import (
    Summary,
    cv_percent,
    is_stable,
    percentile,
    summarise,
)
from swapnet.executor.bench.timing import Round, Timing
from swapnet.executor.bench.verdict import advise, verdict_of
from swapnet.executor.device import Device, available_processors
from swapnet.executor.planning.floor import floor_ms
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.timeline import predict
from swapnet.executor.planning.usage import demand
from swapnet.executor.report.trace import ways_to_save
from swapnet.machine import memory_bytes, processor_name
from swapnet.manifest import Manifest
from swapnet.profile import Profile
from swapnet.version import VERSION

__all__ = ["machine_of", "make_report", "paired_predictions", "peer_of", "scaled"]


def make_report(
    manifest: Manifest,
    profile: Profile,
    plan: Plan,
    taken: Rounds,
    *,
    percentiles: Sequence[float],
    advice: bool,
    device: Device,
    load_mode: str,
    rate_hz: float | None = None,
    **known: Any,
) -> Report:
    """Make the report of one engine at one budget.

    Parameters
    ----------
    manifest, profile, plan
        The engine, the delays that it was planned with, and the plan.
    taken
        Rounds of ``swapped``, ``resident`` and, where it was not left out, ``unswapped``.
    percentiles, advice
        Percentiles of the latency, and whether `Advice` is wanted.
    device, load_mode
        Where it was executed, and the way that weights were read.
    rate_hz
        Rate that inferences began at; None where they began one after the other.
    known
        All fields of the report that do not follow from these.
    """
    swapped, resident = taken.rounds["swapped"], taken.rounds["resident"]
    theirs = taken.rounds.get("unswapped", [])
    timings = [timing for turn in swapped for timing in turn.timings]
    latencies = [timing.latency_ms for timing in timings]
    ordered = sorted(latencies)
    latency, parts = summarise(latencies), _parts(timings)
    stall_ms = parts["stall"].median
    whole = theirs or [Round.of(turn.idle_ms) for turn in resident]
    idle = [ms for turn in resident for ms in turn.idle_ms]
    idle_ms = median(median(turn.idle_ms) for turn in resident)
    storage = median(turn.storage_bytes_per_s for turn in resident)
    # Bytes that were read in the pause before an inference cost it no time.
    unread = [
        plan.streamed_bytes - min(median(t.ahead_bytes for t in turn.timings), plan.streamed_bytes)
        for turn in swapped
    ]
    reading = [
        nbytes / turn.storage_bytes_per_s * 1e3 if nbytes else 0.0
        for nbytes, turn in zip(unread, resident, strict=True)
    ]
    bounds = [max(w.median_ms, ms) for w, ms in zip(whole, reading, strict=True)]
    contended = [
        max(r.median_ms, w.median_ms) if plan.streamed_bytes else w.median_ms
        for r, w in zip(resident, whole, strict=True)
    ]
    floors = [
        floor_ms(
            manifest,
            plan,
            scaled(profile, 0, turn.storage_bytes_per_s),
            execution_ms=w.median_ms,
            ahead_bytes=plan.streamed_bytes - round(nbytes),
        )
        for w, turn, nbytes in zip(whole, resident, unread, strict=True)
    ]
    predictions = paired_predictions(plan, profile, resident)
    execution_ms, reading_ms = median(turn.median_ms for turn in whole), median(reading)
    unswapped = [ms for turn in theirs for ms in turn.latency_ms]
    delays = scaled(profile, idle_ms, storage)
    needed = demand(manifest)
    return Report(
        model=manifest.source.name,
        backend=manifest.compiled.backend,
        blocks=len(manifest.blocks),
        strips=ways_to_save(plan.striping) if plan.striping else (),
        budget_bytes=plan.budget_bytes,
        demand_bytes=needed.total_bytes,
        weights_bytes=needed.weights_bytes,
        resident_bytes=plan.resident_bytes,
        ring_bytes=plan.ring_bytes,
        activation_bytes=plan.usage.activation_bytes,
        staging_bytes=plan.usage.staging_bytes,
        streamed_bytes=_read_bytes(swapped),
        storage_bytes_per_s=storage,
        warm_up_inferences=taken.warm_up_inferences,
        warm_up_ms=taken.warm_up_ms,
        iterations=len(latencies),
        rounds=len(swapped),
        duration_s=sum(each.idle_ms + each.latency_ms for each in timings) / 1e3,
        wall_s=taken.wall_s,
        stable=is_stable([turn.median_ms for turn in swapped]),
        latency_ms=latency,
        percentiles_ms={f"{p:g}": percentile(ordered, p) for p in percentiles},
        parts_ms=parts,
        throughput_qps=1e3 * len(latencies) / sum(latencies),
        idle_ms_between=median(each.idle_ms for each in timings),
        ahead_bytes=round(median(each.ahead_bytes for each in timings)),
        rate_hz=rate_hz,
        deadline_misses=sum(each.is_late for each in timings) if rate_hz else None,
        unswapped_ms=summarise(unswapped) if unswapped else None,
        ratio_to_unswapped=_ratio(swapped, (turn.median_ms for turn in theirs)),
        bound_ms=median(bounds),
        ratio_to_bound=_ratio(swapped, bounds) or 0.0,
        floor_ms=median(floors),
        ratio_to_floor=_ratio(swapped, floors) or 0.0,
        contended_bound_ms=median(contended),
        ratio_to_contended_bound=_ratio(swapped, contended) or 0.0,
        idle_ms=idle_ms,
        idle_cv_percent=cv_percent(idle),
        execution_ms=execution_ms,
        reading_ms=reading_ms,
        predicted_ms=plan.predicted_ms,
        paired_predicted_ms=median(predictions),
        prediction_error=(_ratio(swapped, predictions) or 1.0) - 1,
        overlap_fraction=max(0.0, 1 - stall_ms / reading_ms) if reading_ms else 1.0,
        stall_ms=stall_ms,
        stall_fraction=stall_ms / latency.median,
        verdict=verdict_of(
            streamed_bytes=plan.streamed_bytes,
            reading_ms=reading_ms,
            execution_ms=execution_ms,
            stall_ms=stall_ms,
            latency_ms=latency.median,
        ),
        advice=(
            advise(manifest, profile, delays, plan) if advice and plan.streamed_bytes else None
        ),
        storage_limit_bytes_per_s=device.pace.bytes_per_s if device.pace else None,
        machine=machine_of(manifest, device, load_mode),
        **known,
    )


def _parts(timings: Sequence[Timing]) -> dict[Part, Summary]:
    return {
        part: summarise([getattr(each, f"{part}_ms") for each in timings])
        for part in get_args(Part)
    }


def machine_of(manifest: Manifest, device: Device, load_mode: str) -> Machine:
    """The machine and the software that an engine was measured on."""
    return Machine(
        processor=processor_name(),
        processors=available_processors(),
        memory_bytes=memory_bytes(),
        kernel=platform.release(),
        python=platform.python_version(),
        swapnet=VERSION,
        backend=f"{manifest.compiled.backend} {_installed(manifest)}",
        load_mode=load_mode,
        threads=device.threads,
        gpu=device.gpu,
    )


def peer_of(
    swapped: Sequence[Round],
    rounds: Sequence[Round],
    *,
    fixed_bytes: int | None = None,
    max_rel_error: float | None = None,
    note: str = "",
) -> Peer:
    """Sum up another side, which may have fewer rounds than ours."""
    if not rounds:
        return Peer(fixed_bytes=fixed_bytes, note=note)
    ratio = _ratio(swapped, (turn.median_ms for turn in rounds))
    return Peer(
        latency_ms=summarise([ms for turn in rounds for ms in turn.latency_ms]),
        ratio=1 / ratio if ratio else None,
        fixed_bytes=fixed_bytes,
        streamed_bytes=_read_bytes(rounds) or None,
        max_rel_error=max_rel_error,
        note=note,
    )


def _ratio(swapped: Sequence[Round], others: Iterable[float]) -> float | None:
    """Median over rounds of our latency over the other; None without others."""
    pairs = [ours.median_ms / theirs for ours, theirs in zip(swapped, others, strict=False)]
    return median(pairs) if pairs else None


def _read_bytes(rounds: Sequence[Round]) -> int:
    return round(mean(each.read_bytes for turn in rounds for each in turn.timings))


def _installed(manifest: Manifest) -> str:
    try:
        return version(manifest.compiled.backend)
    except PackageNotFoundError:
        return manifest.compiled.version


def scaled(profile: Profile, idle_ms: float, storage_bytes_per_s: float) -> Profile:
    """The profile of the same device at another hour.

    Parameters
    ----------
    profile
        The stored profile.
    idle_ms
        Latency of the whole model in memory, while nothing is read: all execution times are
        stretched to add up to it. 0 leaves them as they are.
    storage_bytes_per_s
        Bandwidth of storage while nothing computes: both bandwidths are stretched alike. 0 leaves
        them as they are.
    """
    whole_ms = profile.step_ms + sum(block.idle_ms for block in profile.blocks)
    slower = idle_ms / whole_ms if idle_ms and whole_ms else 1.0
    storage = profile.storage
    faster = storage_bytes_per_s / storage.bytes_per_s if storage_bytes_per_s else 1.0
    replace = msgspec.structs.replace
    return replace(
        profile,
        blocks=tuple(
            replace(block, idle_ms=block.idle_ms * slower, busy_ms=block.busy_ms * slower)
            for block in profile.blocks
        ),
        step_ms=profile.step_ms * slower,
        storage=replace(
            storage,
            bytes_per_s=storage.bytes_per_s * faster,
            busy_bytes_per_s=storage.busy_bytes_per_s * faster,
        ),
    )


def paired_predictions(
    plan: Plan, profile: Profile, resident: Sequence[Round]
) -> tuple[float, ...]:
    """Milliseconds predicted from the stored delays, stretched to those of each round.

    ``resident`` are rounds of the side that keeps everything in memory.
    """
    hours = [scaled(profile, median(r.idle_ms), r.storage_bytes_per_s) for r in resident]
    return tuple(predict(plan.steps, plan.reads, hour).steady_ms for hour in hours)
