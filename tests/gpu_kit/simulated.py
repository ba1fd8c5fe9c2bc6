"""A simulated GPU for a whole process: a plugin of pytest, and SwapNet's commands.

``python -m pytest -p tests.gpu_kit.simulated``, ``python -m tests.gpu_kit.simulated models …``
"""

from __future__ import annotations

from swapnet.__main__ import main
from tests.gpu_kit.rig import simulate

simulate()

if __name__ == "__main__":
    main()
