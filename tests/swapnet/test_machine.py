from __future__ import annotations

from typing import Any

import pytest

from swapnet.machine import Gpu, first_gpu


class Driver:
    """The driver's calls, with one device of compute capability 8.7."""

    def __init__(self, count: int) -> None:
        self.count = count

    def cuInit(self, flags: int) -> int:
        return flags

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 5
        return 0 if index < self.count else 101

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        assert (length, device.value) == (256, 5)
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        assert device.value == 5
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


@pytest.mark.parametrize(("count", "found"), [(1, Gpu("Orin", "sm87")), (0, None)])
def test_the_driver_is_asked_for_its_first_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, found: Gpu | None
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver(count))
    assert first_gpu() == found


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swapnet.machine._DRIVER", "libnothing-of-this-name.so")
    assert first_gpu() is None
