"""accelerate's ``disk_offload`` as a side: PyTorch, weights read from disk module by module.

``python -m tests.evidence.offload`` is the process of that side, and with ``WEIGHTS.npz FOLDER``
writes the folder that it reads from. Both need PyTorch and accelerate, in an environment of their
own (``make peers``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from swapnet.arrays import Array, load_npz
from swapnet.errors import BackendUnavailableError, SwapnetError
from swapnet.executor.bench.bench import Other
from swapnet.executor.bench.sides import Request, Side
from swapnet.executor.bench.timing import Round
from swapnet.executor.bench.worker import Worker, serve_side
from swapnet.machine import peak_resident_bytes
from swapnet.process.cgroup import MemoryGroup, is_available
from swapnet.units import format_size

__all__ = ["Offloaded", "open_side", "without_limit", "write_folder"]

_UNLIMITED_INFERENCES = 3


class Offloaded(Side):
    """BERT on PyTorch, none of its weights in memory between two modules.

    Parameters
    ----------
    request
        ``path`` is the folder of weights; none for a model of one operator, whose process is the
        fixed cost.
    inputs
        As the ONNX model takes them.

    Raises
    ------
    BackendUnavailableError
        PyTorch or accelerate is not installed.
    """

    def __init__(self, request: Request, inputs: Mapping[str, Array]) -> None:
        torch, accelerate = _libraries()
        from tests.evidence.bert import Bert

        torch.set_num_threads(request.threads)
        self._torch = torch
        self._outputs: dict[str, Array] = {}
        self._run: Callable[[], Any]
        if not request.path:
            linear = torch.nn.Linear(1, 1)
            self._run = lambda: {"y": linear(torch.ones(1, 1))}
            return
        with accelerate.init_empty_weights():
            model = Bert()
        model.eval()
        accelerate.disk_offload(model, request.path, execution_device=torch.device("cpu"))
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        self._run = lambda: model(**given)

    def run(self, count: int) -> Round:
        latency = []
        with self._torch.inference_mode():
            self._run()
            for _ in range(count):
                start = time.perf_counter()
                outputs = self._run()
                latency.append((time.perf_counter() - start) * 1e3)
        self._outputs = {name: tensor.numpy() for name, tensor in outputs.items()}
        return Round.of(latency)

    def outputs(self) -> Mapping[str, Array]:
        return self._outputs

    def details(self) -> Any:
        return {"resident_peak_bytes": peak_resident_bytes()}


def open_side(request: Request) -> Offloaded:
    """The side that a request asks for."""
    return Offloaded(request, load_npz(Path(request.inputs)))


def without_limit(other: Other, inputs: Path, threads: int) -> str:
    """Run it with all the memory of the machine, where it does not live under a limit.

    Parameters
    ----------
    other
        What did not live.
    inputs
        ``.npz`` of its inputs.
    threads
        Compute threads.

    Returns
    -------
    str
        Its latency and peak, or why it fails there too, in words.
    """
    request = Request(other.role, str(other.path), str(inputs), threads)
    try:
        with ExitStack() as stack:
            group = stack.enter_context(MemoryGroup(None)) if is_available() else None
            worker = stack.enter_context(Worker(request, group, program=other.program))
            turn = worker.run(_UNLIMITED_INFERENCES)
            peak = group.peak_bytes if group else worker.details()["resident_peak_bytes"]
    except SwapnetError as error:
        return f"without a limit: {error.what}"
    return (
        f"without a limit it takes {turn.median_ms:.0f} ms and {format_size(peak)}, "
        "its weights in the page cache"
    )


def write_folder(weights: Path, folder: Path) -> None:
    """Write weights in accelerate's format: a file for each, and an index.

    Parameters
    ----------
    weights
        ``.npz`` of arrays by Hugging Face's names.
    folder
        Made if missing.

    Raises
    ------
    BackendUnavailableError
        PyTorch or accelerate is not installed.
    """
    torch, _ = _libraries()
    from accelerate.utils import offload_state_dict

    arrays = load_npz(weights)
    offload_state_dict(folder, {name: torch.from_numpy(array) for name, array in arrays.items()})


def _libraries() -> tuple[Any, Any]:
    try:
        import accelerate
        import torch
    except ImportError as error:
        raise BackendUnavailableError(
            "accelerate is not here",
            why=str(error),
            hint="make peers, or pip install 'swapnet-trt[peers]'",
        ) from error
    return torch, accelerate


if __name__ == "__main__":
    if sys.argv[1:]:
        write_folder(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        sys.exit(serve_side(open_side))
