"""Counts of executors and runtimes as Prometheus metrics; needs the extra ``metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Any

from swapnet.errors import InputError
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.runtime.model import RuntimeModel
from swapnet.executor.runtime.runtime import SwapRuntime
from swapnet.executor.stats import Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["Metrics"]

_Table = tuple[tuple[str, str, str, Callable[[Any], "float | Histogram"]], ...]
"""Kind, name, text and value of each metric."""

_EXECUTOR: _Table = (
    ("Histogram", "inference_seconds", "Latency of inferences.", lambda e: e.stats.latency),
    ("Counter", "inference_failures", "Inferences that raised.", lambda e: e.stats.failures),
    ("Counter", "refused_requests", "Arrays that do not fit.", lambda e: e.stats.refused),
    ("Counter", "read_bytes", "Bytes read for inferences.", lambda e: e.stats.read_bytes),
    ("Counter", "reading_seconds", "Time of reading.", lambda e: e.stats.reading_ms / 1e3),
    ("Counter", "stall_seconds", "Time of waiting for bytes.", lambda e: e.stats.stall_ms / 1e3),
    ("Counter", "input_seconds", "Time at the inputs.", lambda e: e.stats.input_ms / 1e3),
    ("Counter", "output_seconds", "Time at the outputs.", lambda e: e.stats.output_ms / 1e3),
    ("Gauge", "open_seconds", "Time that opening took.", lambda e: e.stats.open_ms / 1e3),
    ("Gauge", "budget_bytes", "Memory that the model may use.", lambda e: e.plan.budget_bytes),
    ("Gauge", "resident_bytes", "Weights that stay in memory.", lambda e: e.plan.resident_bytes),
    ("Gauge", "streamed_bytes", "Weights read per inference.", lambda e: e.plan.streamed_bytes),
)

_MODEL: _Table = (
    ("Histogram", "request_seconds", "Time from submit to the answer.", lambda m: m.stats.latency),
    ("Counter", "request_failures", "Requests that raised.", lambda m: m.stats.failures),
    ("Counter", "replans", "Changes of the share of the budget.", lambda m: m.stats.replans),
    ("Gauge", "waiting_requests", "Requests that have not begun.", lambda m: m.stats.waiting),
)

_RUNTIME: _Table = (
    ("Gauge", "runtime_budget_bytes", "Memory for all models.", lambda r: r.budget_bytes),
)


class Metrics:
    """Metrics of executors and runtimes, read when Prometheus asks for them.

    Parameters
    ----------
    sources
        Executors and runtimes by name. The mapping is read each time: one that is added to it later
        is exposed too. An executor's name is its label ``model``, a runtime's its label
        ``runtime``, beside the names of its models.
    registry
        Registry of ``prometheus_client``; by default its global one.

    Raises
    ------
    InputError
        ``prometheus_client`` is not installed.

    Examples
    --------
    >>> metrics = swapnet.Metrics({"detector": executor})  # doctest: +SKIP
    >>> prometheus_client.start_http_server(9000)  # doctest: +SKIP
    """

    def __init__(
        self,
        sources: Mapping[str, SwapExecutor | SwapRuntime],
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        try:
            from prometheus_client import REGISTRY
        except ImportError as error:
            raise InputError(
                "metrics need prometheus-client",
                why=str(error),
                hint="pip install 'swapnet-trt[metrics]'",
            ) from error
        self._sources = sources
        self._registry = registry or REGISTRY
        self._registry.register(self)

    def close(self) -> None:
        """Leave the registry."""
        self._registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """All metrics; called by the registry, on the thread that asks for them."""
        executors: dict[tuple[str, ...], SwapExecutor] = {}
        models: dict[tuple[str, ...], RuntimeModel] = {}
        runtimes: dict[tuple[str, ...], SwapRuntime] = {}
        for name, source in dict(self._sources).items():
            if isinstance(source, SwapExecutor):
                executors["", name] = source
                continue
            runtimes[name,] = source
            models |= {(name, model.name): model for model in source.models}
        executors |= {labels: model.executor for labels, model in models.items()}
        tables = ((_EXECUTOR, executors), (_MODEL, models), (_RUNTIME, runtimes))
        for table, found in tables:
            for kind, name, text, value in table if found else ():
                yield _family(kind, name, text, {at: value(one) for at, one in found.items()})


def _family(
    kind: str, name: str, text: str, values: Mapping[tuple[str, ...], float | Histogram]
) -> Metric:
    from prometheus_client import core
    from prometheus_client.utils import floatToGoString

    labels = ("runtime", "model")[: len(next(iter(values)))]
    family: Any = getattr(core, f"{kind}MetricFamily")(f"swapnet_{name}", text, labels=labels)
    for at, value in values.items():
        if isinstance(value, Histogram):
            bounds = map(floatToGoString, [*(bound / 1e3 for bound in value.bounds_ms), inf])
            buckets = list(zip(bounds, accumulate(value.counts), strict=True))
            family.add_metric(at, buckets, value.sum_ms / 1e3)
        else:
            family.add_metric(at, value)
    return family  # type: ignore[no-any-return]
