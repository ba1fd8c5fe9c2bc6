from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize

from swapnet.builder.importing.gguf.weights import BLOCK_TYPES, FLOAT_TYPES, floats
from tests.helpers.gguf_files import quantised


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_blocks_hold_the_numbers_of_the_file(kind: str) -> None:
    values = np.random.default_rng(3).standard_normal((5, 512)) * 0.02 + 0.01
    data = quantised(values, kind)
    expected = dequantize(data, GGMLQuantizationType[kind])
    stored = BLOCK_TYPES[kind]
    blocks = stored.read(data)
    elements = blocks.quants.astype(np.float32)
    if stored.bits == 4:
        halves = [blocks.quants & 15, blocks.quants >> 4]
        elements = np.stack(halves, -1).reshape(5, -1, stored.block_size).astype(np.float32)
    found = blocks.scales[..., None] * (elements - 2 ** (stored.bits - 1))
    assert (blocks.offsets is not None) == stored.has_offsets
    if blocks.offsets is None:
        np.testing.assert_array_equal(found.reshape(5, -1), expected)
    else:
        found += blocks.offsets[..., None]
        limit = 4e-7 * np.abs(expected).max()
        np.testing.assert_allclose(found.reshape(5, -1), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("kind", FLOAT_TYPES)
def test_floats_are_widened(kind: str) -> None:
    values = np.random.default_rng(3).standard_normal((5, 64)).astype(np.float32)
    found = floats(quantised(values, kind), kind)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, rtol=2**-8)
