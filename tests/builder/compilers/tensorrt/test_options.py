from __future__ import annotations

from typing import Any

import pytest

from swapnet.builder.compilers.tensorrt.options import TensorRTOptions
from swapnet.errors import InputError
from tests.helpers.fake_builder import FakeTensorRT, installed

RTX, TENSORRT = "tensorrt-rtx", "tensorrt"


def test_only_what_was_given_is_given() -> None:
    assert TensorRTOptions().given == []
    options = TensorRTOptions(builder_optimization_level=0, targets=("sm86",))
    assert options.given == ["targets", "builder_optimization_level"]


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        (RTX, {"weights": "inside"}, ("--weights 'inside'", "auto, embedded, external")),
        (TENSORRT, {"hardware_compatibility": "all"}, ("--hardware-compatibility", "ampere+")),
        (TENSORRT, {"builder_optimization_level": 6}, ("level 6", "0 to 5")),
        (TENSORRT, {"targets": ("sm86",)}, ("--target", "--hardware-compatibility")),
        (RTX, {"hardware_compatibility": "none"}, ("--hardware-compatibility", "--target")),
        (RTX, {"version_compatible": True}, ("--version-compatible", "--backend tensorrt")),
        (RTX, {"builder_optimization_level": 3}, ("--builder-optimization-level", "every level")),
    ],
)
def test_wrong_ones_are_refused(
    backend: str, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        TensorRTOptions(**options).check(backend)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("targets", "word"), [(("sm1",), "sm86, sm89"), (("sm86", "sm86"), "twice")]
)
def test_targets_are_those_of_the_library(targets: tuple[str, ...], word: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(InputError) as caught:
        TensorRTOptions(targets=targets).check(RTX)
    assert word in str(caught.value)
    TensorRTOptions(targets=("sm86", "sm89")).check(RTX)


def test_all_of_tensorrt_at_once() -> None:
    with installed(FakeTensorRT()):
        TensorRTOptions(
            weights="external",
            hardware_compatibility="ampere+",
            version_compatible=True,
            builder_optimization_level=5,
            workspace="1MiB",
        ).check(TENSORRT)
