"""Parts (b) and (c): the GPU suite and the benchmark, on the libraries that run here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import takewhile
from pathlib import Path

import numpy as np

import swapnet
from swapnet import models
from swapnet.executor.backends import check_runnable
from tests.gpu_kit.rig import Check, Figures, NotHere, Setting, Wrong

__all__ = ["CHECKS", "outcomes"]

_ROOT = Path(swapnet.__file__).parent.parent
_MODELS = ("resnet18", "mobilenet_v2", "ppocrv4_rec")
"""Small ones; MiniLM's weights are too many to carry."""
_SPARE_S = 10.0
_PROMPT, _TOKENS = 131, 12
"""Tokens of a prompt of two chunks, and of the answer."""
_LINE = re.compile(r"^(tests/\S+::\S+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)", re.MULTILINE)


def provider(setting: Setting) -> Figures:
    """ONNX Runtime has the CUDA provider, and the provider computes."""
    backends_check(setting, "onnxruntime-cuda")
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    square = [64, 64]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, square) for n in "xy"]
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "square", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    wanted = "CPUExecutionProvider" if setting.simulated else "CUDAExecutionProvider"
    session = ort.InferenceSession(model.SerializeToString(), providers=[wanted])
    if wanted not in (found := session.get_providers()):
        raise Wrong(f"the session has no {wanted}", {"providers": ", ".join(found)})
    given = np.random.default_rng(0).random(square, np.float32)
    (output,) = session.run(None, {"x": given})
    error = float(np.abs(output - given @ given).max() / np.abs(output).max())
    figures: Figures = {
        "version": ort.__version__,
        "providers": ", ".join(ort.get_available_providers()),
        "max_rel_error": error,
    }
    if error > 1e-2:
        raise Wrong("a product of matrices is wrong", figures)
    return figures


def made(setting: Setting) -> Figures:
    """The models of the zoo that are small enough to carry are made here."""
    del setting
    return {name: models.get(name).onnx.stat().st_size for name in _MODELS}


def asked(setting: Setting, backend: str) -> Figures:
    """The library is asked whether it runs on this GPU."""
    backends_check(setting, backend)
    return {"backend": backend, "runs": True}


def backends_check(setting: Setting, backend: str) -> None:
    """Raise `BackendUnavailableError` where engines of a backend can't be executed here."""
    if not setting.simulated:
        check_runnable(backend)
    elif backend != "onnxruntime-cuda":
        raise NotHere(f"{backend} does not run on a simulated GPU")


