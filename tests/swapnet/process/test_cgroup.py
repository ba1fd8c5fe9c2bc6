"""Budgets under the kernel's own count: the process lives, and uses no more than it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.arrays import save_npz
from swapnet.builder.one_operator import one_operator_engine
from swapnet.errors import BackendError, BudgetError
from swapnet.executor.bench.fixed_cost import FixedCost, executor_cost
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.worker import Program, Worker
from swapnet.executor.device import Device
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.process.cgroup import MemoryGroup, is_available
from tests.helpers.engines import BuildToy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("kernel memory"),  # caches are dropped
    pytest.mark.skipif(not is_available(), reason="no permission for cgroups with memory limits"),
]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> tuple[FixedCost, int]:
    """The runtime's process, and what it uses."""
    folder = tmp_path_factory.mktemp("runtime")
    process = executor_cost(one_operator_engine(folder), folder, Device())
    return process, process.measure(counted=True)


@pytest.mark.parametrize("name", ["images", "dynamic", "lookups", "wide-opset-21"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_peak_is_within_the_budget(
    engine: BuildToy, runtime: tuple[FixedCost, int], tmp_path: Path, name: str, share: float
) -> None:
    toy = engine(name)
    process, fixed = runtime
    smallest, _ = smallest_budget(toy.in_own_process)
    most = demand(toy.in_own_process).total_bytes
    budget_bytes = int(smallest + share * (most - smallest))
    save_npz(tmp_path / "inputs.npz", toy.feeds())
    request = Request(
        "swapped", str(toy.folder), str(tmp_path / "inputs.npz"), Device().threads, budget_bytes
    )
    process.warm_up()
    with MemoryGroup(None) as group, Worker(request, group) as worker:
        worker.run(20)
        assert group.peak_bytes - fixed <= budget_bytes
    limit = fixed + budget_bytes
    with MemoryGroup(limit) as group, Worker(request, group, limit) as worker:
        assert len(worker.run(20).latency_ms) == 20


def test_the_kernel_kills_what_does_not_fit(
    engine: BuildToy, runtime: tuple[FixedCost, int], tmp_path: Path
) -> None:
    toy = engine("images")
    save_npz(tmp_path / "inputs.npz", toy.feeds())
    request = Request("swapped", str(toy.folder), str(tmp_path / "inputs.npz"), 1, toy.demand)
    limit = runtime[1] // 2
    with MemoryGroup(limit) as group:
        with (
            pytest.raises(BudgetError, match=f"limit of {limit} bytes"),
            Worker(request, group, limit) as worker,
        ):
            worker.run(1)
        assert group.has_killed


def test_errors_of_a_worker_reach_the_caller(engine: BuildToy, tmp_path: Path) -> None:
    toy = engine("images")
    save_npz(tmp_path / "inputs.npz", toy.feeds())
    smallest, _ = smallest_budget(toy.in_own_process)
    request = Request("swapped", str(toy.folder), str(tmp_path / "inputs.npz"), 1, smallest - 1)
    with pytest.raises(BudgetError, match=f"it needs {smallest} bytes"), Worker(request):
        pass


def test_a_side_that_never_answers_is_ended(tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    request = Request("mapped", "", "", 1)
    with pytest.raises(BackendError, match="mapped model is too slow") as caught:
        Worker(request, program=Program(python=silent), patience_s=0.2)
    assert caught.value.why == "it gave no answer for 0.2 s"
