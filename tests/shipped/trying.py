"""Try a shipped model with the command, as a newcomer would."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swapnet.arrays import save_npz
from swapnet.process.cgroup import MemoryGroup, is_available
from tests.shipped.listed import Shipped

__all__ = ["Tried", "try_shipped"]

_LARGEST_BYTES = 6 << 30
"""Limit of the command itself: a build that takes everything must not take the machine along."""

_PATIENCE_S = 600

_LARGEST_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Tried:
    """End of one ``swapnet try``.

    Attributes
    ----------
    status
        Exit status.
    said
        The line on standard output, or the error's first two where it was refused.
    findings
        Schema ``swapnet-try/1``; None where it was refused.
    seconds
        Duration.
    """

    status: int
    said: str
    findings: Any
    seconds: float

    def failures(self) -> Iterator[str]:
        """Whatever does not hold."""
        if self.status:
            yield self.said
        if self.findings:
            beside_bytes = sum(self.findings["beside_weights"].values())
            if (smallest := self.findings["smallest_budget_bytes"]) < beside_bytes:
                yield f"{beside_bytes} bytes beside the weights in a smallest budget of {smallest}"
        for run in self.findings["runs"] if self.findings else ():
            report = run["report"]
            if report is None:
                continue
            if report["peak_bytes"] > run["budget_bytes"]:
                yield f"peak {report['peak_bytes']} above {run['budget_bytes']}"
            if report["max_rel_error"] > _LARGEST_DIFFERENCE and not run["reason"]:
                yield f"outputs differ by {report['max_rel_error']:.0e} without a reason"
            if is_available() and not report["memory_accounting"].startswith("kernel limit"):
                yield f"it ran under no limit: {report['memory_accounting']}"


def try_shipped(model: Shipped, folder: Path) -> Tried:
    """Run ``swapnet try`` on a model and its inputs in a process of its own.

    Raises
    ------
    StorageError
        The package can't be downloaded.
    """
    inputs, found = folder / f"{model.name}.npz", folder / f"{model.name}.json"
    save_npz(inputs, model.inputs())
    command = [sys.executable, "-m", "swapnet", "try", str(model.file())]
    command += ["--data", str(inputs), "--json", str(found)]
    started = time.monotonic()
    with ExitStack() as stack:
        if is_available():
            group = stack.enter_context(MemoryGroup(_LARGEST_BYTES))
            command = ["sh", "-c", f'echo $$ > "{group.processes_file}"; exec "$@"', "sh", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    error = done.stderr.partition("swapnet: error: ")[2].splitlines()
    return Tried(
        status=done.returncode,
        said=done.stdout.strip() or ": ".join(line.strip() for line in error[:2]) or done.stderr,
        findings=json.loads(found.read_text()) if found.exists() else None,
        seconds=time.monotonic() - started,
    )
