"""ONNX Runtime's CUDA backend with the CPU provider on a simulated GPU, and what CUDA is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from swapnet.errors import BackendError, BackendUnavailableError
from swapnet.executor import PlanOptions, SwapExecutor
from swapnet.executor.backends import check_runnable
from swapnet.executor.backends.onnxruntime_cuda import check_provider
from swapnet.executor.planning.planner import smallest_budget
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.engines import Arrays, poison
from tests.helpers.gpu import BuildGpu
from tests.helpers.profiles import SmallRequests
from tests.helpers.zoo import TOYS

QUICK = ("used-twice", "lookups", "computed-indices", "dynamic", "sequence")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TOYS]
)
def test_equals_the_unswapped_model_in_any_order_of_work(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], name: str
) -> None:
    folder = gpu_engine(name)
    given = feeds(folder)
    with SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()) as whole:
        expected = whole(given)
        budget = smallest_budget(whole.manifest)[0]
    for seed, memory in enumerate(("device", "managed")):
        with SwapExecutor(
            folder,
            budget + (seed << 14),
            device=SmallRequests(gpu_memory=memory),
            options=PlanOptions(resident=seed == 0),
            gpu=SimulatedAccelerator(seed),
            before_read=poison,
        ) as executor:
            for _ in range(3):
                found = executor(given)
                assert found.keys() == expected.keys()
                for key, array in expected.items():
                    np.testing.assert_array_equal(found[key], array)


@pytest.fixture
def asked(gpu_engine: BuildGpu, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a CUDA build of ONNX Runtime would be asked; sessions are the CPU's."""
    for name in ("images-sliced", "used-twice"):
        gpu_engine(name)
    made = SimpleNamespace(arenas=[], providers=[], run_options=[], provider="")
    session = onnxruntime.InferenceSession

    def open_session(model: bytes, options: Any, providers: list[Any]) -> Any:
        made.providers += providers
        assert options.get_session_config_entry("session.use_env_allocators") == "1"
        options.add_session_config_entry("session.use_env_allocators", "0")
        opened = session(model, options, ["CPUExecutionProvider"])
        run = opened.run_with_iobinding

        def run_noted(binding: Any, run_options: Any) -> None:
            made.run_options.append(run_options)
            run(binding)

        opened.run_with_iobinding = run_noted
        opened.get_providers = lambda: [made.provider or providers[0][0]]
        opened.io_binding = lambda: _OnCpu(opened)
        return opened

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime, "create_and_register_allocator_v2", lambda *args: made.arenas.append(args)
    )
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    return made


class _OnCpu(onnxruntime.IOBinding):  # type: ignore[misc]
    """Takes addresses of the device for those of the host that they are."""

    def bind_input(self, name: str, device_type: str, *rest: Any) -> None:
        super().bind_input(name, "cpu", *rest)

    def bind_output(self, name: str, device_type: str = "cpu", *rest: Any) -> None:
        super().bind_output(name, "cpu", *rest)


class _Cuda(SimulatedAccelerator):
    onnxruntime_device = "cuda"


def test_cuda_is_asked_for_one_arena_and_our_stream(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], asked: SimpleNamespace
) -> None:
    folder = gpu_engine("images-sliced")
    with SwapExecutor(folder, "100%", gpu=_Cuda()) as executor:
        executor(feeds(folder))
        limit = max(block.activation_bytes for block in executor.manifest.blocks)
    ((provider, _, settings, arena),) = asked.arenas
    assert provider == "CUDAExecutionProvider"
    assert arena.max_mem >= limit
    assert settings["user_compute_stream"] == "0"
    assert {name for name, _ in asked.providers} == {"CUDAExecutionProvider"}
    assert all(given == settings for _, given in asked.providers)


def test_only_what_goes_to_the_host_waits_for_the_device(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], asked: SimpleNamespace
) -> None:
    folder = gpu_engine("images-sliced")
    options = PlanOptions(merge=False)
    with SwapExecutor(folder, "100%", gpu=_Cuda(), options=options) as executor:
        executor(feeds(folder))
    key = "disable_synchronize_execution_providers"
    waits = [run.get_run_config_entry(key) != "1" for run in asked.run_options]
    assert waits == [False] * (len(waits) - 1) + [True]


def test_an_arena_that_is_refused_is_told(
    gpu_engine: BuildGpu, asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    assert asked.arenas == []
    monkeypatch.setattr(onnxruntime, "create_and_register_allocator_v2", refuse)
    with pytest.raises(BackendError, match="the CUDA arena can't be made") as caught:
        SwapExecutor(gpu_engine("used-twice"), "100%", gpu=_Cuda())
    assert "out of memory" in caught.value.why


def test_a_provider_that_does_not_start_is_told(
    gpu_engine: BuildGpu, asked: SimpleNamespace
) -> None:
    asked.provider = "CPUExecutionProvider"
    with pytest.raises(BackendError, match="blocks 0 to") as caught:
        SwapExecutor(gpu_engine("used-twice"), "100%", gpu=_Cuda())
    assert "fell back to CPUExecutionProvider" in caught.value.why


def test_arenas_are_registered_anew_where_another_executor_was_opened(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], asked: SimpleNamespace
) -> None:
    folder = gpu_engine("images-sliced")
    given = feeds(folder)
    with SwapExecutor(folder, "100%", gpu=_Cuda()) as one:
        expected = one(given)
        one.set_budget(smallest_budget(one.manifest)[0])
        assert len(asked.arenas) == 1
        with SwapExecutor(folder, "100%", gpu=_Cuda()) as other:
            other(given)
            one.set_budget("100%")
            assert len(asked.arenas) == 3
        for name, array in one(given).items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_build_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swapnet.executor.gpu.cuda.device_count", lambda: 1)
    monkeypatch.setattr("swapnet.executor.gpu.cuda.check_pycuda", lambda: None)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(BackendUnavailableError, match="no CUDA provider") as caught:
        check_runnable("onnxruntime-cuda")
    assert "onnxruntime-gpu" in caught.value.hint
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match="ONNX Runtime is not installed"):
        check_provider()
