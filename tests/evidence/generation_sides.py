"""Processes of a benchmark of generation: their programs, limits, costs and turns."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from swapnet.builder.importing.gguf.importer import import_gguf
from swapnet.builder.one_operator import one_operator_engine
from swapnet.errors import BackendUnavailableError, BudgetError, SwapnetError
from swapnet.executor.bench.fixed_cost import FixedCost
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.worker import Program, Worker
from swapnet.executor.device import Device
from swapnet.process.cgroup import MemoryGroup
from tests.evidence.generation_cases import PEERS, ROUNDS, Taken
from tests.evidence.talkers import Said
from tests.helpers.gguf_files import write_gguf

__all__ = ["TURN_S", "Bench", "Limit", "Process", "Sides"]

T = TypeVar("T")

TURN_S = 1.0
"""Duration of our turn in a round; others may take three times as long."""

_PEER_ROUNDS = 3


@dataclass(frozen=True)
class Bench:
    """The place of results, the peers' interpreter, and what all subjects share."""

    results: Path
    peers_python: Path
    temporary: Path
    threads: int = Device().threads

    @cached_property
    def peers(self) -> str:
        """Names and versions of the peers.

        Raises
        ------
        BackendUnavailableError
            They are not installed.
        """
        names = ("llama-cpp-python", "onnxruntime-genai")
        script = f"from importlib.metadata import version; print(*map(version, {names}))"
        try:
            done = subprocess.run(
                [self.peers_python, "-c", script], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise BackendUnavailableError(
                "peers are not installed", why=str(error), hint="make peers"
            ) from error
        return ", ".join(map(" ".join, zip(names, done.stdout.split(), strict=True)))

    @cached_property
    def _tiny(self) -> Path:
        folder = self.temporary / "tiny"
        import_gguf(write_gguf(self.temporary / "tiny.gguf", "Q4_0"), folder)
        return folder

    @cached_property
    def _one_operator(self) -> Path:
        return one_operator_engine(self.temporary)

    def program(self, role: str) -> Program:
        """The program of a role's process."""
        python = self.peers_python if role in PEERS else None
        return Program("tests.evidence.talkers", python)

    def cost(self, role: str, file: Path) -> FixedCost:
        """The fixed cost of a role; that of llama.cpp has the vocabulary of the file in it."""
        path = {"llama": self.temporary / "tiny.gguf", "genai": self._tiny}.get(role)
        trivial = Request(
            "one operator" if path is None else role,
            str(path or self._one_operator),
            str(file),
            self.threads,
        )
        return FixedCost(trivial, program=self.program(role))


class Process(Worker):
    """A side's process."""

    def talk(self, prompt: Sequence[int], most: int, at_most_s: float = 1e9) -> Said:
        """See `Talker`."""
        return msgspec.convert(self._call("talk", prompt, most, at_most_s), Said)

    def bytes_per_s(self) -> float:
        """Bandwidth of the streamed extents."""
        return float(self._call("bytes_per_s"))


class Limit(NamedTuple):
    """A kernel's limit on a process."""

    group: MemoryGroup
    limit_bytes: int
    fixed_bytes: int


class Sides:
    """Processes in turn; a peer that fails does not go on."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.said: dict[str, list[Said]] = defaultdict(list)
        self.notes: dict[str, str] = {}
        self.limits: dict[str, Limit] = {}

    def attempt(self, name: str, act: Callable[[], T]) -> T | None:
        """What a side does; None if it is a peer that can't."""
        if name in self.notes:
            return None
        try:
            return act()
        except SwapnetError as error:
            if name not in PEERS:
                raise
            is_killed = isinstance(error, BudgetError)
            self.notes[name] = "; ".join(filter(None, (error.what, "" if is_killed else error.why)))
            return None

    def rounds(self, names: Sequence[str], prompt: Sequence[int], most: int) -> Iterator[int]:
        """Let sides say ``most`` tokens, each the first of a round in turn; yields after each."""
        for number in range(ROUNDS):
            shift = number % len(names)
            for name in (*names[shift:], *names[:shift]):
                if name not in PEERS or number < _PEER_ROUNDS:
                    process = self.processes.get(name)
                    said = process and self.attempt(
                        name, partial(process.talk, prompt, most, 3 * TURN_S)
                    )
                    if said:
                        self.said[name].append(said)
            yield number

    def taken(self) -> dict[str, Taken]:
        """Records of all."""
        found = {}
        for name in {*self.said, *self.notes}:
            limit = self.limits.get(name)
            found[name] = Taken(
                said=self.said[name],
                limit_bytes=limit.limit_bytes if limit else 0,
                peak_bytes=limit.group.peak_bytes - limit.fixed_bytes if limit else 0,
                note=self.notes.get(name, ""),
            )
        return found
