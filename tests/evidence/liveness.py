"""The least memory for activations: what is alive at once, with no fragments and no scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["live_peak_bytes"]


def live_peak_bytes(
    operators: Sequence[tuple[Iterable[str], Iterable[str]]],
    nbytes: Mapping[str, int],
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> int:
    """The largest sum over operators of the values that are alive while one runs.

    A value is alive from the operator that makes it to the last one that uses it, both included.

    Parameters
    ----------
    operators
        Names used and names made, in execution order.
    nbytes
        Of each value; names without one are weights or constants.
    inputs, outputs
        Of the model: alive from the start, and to the end.
    """
    first = dict.fromkeys(inputs, 0)
    last: dict[str, int] = {}
    for index, (used, made) in enumerate(operators):
        for name in made:
            first.setdefault(name, index)
            last[name] = index
        for name in used:
            last[name] = index
    last.update(dict.fromkeys(outputs, len(operators) - 1))
    change = [0] * (len(operators) + 1)
    for name, start in first.items():
        size = nbytes.get(name, 0)
        change[start] += size
        change[last.get(name, start) + 1] -= size
    alive = peak = 0
    for difference in change:
        alive += difference
        peak = max(peak, alive)
    return peak
