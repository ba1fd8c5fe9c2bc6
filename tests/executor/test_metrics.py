"""The exposition of executors and runtimes, read by the library's own parser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from swapnet.errors import InputError
from swapnet.executor import SwapExecutor, SwapRuntime
from swapnet.executor.metrics import Metrics
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.simulated import budget_for, load, simulated

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")


@pytest.fixture
def registry() -> CollectorRegistry:
    """As strict about names as the global one."""
    from prometheus_client import CollectorRegistry

    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    return engine("used-twice")


def exposed(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels."""
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    text = generate_latest(registry).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_executor_is_exposed(toy: Engine, registry: CollectorRegistry) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        metrics = Metrics({"toy": executor}, registry=registry)
        for seed in range(3):
            executor(toy.feeds(seed))
        with pytest.raises(InputError):
            executor({})
        samples, stats, plan = exposed(registry), executor.stats, executor.plan
    labels = ("model=toy", "runtime=")
    assert samples[("swapnet_inference_seconds_count", *labels)] == 3
    assert samples[("swapnet_inference_seconds_sum", *labels)] == stats.latency.sum_ms / 1e3
    buckets = [
        value for name, value in samples.items() if name[0] == "swapnet_inference_seconds_bucket"
    ]
    assert len(buckets) == len(stats.latency.counts)
    assert buckets == sorted(buckets)
    assert buckets[-1] == samples[("swapnet_inference_seconds_bucket", "le=+Inf", *labels)] == 3
    assert samples[("swapnet_refused_requests_total", *labels)] == 1
    assert samples[("swapnet_inference_failures_total", *labels)] == 0
    assert 0 < samples[("swapnet_read_bytes_total", *labels)] <= stats.read_bytes
    assert samples[("swapnet_stall_seconds_total", *labels)] == stats.stall_ms / 1e3
    assert samples[("swapnet_budget_bytes", *labels)] == plan.budget_bytes
    assert samples[("swapnet_streamed_bytes", *labels)] == plan.streamed_bytes
    assert samples[("swapnet_open_seconds", *labels)] == stats.open_ms / 1e3
    assert not any(name[0].startswith("swapnet_request_") for name in samples)
    metrics.close()
    assert exposed(registry) == {}


def test_models_of_a_runtime_are_exposed_while_they_are_loaded(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    one = simulated(tmp_path / "a", [40 << 10] * 4)
    with SwapRuntime(budget_for(one, share=1.0)) as runtime:
        Metrics({"cameras": runtime}, registry=registry)
        model = load(runtime, one)
        for value in range(2):
            one.ask(model, value)()
        samples = exposed(registry)
        model.unload()
        after = exposed(registry)
    labels = ("model=a", "runtime=cameras")
    assert samples[("swapnet_inference_seconds_count", *labels)] == 2
    assert samples[("swapnet_request_seconds_count", *labels)] == 2
    assert (
        samples[("swapnet_request_seconds_sum", *labels)]
        >= (samples[("swapnet_inference_seconds_sum", *labels)])
    )
    assert samples[("swapnet_waiting_requests", *labels)] == 0
    assert samples[("swapnet_request_failures_total", *labels)] == 0
    budget = ("swapnet_runtime_budget_bytes", "runtime=cameras")
    assert samples[budget] == after[budget] == runtime.budget_bytes
    assert list(after) == [budget]


def test_several_sources_share_the_families(toy: Engine, registry: CollectorRegistry) -> None:
    with (
        SwapExecutor(toy.folder, toy.smallest) as one,
        SwapExecutor(toy.folder, "100%") as other,
    ):
        sources = {"one": one}
        Metrics(sources, registry=registry)
        sources["other"] = other
        found = {name[1] for name in exposed(registry) if name[0] == "swapnet_budget_bytes"}
        assert found == {"model=one", "model=other"}
        del sources["one"]
        found = {name[1] for name in exposed(registry) if name[0] == "swapnet_budget_bytes"}
        assert found == {"model=other"}


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InputError, match="prometheus-client") as caught:
        Metrics({})
    assert "swapnet-trt[metrics]" in caught.value.hint
