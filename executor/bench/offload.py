"""accelerate's ``disk_offload`` as a side: PyTorch, weights read from disk module by module.

``python -m swapnet.executor.bench.offload WEIGHTS.npz FOLDER`` writes the folder that it reads
from. Both need PyTorch and accelerate, in an environment of their own (``make peers``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from swapnet.arrays import Array, load_npz
from swapnet.errors import BackendUnavailableError
from swapnet.executor.bench.roles import Request, Round, peak_resident_bytes

__all__ = ["Offloaded", "write_folder"]


class Offloaded:
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
        from swapnet.executor.bench.bert import Bert

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
        """See `Side.run`."""
        latency = []
        with self._torch.inference_mode():
            self._run()
            for _ in range(count):
                start = time.perf_counter()
                outputs = self._run()
                latency.append((time.perf_counter() - start) * 1e3)
        self._outputs = {name: tensor.numpy() for name, tensor in outputs.items()}
        return Round(tuple(latency))

    def outputs(self) -> Mapping[str, Array]:
        """See `Side.outputs`."""
        return self._outputs

    def details(self) -> Any:
        """See `Side.details`."""
        return {"resident_peak_bytes": peak_resident_bytes()}

    def close(self) -> None:
        """Nothing to release."""


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
    write_folder(Path(sys.argv[1]), Path(sys.argv[2]))
