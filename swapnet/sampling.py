"""Seeded inputs that are valid for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from swapnet.tensors import numpy_dtype

__all__ = ["sample_inputs"]


def sample_inputs(
    inputs: Iterable[tuple[str, str, tuple[int, ...]]],
    index_limits: Mapping[str, int],
    seed: int = 0,
) -> dict[str, npt.NDArray[np.generic]]:
    """Random inputs, the same for the same seed.

    Parameters
    ----------
    inputs
        Name, element type and shape of each.
    index_limits
        Rows of the table that an input indexes; other integers are 1, valid as mask, token type
        or length.

    Returns
    -------
    dict
        Floats of a standard normal distribution, indices below their limit, True, or 1.
    """
    generator = np.random.default_rng(seed)
    sample: dict[str, npt.NDArray[np.generic]] = {}
    for name, dtype, shape in inputs:
        kind = numpy_dtype(dtype)
        if name in index_limits:
            sample[name] = generator.integers(0, index_limits[name], shape).astype(kind)
        elif dtype == "bfloat16":
            bits = generator.standard_normal(shape, np.float32).view(np.uint32) >> 16
            sample[name] = bits.astype(np.uint16)
        elif kind.kind == "f":
            sample[name] = generator.standard_normal(shape, np.float32).astype(kind)
        else:
            sample[name] = np.ones(shape, kind)
    return sample
