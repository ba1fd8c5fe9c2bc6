"""Built toys and the ways to run them whole, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from swapnet.builder import build
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.builder.rewriting.optimise import TYPES, operators_of, optimise
from swapnet.executor.backends.base import Memory
from swapnet.executor.device import ThreadPool
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.plan import Read
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand, for_pool
from swapnet.manifest import Manifest
from tests.helpers.zoo import TOYS, Toy

__all__ = ["Arrays", "BuildToy", "Engine", "assert_same", "build_toy", "poison"]

Arrays = dict[str, NDArray[Any]]
BuildToy = Callable[[str], "Engine"]


@dataclass(frozen=True)
class Engine:
    """An engine directory and the model that it was built from."""

    toy: Toy
    model: Path
    folder: Path
    manifest: Manifest

    @property
    def smallest(self) -> int:
        """The smallest budget that works, in bytes."""
        return smallest_budget(self.manifest)[0]

    @property
    def demand(self) -> int:
        """What the unswapped model uses, in bytes."""
        return demand(self.manifest).total_bytes

    @property
    def in_own_process(self) -> Manifest:
        """As the command line and its workers count: with one thread pool for all sessions."""
        return for_pool(self.manifest, ThreadPool.GLOBAL)

    def feeds(self, seed: int = 0) -> Arrays:
        """Seeded inputs; small integers and truth values differ from seed to seed."""
        random = np.random.default_rng(seed)
        feeds: Arrays = dict(planned_sample(self.manifest, seed))
        for name, array in feeds.items():
            if array.dtype in (np.uint8, np.int8):
                feeds[name] = random.integers(0, 100, array.shape, array.dtype)
            elif array.dtype == np.bool_:
                feeds[name] = np.full(array.shape, seed % 2 == 0)
        return feeds

    def original(self, feeds: Arrays) -> Arrays:
        """Outputs of the original file with ONNX Runtime's defaults."""
        session = onnxruntime.InferenceSession(self.model)
        return _run(session, feeds, [output.name for output in session.get_outputs()])

    def optimised(self, folder: Path) -> onnxruntime.InferenceSession:
        """The optimised graph whole, not optimised again; written to ``folder``.

        Weights are packed where the engine has windows.
        """
        operators = operators_of(self.manifest.compiled)
        optimise(open_source(self.model), folder, operators=operators, shapes=self.toy.shapes)
        options = quiet_options(optimise=False, packs=self.manifest.has_windows)
        return open_session(folder / TYPES, options)

    def whole(self, feeds: Arrays, folder: Path) -> Arrays:
        """Outputs of the optimised graph run whole."""
        return _run(self.optimised(folder), feeds, [t.name for t in self.manifest.outputs])


def build_toy(name: str, folder: Path, toy: Toy | None = None) -> Engine:
    """Write a toy's model into ``folder`` and build it there; one of the zoo unless given."""
    toy = toy or TOYS[name]
    path = folder / f"{name}.onnx"
    toy.save(toy.make(), path)
    manifest = build(
        path,
        folder / "engine",
        max_block=toy.max_block,
        shapes=toy.shapes,
        portable=toy.portable,
    )
    return Engine(toy, path, folder / "engine", manifest)


def _run(
    session: onnxruntime.InferenceSession,
    feeds: Mapping[str, NDArray[Any]],
    names: Sequence[str],
) -> Arrays:
    make = onnxruntime.OrtValue
    values = {
        arg.name: make.ortvalue_from_numpy_with_onnx_type(feeds[arg.name], 16)
        if arg.type == "tensor(bfloat16)"
        else make.ortvalue_from_numpy(feeds[arg.name])
        for arg in session.get_inputs()
    }
    outputs = session.run_with_ort_values(names, values)
    return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}


def poison(arena: Memory, read: Read) -> None:
    """Make a place invalid before a read to it: who looks too early finds NaN."""
    arena.fill(read.arena_offset, read.nbytes, 0xFF)


def assert_same(found: Arrays, expected: Arrays) -> None:
    """The same outputs, equal in type and value."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)