def suite(setting: Setting, backend: str, limit_s: float) -> Figures:
    """The GPU suite; what it says is kept as far as it came."""
    backends_check(setting, backend)
    styles = ("external",) if backend == "onnxruntime-cuda" else ("external", "embedded")
    chosen = " or ".join(f"{backend}-{style}" for style in styles)
    chosen = f"({chosen}) and not minilm"
    if setting.simulated:
        chosen += " and (resnet18 or poison or managed)"
    log = setting.out / f"suite-{backend}.log"
    done = _run(
        [
            *(*_python(setting, "pytest"), "-m", "gpu", "tests/gpu", "-v", "-k", chosen),
            *("-p", "no:cacheprovider", "--tb=short", "-W", "default"),
        ],
        log,
        limit_s,
        SWAPNET_REQUIRE_GPU="" if setting.simulated else "1",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    found = outcomes(log.read_text())
    figures: Figures = {name.lower(): count for name, count in found.items()}
    figures["log"] = log.name
    if done is None:
        raise Wrong(f"not ended after {limit_s:.0f} s", figures)
    if done or not found["PASSED"]:
        raise Wrong(f"pytest ended with {done}", figures)
    return figures


def outcomes(text: str) -> Counter[str]:
    """How many tests ended how, in what ``pytest -v`` printed so far."""
    return Counter(dict(_LINE.findall(text)).values())


def bench(setting: Setting, backend: str, name: str, limit_s: float) -> Figures:
    """One model, unswapped and swapped at three budgets."""
    backends_check(setting, backend)
    target = setting.work / f"{backend}-{name}.json"
    log = setting.work / f"{backend}-{name}.log"
    done = _run(
        [
            *(*_python(setting, "tests.evidence.bench_gpu"), name, "--backend", backend),
            *("--rounds", "3", "--engines", str(setting.work / "engines")),
            *("--json", str(target)),
        ],
        log,
        limit_s,
    )
    if done != 0:
        last = log.read_text().strip().splitlines()[-3:]
        why = "time was over" if done is None else f"it ended with {done}"
        raise Wrong(f"{why}: {' '.join(last)}")
    return {"cases": json.loads(target.read_text())}


def decoder(setting: Setting, backend: str) -> Figures:
    """Small decoders give tokens, their caches in memory of the GPU."""
    backends_check(setting, backend)
    import onnx

    from swapnet.builder import build
    from swapnet.executor.engine import Engine
    from swapnet.executor.generation.generator import Generator
    from swapnet.executor.planning.planner import smallest_budget
    from tests.helpers import decoders

    figures: Figures = {}
    prompt = [(7 * n) % decoders.VOCABULARY for n in range(_PROMPT)]
    for name in ("grouped", "concatenating"):
        folder = setting.work / f"{backend}-{name}"
        folder.mkdir(exist_ok=True)
        onnx.save_model(decoders.named(getattr(decoders, name)()), folder / "model.onnx")
        build(folder / "model.onnx", folder / "engine", backend=backend)
        expected = decoders.expected(Engine.open(folder / "engine"), prompt, _TOKENS)
        tokens = []
        budget: str | int = "100%"
        for _ in range(2):
            with Generator(folder / "engine", budget, 2 * _PROMPT) as generator:
                begun = time.perf_counter()
                tokens.append([*generator(prompt, max_tokens=_TOKENS)])
                seconds = time.perf_counter() - begun
                budget = smallest_budget(generator.executor.manifest)[0]
        pairs = zip(tokens[0], expected, strict=True)
        figures[name] = {
            "equal_to_cpu": sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)),
            "same_at_smallest_budget": tokens[0] == tokens[1],
            "token_ms": 1e3 * seconds / _TOKENS,
        }
    if any(not f["equal_to_cpu"] or not f["same_at_smallest_budget"] for f in figures.values()):
        raise Wrong("tokens are not those of ONNX Runtime, or depend on the budget", figures)
    return figures


def _python(setting: Setting, module: str) -> list[str]:
    if not setting.simulated:
        return [sys.executable, "-m", module]
    if module == "pytest":
        return [sys.executable, "-m", "pytest", "-p", "tests.gpu_kit.simulated"]
    return [sys.executable, "-m", "tests.gpu_kit.simulated"]


def _run(command: list[str], log: Path, limit_s: float, **variables: str) -> int | None:
    """The exit status; None where it was ended."""
    with log.open("wb") as file:
        try:
            return subprocess.run(
                command,
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit_s - _SPARE_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _suite(part: str, backend: str, limit_s: float) -> Check:
    return Check(
        part,
        f"{backend} suite",
        f"The GPU suite on {backend}, without MiniLM",
        lambda setting: suite(setting, backend, limit_s),
        limit_s,
    )


def _bench(part: str, backend: str, name: str) -> Check:
    limit_s = 90.0
    return Check(
        part,
        f"{backend} {name}",
        f"bench-gpu of {name} on {backend}",
        lambda setting: bench(setting, backend, name, limit_s),
        limit_s,
    )


def _asked(backend: str) -> Check:
    title = f"{backend} says whether it runs on this GPU"
    return Check("c", backend, title, lambda setting: asked(setting, backend))


def _decoder(part: str, backend: str) -> Check:
    title = f"Small decoders give tokens on {backend}, their caches in memory of the GPU"
    return Check(part, f"{backend} decoder", title, lambda asked: decoder(asked, backend), 90.0)


CHECKS = (
    Check("b", "provider", str(provider.__doc__), provider),
    Check("b", "models", str(made.__doc__), made, 90.0),
    *(_bench("b", "onnxruntime-cuda", name) for name in _MODELS),
    _decoder("b", "onnxruntime-cuda"),
    _suite("b", "onnxruntime-cuda", 240.0),
    _asked("tensorrt-rtx"),
    _asked("tensorrt"),
    *(
        check
        for backend in ("tensorrt-rtx", "tensorrt")
        for check in (
            _decoder("c", backend),
            _bench("c", backend, "resnet18"),
            _suite("c", backend, 180.0),
        )
    ),
)
