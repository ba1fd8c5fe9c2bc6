"""Storage by size and number of requests, idle and while the model computes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.probing.reader import End, Ring, flow
from swapnet.executor.swapping.loading import Reader
from swapnet.profile import Request
from swapnet.progress import Progress

__all__ = [
    "LEAST_BYTES",
    "PAIRS",
    "Computing",
    "Interval",
    "Pair",
    "RequestMeter",
    "RoundTrip",
    "choose",
    "measure_requests",
]

Pair = tuple[int, int]
"""Bytes of one request, and requests in flight."""

PAIRS: tuple[Pair, ...] = tuple(
    (size, readers)
    for size in (512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20)
    for readers in (1, 2, 3, 4, 6)
)
PREFERRED: Pair = (READ_BYTES, 1)
"""One large request at a time: the kernel splits it into parallel ones, bytes arrive in the order
of their use, and no reader wakes up more often than it must."""

LEAST_BYTES = 32 << 20
"""A smaller file is read from the storage's own memory, which says little."""

_LEAST_S, _FINAL_S, _MOST_S = 0.02, 0.06, 0.5
"""Least duration of one measurement and of one of a finalist; longest of any."""

_REQUESTS_PER_READER = 3
_ROUND_TRIPS = 5
_PAUSE_S = 0.002
_FINALISTS = 4
_FINALS = 4
"""Further measurements of the best pairs: the best of many noisy figures flatters itself."""

_ALIKE = 0.7
"""Figures of one pair differ by this much from one second to the next. Pairs that are faster than
`PREFERRED` by less were slower in plans: reads beside each other all end late."""

_IN_FLIGHT_BYTES = 8 << 20
"""More at once fill the ring before the first is complete."""


@dataclass(frozen=True)
class Interval:
    """Work of the model: start and end in seconds, and its duration alone."""

    start: float
    end: float
    alone_s: float


@dataclass(frozen=True)
class _Sample:
    start: float
    end: float
    bytes_per_s: float
    latency_ms: float
    compute_speed: float = 1.0

    @property
    def worth(self) -> float:
        return self.bytes_per_s * self.compute_speed


class RoundTrip(NamedTuple):
    """Time until the bytes of a request are there, and until the thread that waits goes on."""

    landed_ms: float
    wake_ms: float


