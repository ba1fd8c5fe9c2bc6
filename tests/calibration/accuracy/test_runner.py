"""SwapNet as a Polygraphy runner."""

from __future__ import annotations

import numpy as np
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator

from swapnet.calibration.accuracy.runner import SwapRunner
from tests.helpers.engines import BuildToy


def test_polygraphy_runs_both_on_the_same_data(engine: BuildToy) -> None:
    toy = engine("images")
    results = Comparator.run(
        [OnnxrtRunner(SessionFromOnnx(str(toy.model))), SwapRunner(toy.folder, toy.smallest)]
    )
    (_, (reference,)), (name, (ours,)) = results
    assert name.startswith("swapnet-runner")
    assert set(ours) == {tensor.name for tensor in toy.manifest.outputs}
    for output in ours:
        np.testing.assert_allclose(ours[output], reference[output], rtol=1e-4, atol=1e-4)
