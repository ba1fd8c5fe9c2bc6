"""A simulated GPU for a whole process: a plugin of pytest, and the benchmark of GPUs.

``python -m pytest -p tests.gpu_kit.simulated``, ``python -m tests.gpu_kit.simulated resnet18 …``
"""

from __future__ import annotations

from tests.gpu_kit.rig import simulate

simulate()

if __name__ == "__main__":
    # Imported now: it takes the simulated driver where it names the driver.
    from tests.evidence.bench_gpu import command
    from tests.evidence.command import run

    run(command)
