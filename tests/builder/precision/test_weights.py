from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from swapnet.builder.precision import weights
from swapnet.builder.precision.selection import weighted
from swapnet.builder.precision.weights import LIMIT, quantise_weights
from swapnet.errors import ModelError
from tests.builder.precision.conftest import Normal, convolutions, feeds_of, noise_db, run


@pytest.mark.parametrize("piece_elements", [1, 100, 1 << 20])
def test_every_weight_lies_within_a_step_and_errors_cancel(
    normal: Normal, monkeypatch: pytest.MonkeyPatch, piece_elements: int
) -> None:
    monkeypatch.setattr(weights, "_PIECE_ELEMENTS", piece_elements)
    source = normal(convolutions())
    folder = source.path.parent
    float32 = {t.name: t for t in onnx.load_model(source.path).graph.initializer}
    operators = weighted(source.proto.graph)
    quantise_weights(source.proto, folder, operators, "int8.data")
    onnx.save_model(source.proto, folder / "int8.onnx")
    stored = {t.name: t for t in onnx.load_model(folder / "int8.onnx").graph.initializer}
    assert len(operators) == 3
    for one in operators:
        wanted = numpy_helper.to_array(float32[one.weight])
        found = numpy_helper.to_array(stored[f"{one.weight}_quantized"])
        scale = numpy_helper.to_array(stored[f"{one.weight}_scale"])
        assert found.dtype == np.int8
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int)).max() == LIMIT
        assert not numpy_helper.to_array(stored[f"{one.weight}_zero_point"]).any()
        assert scale.shape == (wanted.shape[0],)
        step = scale.reshape(-1, *[1] * (wanted.ndim - 1))
        assert (np.abs(found * step - wanted) <= step * 1.001).all()
        if piece_elements > 1000:
            sums = (found - wanted / step).reshape(wanted.shape[0], -1).sum(axis=1)
            assert np.abs(sums).max() <= 0.51
        assert one.weight not in stored


def test_computes_nearly_the_same(normal: Normal) -> None:
    model = convolutions()
    source = normal(model)
    quantise_weights(source.proto, source.path.parent, weighted(source.proto.graph), "int8.data")
    written = source.path.with_name("int8.onnx")
    onnx.save_model(source.proto, written)
    feeds = feeds_of(model)
    assert noise_db(run(model, feeds), run(written, feeds)) > 38


def test_channels_of_zeros(normal: Normal) -> None:
    model = convolutions()
    first = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = numpy_helper.to_array(first).copy()
    array[3] = 0
    first.CopyFrom(numpy_helper.from_array(array, first.name))
    source = normal(model)
    quantise_weights(source.proto, source.path.parent, weighted(source.proto.graph), "int8.data")
    written = source.path.with_name("int8.onnx")
    onnx.save_model(source.proto, written)
    assert all(np.isfinite(v).all() for v in run(written, feeds_of(model)).values())


def test_weights_that_are_not_finite_are_refused(normal: Normal) -> None:
    model = convolutions()
    last = next(t for t in model.graph.initializer if list(t.dims) == [40, 32])
    array = numpy_helper.to_array(last).copy()
    array[5, 1] = np.nan
    last.CopyFrom(numpy_helper.from_array(array, last.name))
    source = normal(model)
    with pytest.raises(ModelError, match="can't be quantised") as caught:
        quantise_weights(
            source.proto, source.path.parent, weighted(source.proto.graph), "int8.data"
        )
    assert "1 of its 40 channels" in caught.value.why
