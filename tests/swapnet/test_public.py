"""The public surface: which names there are, and that signatures name nothing else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

import swapnet
import swapnet.testing

CALLS = ("bench", "build", "measure", "quantize", "use_custom_ops")
CLASSES = (
    *("Answer", "Engine", "Generator", "Metrics", "RuntimeModel", "State", "SwapEngineFromOnnx"),
    *("SwapExecutor", "SwapRunner", "SwapRuntime"),
)
VALUES = (
    *("Budget", "Cache", "Demand", "Device", "Event", "Generated", "Histogram", "Inference"),
    *("LoadMode", "Manifest", "ModelStats", "Pace"),
    *("Place", "Plan", "PlanOptions", "Profile", "RangeCache", "Read", "Report", "Stats", "Step"),
    *("StepEvent", "ThreadPool", "Usage"),
)
ERRORS = (
    *("BackendError", "BackendUnavailableError", "BudgetError", "EngineError", "InputError"),
    *("ModelError", "StorageError", "SwapnetError"),
)

PROTOCOLS = ("Accelerator", "Changes", "Policy", "Progress")


def test_these_names_are_public() -> None:
    assert set(swapnet.__all__) == {*CALLS, *CLASSES, *VALUES, *ERRORS, *PROTOCOLS, "__version__"}
    assert "SimulatedAccelerator" in swapnet.testing.__all__


def signatures(name: str) -> Iterator[tuple[str, str]]:
    """Annotations of a call, or of the public methods of a class."""
    member: Any = getattr(swapnet, name)
    calls = {name: member}
    if inspect.isclass(member):
        calls = {
            f"{name}.{key}": call
            for key, call in vars(member).items()
            if inspect.isfunction(call) and (key == "__init__" or not key.startswith("_"))
        }
    for key, call in calls.items():
        signature = inspect.signature(call)
        for parameter in signature.parameters.values():
            yield f"{key}({parameter.name})", str(parameter.annotation)
        yield key, str(signature.return_annotation)


@cache
def classes_of_ours() -> frozenset[str]:
    """Names of all classes that SwapNet defines."""
    from tests.swapnet.test_layers import modules

    texts = (path.read_text() for path in modules().values())
    return frozenset(re.findall(r"^class (\w+)", "\n".join(texts), re.M))


def names_of_ours(annotation: str) -> set[str]:
    """Names in an annotation that SwapNet defines."""
    return set(re.findall(r"\b[A-Z]\w+", annotation)) & classes_of_ours()


@pytest.mark.parametrize("name", [*CALLS, "Engine", "SwapExecutor", "SwapRunner", "SwapRuntime"])
def test_signatures_name_what_is_public(name: str) -> None:
    missing = {
        where: unknown
        for where, annotation in signatures(name)
        if (unknown := names_of_ours(annotation) - set(swapnet.__all__))
    }
    assert not missing


@pytest.mark.parametrize("name", sorted({*CALLS, *CLASSES, *VALUES, *ERRORS}))
def test_public_names_are_documented(name: str) -> None:
    text = inspect.getdoc(getattr(swapnet, name))
    assert text
    assert len(text) > 20