class RequestMeter:
    """Times requests to a weight file of ``nbytes``; each starts where the one before it ended.

    ``largest`` is the number of bytes in flight at most.
    """

    def __init__(self, storage: Reader, nbytes: int, largest: int) -> None:
        self._storage = storage
        self._nbytes = nbytes
        self._ring = Ring(largest)
        self._next = 0

    def measure(self, pair: Pair, least_s: float = _LEAST_S) -> _Sample:
        """Read with one pair for at least ``least_s``, each reader a few requests."""
        size, readers = pair
        lock = threading.Lock()
        latencies: list[float] = []
        ends: list[End] = []
        start = time.perf_counter()

        def claim() -> tuple[int, memoryview] | None:
            """Where the next request reads from, and to."""
            elapsed = time.perf_counter() - start
            enough = len(latencies) >= _REQUESTS_PER_READER * readers and elapsed > least_s
            if enough or elapsed > _MOST_S:
                return None
            offset = self._next if self._next + size <= self._nbytes else 0
            self._next = offset + size
            return offset, self._ring.next(size)

        def work() -> None:
            while True:
                with lock:
                    claimed = claim()
                if claimed is None:
                    return
                offset, view = claimed
                begun = time.perf_counter()
                self._storage.read_into(view, offset)
                ended = time.perf_counter()
                with lock:
                    latencies.append(ended - begun)
                    ends.append((ended, size * len(latencies)))

        threads = [threading.Thread(target=work) for _ in range(readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        end = time.perf_counter()
        # Fewer of the last requests are in flight at once.
        bytes_per_s = flow(ends[: len(ends) - readers + 1]) or size * len(ends) / (end - start)
        return _Sample(start, end, bytes_per_s, median(latencies) * 1e3)

    def round_trip(self, nbytes: int) -> RoundTrip:
        """Ask another thread for one request, after a pause, and wait for its bytes."""
        taken: list[tuple[float, float]] = []

        def read(view: memoryview, offset: int) -> float:
            self._storage.read_into(view, offset)
            return time.perf_counter()

        with ThreadPoolExecutor(1, thread_name_prefix="swapnet-meter") as reader:
            for _ in range(_ROUND_TRIPS):
                offset = self._next if self._next + nbytes <= self._nbytes else 0
                self._next = offset + nbytes
                time.sleep(_PAUSE_S)
                start = time.perf_counter()
                landed = reader.submit(read, self._ring.next(nbytes), offset).result()
                taken.append((landed - start, time.perf_counter() - landed))
        return RoundTrip(*(median(part) * 1e3 for part in zip(*taken, strict=True)))


class Computing:
    """Inferences one after the other in a thread of their own, as long as the context lasts.

    ``infer`` runs one inference, and returns its work in order.
    """

    def __init__(self, infer: Callable[[], Sequence[Interval]]) -> None:
        self._infer = infer
        self._stop = threading.Event()
        self._done: list[Interval] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Computing:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def speed(self, start: float, end: float) -> float:
        """Speed of the model between two times, over its speed alone; asked after the context."""
        alone = sum(
            max(min(end, work.end) - max(start, work.start), 0.0)
            / (work.end - work.start)
            * work.alone_s
            for work in self._done
            if work.end > work.start
        )
        return alone / (end - start)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._done.extend(self._infer())
        except BaseException as error:
            self._failure = error


def measure_requests(
    meter: RequestMeter,
    infer: Callable[[], Sequence[Interval]],
    progress: Progress,
    pairs: Sequence[Pair] = PAIRS,
) -> tuple[Request, ...]:
    """All pairs, in a random order that is always the same; the best ones several times.

    ``infer`` is the compute side, as for `Computing`.
    """
    shuffled = random.Random(0)
    order = shuffled.sample(list(pairs), len(pairs))
    total = 2 * len(order)

    def reached(done: int) -> None:
        progress("storage", done, total)

    idle = {}
    for done, pair in enumerate(order):
        reached(done)
        idle[pair] = [meter.measure(pair)]
    busy = _beside(infer, meter, order, _LEAST_S, lambda done: reached(len(order) + done))
    best = sorted(order, key=lambda pair: -busy[pair][0].worth)[:_FINALISTS]
    finalists = list(dict.fromkeys([*best, *(pair for pair in order if pair == PREFERRED)]))
    # Storage that allows bursts is faster after a slow pair: each follows another every time.
    finals = [p for _ in range(_FINALS) for p in shuffled.sample(finalists, len(finalists))]
    busy |= _beside(infer, meter, finals, _FINAL_S, lambda _: None)
    return (*_requests(idle, busy=False), *_requests(busy, busy=True))


def _beside(
    infer: Callable[[], Sequence[Interval]],
    meter: RequestMeter,
    pairs: Sequence[Pair],
    least_s: float,
    reached: Callable[[int], None],
) -> dict[Pair, list[_Sample]]:
    """All pairs one after the other, beside the model."""
    taken: list[tuple[Pair, _Sample]] = []
    with Computing(infer) as computing:
        for done, pair in enumerate(pairs):
            reached(done)
            taken.append((pair, meter.measure(pair, least_s)))
    samples: dict[Pair, list[_Sample]] = {}
    for pair, sample in taken:
        speed = min(max(computing.speed(sample.start, sample.end), 1e-3), 1.0)
        samples.setdefault(pair, []).append(replace(sample, compute_speed=speed))
    return samples


def _requests(samples: Mapping[Pair, Sequence[_Sample]], *, busy: bool) -> list[Request]:
    return [
        Request(
            nbytes=pair[0],
            readers=pair[1],
            bytes_per_s=median(s.bytes_per_s for s in samples[pair]),
            latency_ms=median(s.latency_ms for s in samples[pair]),
            busy=busy,
            compute_speed=median(s.compute_speed for s in samples[pair]),
        )
        for pair in sorted(samples)
    ]


def choose(requests: Sequence[Request]) -> Pair:
    """The pair with the highest product of bandwidth and compute speed, both while busy.

    At most 8 MiB in flight. `PREFERRED` where nothing is clearly better: figures are noisy, and
    plans stay alike from one calibration to the next.
    """
    worth = {
        (r.nbytes, r.readers): r.bytes_per_s * r.compute_speed
        for r in requests
        if r.busy and r.nbytes * r.readers <= _IN_FLIGHT_BYTES
    }
    if not worth:
        return PREFERRED
    best = max(worth, key=lambda pair: worth[pair])
    return PREFERRED if worth.get(PREFERRED, 0.0) >= _ALIKE * worth[best] else best
