"""What is found out about this machine, and about machines that are not here."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from swapnet.cli import diagnosis
from swapnet.cli.diagnosis import BACKENDS, Capability, Diagnosis, Finding, diagnose
from swapnet.errors import BackendError, BackendUnavailableError, InputError, StorageError
from swapnet.executor.backends.windows import BITS_SINCE
from swapnet.executor.gpu import cuda
from swapnet.executor.gpu.accelerator import Attributes
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.fingerprint import cpu_fingerprint
from swapnet.machine import processor_name, storage_device
from tests.helpers.control_groups import stand_in

ORIN = Attributes(
    name="Orin",
    compute_capability=(8, 7),
    total_bytes=8 << 30,
    is_integrated=True,
    has_managed_memory=True,
    has_concurrent_access=False,
    can_map_host_memory=True,
    driver="12.6",
)
H100 = Attributes(
    name="NVIDIA H100",
    compute_capability=(9, 0),
    total_bytes=80 << 30,
    is_integrated=False,
    has_managed_memory=True,
    has_concurrent_access=True,
    can_map_host_memory=True,
    driver="13.0",
)


@dataclass(frozen=True)
class FakeCuda:
    """A GPU that only says what it is."""

    attributes: Attributes

    def free_bytes(self) -> int:
        return 3 << 30


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is written, nothing of this machine's driver is read, and onnx takes no time."""
    monkeypatch.setattr(diagnosis, "_PROBE_BYTES", 4 << 20)
    monkeypatch.setattr(diagnosis, "kernel_module_version", lambda: "")
    monkeypatch.setitem(sys.modules, "onnx", SimpleNamespace())


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts GPUs into this machine; none takes out what is there."""

    def put(*attributes: Attributes) -> None:
        def count() -> int:
            if not attributes:
                raise BackendUnavailableError(
                    "there is no CUDA driver here", why="no\nlibcuda", hint="install the driver"
                )
            return len(attributes)

        monkeypatch.setattr(cuda, "device_count", count)
        monkeypatch.setattr(cuda, "check_pycuda", lambda: None)
        monkeypatch.setattr(cuda, "open_cuda", lambda index: FakeCuda(attributes[index]))

    return put


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has these TensorRT libraries installed, and no others."""

    def install(*backends: str) -> None:
        def load(backend: str) -> object:
            if backend not in backends:
                raise BackendUnavailableError(f"{backend} can't be loaded", hint="install it")
            return SimpleNamespace(__version__="1.2.3")

        monkeypatch.setattr("swapnet.tensorrt.load_tensorrt", load)
        monkeypatch.setattr(diagnosis, "load_tensorrt", load)

    return install


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Has these packages installed, and no others."""

    def install(versions: Mapping[str, str]) -> None:
        packages = [SimpleNamespace(metadata={"Name": name}) for name in versions]
        broken = SimpleNamespace(metadata={})
        monkeypatch.setattr(metadata, "distributions", lambda: [*packages, broken])
        monkeypatch.setattr(metadata, "version", versions.__getitem__)

    return install


def backend(found: Diagnosis, name: str) -> Capability:
    (capability,) = (each for each in found.backends if each.backend == name)
    return capability


def topic(found: Diagnosis, name: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in found.topics[name]}


def test_without_a_gpu_only_the_processor_runs_engines(
    gpus: Callable[..., None], libraries: Callable[..., None], tmp_path: Path
) -> None:
    gpus()
    libraries("tensorrt", "tensorrt-rtx")
    found = diagnose(tmp_path)
    assert tuple(each.backend for each in found.backends) == BACKENDS
    assert found.runnable == ("onnxruntime",)
    builds = {each.backend: each.builds.state for each in found.backends}
    assert builds == {
        "onnxruntime": "ok",
        "onnxruntime-cuda": "ok",
        "tensorrt": "no",
        "tensorrt-rtx": "ok",
    }
    refused = backend(found, "tensorrt-rtx")
    assert refused.version == "1.2.3"
    assert refused.runs == Finding(
        "runs", "no", "there is no CUDA driver here: no libcuda", "install the driver"
    )
    assert set(topic(found, "GPU")) == {"GPU"}


def test_pycuda_is_not_asked_for_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: Callable[..., None], tmp_path: Path
) -> None:
    gpus()

    def touched(*_: object) -> None:
        pytest.fail("it would crash")

    monkeypatch.setattr(cuda, "check_pycuda", touched)
    monkeypatch.setattr(cuda, "open_cuda", touched)
    assert topic(diagnose(tmp_path), "GPU")["GPU"].state == "no"


def test_with_a_gpu_what_is_installed_runs(
    gpus: Callable[..., None], libraries: Callable[..., None], tmp_path: Path
) -> None:
    gpus(H100)
    libraries("tensorrt")
    found = diagnose(tmp_path)
    assert "tensorrt" in found.runnable
    assert backend(found, "tensorrt").builds.state == "ok"
    missing = backend(found, "tensorrt-rtx")
    assert (missing.version, missing.builds.hint, missing.runs.state) == ("", "install it", "no")


def test_gpus_say_what_they_are(gpus: Callable[..., None], tmp_path: Path) -> None:
    gpus(ORIN, H100)
    found = diagnose(tmp_path)
    orin, h100 = topic(found, "GPU 0"), topic(found, "GPU 1")
    details = {name: finding.detail for name, finding in orin.items()}
    assert details == {
        "GPU": "Orin",
        "compute capability": "8.7 (sm87)",
        "memory": "8GiB",
        "free memory": "3GiB",
        "kind": "integrated",
        "managed memory": "yes",
        "concurrent managed access": "no",
        "mapped host memory": "yes",
        "weights lie in": "device memory",
        "driver": "CUDA 12.6",
    }
    assert (orin["memory"].value, orin["memory"].unit) == (8 << 30, "bytes")
    assert h100["kind"].detail == "discrete"
    assert h100["weights lie in"].detail == "device memory"


def test_a_gpu_that_refuses_is_a_finding(
    gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus(H100)

    def refuse(_: int) -> None:
        raise BackendError("the GPU refused", why="out of memory", hint="free some")

    monkeypatch.setattr(cuda, "open_cuda", refuse)
    assert diagnose(tmp_path).topics["GPU 0"] == (
        Finding("GPU", "no", "the GPU refused: out of memory", "free some"),
    )


def test_the_kernel_module_is_told_though_no_gpu_is_seen(
    gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus()
    monkeypatch.setattr(diagnosis, "kernel_module_version", lambda: "580.65.06")
    assert topic(diagnose(tmp_path), "GPU")["kernel module"].detail == "580.65.06"


def test_building_needs_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = backend(diagnose(tmp_path), "onnxruntime")
    assert found.builds.detail.startswith("onnx can't be loaded")
    assert found.builds.hint == "pip install onnx"
    assert found.runs.state == "ok"


def test_packages_are_listed_with_their_families(
    installed: Callable[[Mapping[str, str]], None], tmp_path: Path
) -> None:
    installed({"numpy": "2.0", "onnxruntime-gpu": "1.23", "tensorrt_rtx_cu13_libs": "1.7"})
    found = topic(diagnose(tmp_path), "packages")
    assert found["numpy"] == Finding("numpy", "ok", "2.0")
    assert found["tensorrt-rtx-cu13-libs"].detail == "1.7"
    assert "tensorrt-rtx" not in found
    assert "onnxruntime" not in found
    assert found["tensorrt"].state == "no"
    assert "swapnet-trt[tensorrt]" in found["tensorrt"].hint


def test_every_missing_package_has_a_hint(
    installed: Callable[[Mapping[str, str]], None], tmp_path: Path
) -> None:
    installed({})
    found = diagnose(tmp_path).topics["packages"]
    assert [each.name for each in found] == list(diagnosis._PACKAGES)
    assert all(each.state == "no" and each.hint for each in found)


def test_the_machine_is_told(tmp_path: Path) -> None:
    machine = topic(diagnose(tmp_path), "machine")
    assert machine["processor"].detail == processor_name()
    assert machine["engines are compiled for"].detail == cpu_fingerprint()
    assert machine["processors available"].value == len(os.sched_getaffinity(0))
    assert machine["Python"].detail == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("version", "state", "words"),
    [("1.23", "no", "this is 1.23"), ("", "no", "not installed"), (BITS_SINCE, "fact", "swapped")],
)
def test_int4_needs_a_recent_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, state: str, words: str
) -> None:
    monkeypatch.setattr(diagnosis, "_version", lambda _: version)
    found = topic(diagnose(tmp_path), "machine")["int4 weights"]
    assert found.state == state
    assert words in found.detail
    assert (BITS_SINCE in found.hint) == (state == "no")


@pytest.mark.parametrize(("machine", "told"), [("aarch64", True), ("x86_64", False)])
def test_an_arm_machine_is_told_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, told: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = topic(diagnose(tmp_path), "machine")
    assert ("float weights" in found) == told
    if told:
        assert "packed again in every call" in found["float weights"].detail
        assert "x86-64 do not hold here" in found["float weights"].hint


class Willing(mmap.mmap):
    """Memory of a kernel that has huge pages."""

    def madvise(self, *_: int) -> None:
        pass


@pytest.mark.parametrize(("nbytes", "detail"), [(32 << 20, "32MiB"), (0, "none")])
def test_pages_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int, detail: str
) -> None:
    monkeypatch.setattr(mmap, "mmap", Willing)
    monkeypatch.setattr(diagnosis, "huge_page_bytes", lambda: nbytes)
    found = topic(diagnose(tmp_path), "machine")
    assert found["huge pages"].detail == detail
    assert found["pages"].value == mmap.PAGESIZE


def test_a_kernel_without_huge_pages_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    found = topic(diagnose(tmp_path), "machine")
    assert found["huge pages"].detail == "none: Invalid argument"


@pytest.mark.parametrize("refused", [False, True])
def test_storage_is_tried_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: bool
) -> None:
    opened: list[LoadMode] = []

    def open_(path: Path, mode: LoadMode) -> WeightFile:
        opened.append(mode)
        if refused and mode is LoadMode.DIRECT:
            raise StorageError("it can't be opened", why="Invalid argument")
        return WeightFile(path, LoadMode.BUFFERED)

    monkeypatch.setattr(diagnosis, "WeightFile", open_)
    storage = topic(diagnose(tmp_path), "storage")
    assert opened == ([LoadMode.DIRECT, LoadMode.BUFFERED] if refused else [LoadMode.DIRECT])
    assert storage["direct I/O"].state == ("no" if refused else "ok")
    assert bool(storage["direct I/O"].hint) == refused
    assert "buffered, 4MiB" in storage["reads about"].detail
    assert (storage["reads about"].value or 0) > 0
    assert (storage["free"].value or 0) > 0
    assert storage["folder"].detail == str(tmp_path)
    assert storage["device"].detail == (storage_device(tmp_path) or "unknown")
    assert not list(tmp_path.iterdir())


def test_slow_storage_is_probed_with_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnosis, "_PROBE_BYTES", 8 << 20)
    assert ", 8MiB once" in topic(diagnose(tmp_path), "storage")["reads about"].detail
    monkeypatch.setattr(diagnosis, "_PROBE_WRITE_S", 0.0)
    assert ", 4MiB once" in topic(diagnose(tmp_path), "storage")["reads about"].detail


@pytest.mark.parametrize("call", ["fdatasync", "mkstemp", "preadv"])
def test_storage_that_refuses_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "mkstemp":
        monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    else:
        monkeypatch.setattr(os, call, refuse)
    storage = topic(diagnose(tmp_path), "storage")
    assert storage["direct I/O"].state == "no"
    assert "No space left on device" in storage["direct I/O"].detail
    assert "swapnet doctor DIR" in storage["direct I/O"].hint
    assert "reads about" not in storage
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "why"), [("none", "no such folder"), ("file", "a file")])
def test_no_folder(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_bytes(b"0")
    with pytest.raises(InputError, match="is not a folder") as caught:
        diagnose(tmp_path / name)
    assert why in caught.value.why


@pytest.mark.parametrize("missing", ["", "memory.peak"])
def test_the_memory_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    stand_in(monkeypatch, tmp_path, missing=missing)
    (found,) = diagnose(tmp_path).topics["memory limit"]
    assert (found.state, found.hint) == ("ok", "")
    assert ("sampled" in found.detail) == bool(missing)


def test_a_raspberry_pi_is_told_how_to_get_the_memory_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, controllers="cpu", options="cgroup_disable=memory")
    (found,) = diagnose(tmp_path).topics["memory limit"]
    assert found.state == "no"
    assert "no cgroup memory controller" in found.detail
    assert "add cgroup_enable=memory to /boot/firmware/cmdline.txt and reboot" in found.hint
    assert "SwapNet keeps budgets, the kernel does not enforce them" in found.hint
