"""``make bench-generation``: language models inside budgets, and peers under the same limits.

Sides take turns in processes of their own. A peer's limit is the fixed cost of its own process plus
our budget. Cases are kept in ``results/generation`` and not measured again;
docs/language-models.md gets the tables.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from swapnet.budget import Budget
from swapnet.builder.importing.gguf.importer import import_gguf
from swapnet.calibration import ensure_measured
from swapnet.cli.console import say
from swapnet.errors import BackendError, SwapnetError
from swapnet.executor.bench.sides import Request
from swapnet.executor.engine import Engine
from swapnet.executor.generation.generator import ASKED_ROWS, asked_rows
from swapnet.executor.generation.text import Text
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.shapes import ensure_context
from swapnet.files import make_folder, replacing
from swapnet.models.cache import create
from swapnet.models.smollm2 import gguf_file
from swapnet.process.cgroup import MemoryGroup, check_available, drop_page_cache
from swapnet.units import format_size
from swapnet.version import VERSION
from tests.evidence.command import run
from tests.evidence.generation_cases import (
    PEERS,
    ROUNDS,
    Built,
    Case,
    Drafted,
    Key,
    Measured,
    Talk,
    spoken,
    tables,
)
from tests.evidence.generation_sides import TURN_S, Bench, Limit, Process, Sides
from tests.evidence.gguf_models import in_float32, seeded
from tests.evidence.pages import DOCS, check_page, update_page
from tests.evidence.talkers import CONTEXT, Said

__all__ = ["HALF", "SMALLEST", "SUBJECTS", "Bench", "Subject", "measure_all"]

K = TypeVar("K", Talk, Case, Drafted)

PAGE, PLACE = DOCS / "language-models.md", "generation"
HALF, SMALLEST = "half of the file", "smallest"

_LEAST_TOKENS = 5
_PATIENCE_S = 25.0
"""Time-out of a peer's opening and of each of its turns."""

_DRAFTING, _DRAFT_BUDGET, _DRAFT_TOKENS = "smollm2", "weights:25%", 40
_DRAFT_TEXTS = {
    "repeats": "Copy this list: apple, banana, cherry, fig, grape, kiwi, lemon, mango, orange.",
    "is new": "Write an essay about the sea.",
}
"""What is asked for, by what the answer does."""

_BUILD_LIMIT = 1536 << 20
_TIMED = (
    "import resource, subprocess, sys; status = subprocess.run(sys.argv[1:], stdout=2).returncode;"
    " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
)
"""Program that runs a command and prints the memory of its largest process, in KiB."""


@dataclass(frozen=True)
class Subject:
    """A model to measure: its file, questions in the chat's form or numbers of tokens, budgets."""

    name: str
    file: Callable[[Path], Path]
    questions: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ("100%", HALF, "weights:50%", "weights:25%", SMALLEST)
    answer_tokens: int = 200

    def prompts(self, engine: Path) -> list[list[int]]:
        """Tokens of the prompts."""
        if not self.questions:
            return [[977 * n % 31000 for n in range(40)]]
        text = Text(engine)
        return [text.tokens(question, chat=True) for question in self.questions]


_QUESTIONS = (
    "Explain how plants make food from light, water and air, step by step.",
    "Write an essay about why people build bridges.",
    "Write an essay about the sea.",
)


def _linked(path: Path) -> Path:
    path.symlink_to(gguf_file())
    return path


SUBJECTS = (
    Subject("smollm2", _linked, _QUESTIONS),
    Subject("smollm2-float32", lambda path: in_float32(gguf_file(), path), _QUESTIONS),
    Subject("seeded-1.1b", seeded, budgets=("200MiB",), answer_tokens=60),
)


class _Measured:
    """One subject while it is measured; ``dead`` are peers that failed at a larger budget."""

    def __init__(self, bench: Bench, subject: Subject) -> None:
        self._bench, self._subject = bench, subject
        self._place = bench.results / subject.name
        self._engine = self._place / "engine"
        self._fixed: dict[str, int] = {}
        self._dead: dict[str, str] = {}
        make_folder(self._place)
        files = create(self._place / "file", self._write_files)
        self._file = next(files.glob("*.gguf"))
        self._folder = files / "folder"
        self.built = self._build()
        shaped = ensure_context(
            Engine.open(self._engine).in_child(), CONTEXT, rows=ASKED_ROWS, say=say
        )
        self._opened = ensure_measured(shaped, say=say)
        self._key = Key(self._opened.built.identity, bench.threads, bench.peers)
        self.talk = self._kept("answers", Talk, self._answers)

    def cases(self) -> Iterator[Case]:
        """All cases, those that are missing measured and written."""
        for budget in self._subject.budgets:
            case = self._kept(budget, Case, partial(self._case, budget))
            for name in PEERS:
                taken = case.sides.get(name)
                if taken and taken.note and name not in self._dead:
                    self._dead[name] = f"not tried: it failed at {case.budget}"
            yield case

    def _write_files(self, files: Path) -> None:
        file = self._subject.file(files / f"{self._subject.name}.gguf")
        import_gguf(file, files / "folder")

    def _build(self) -> Built:
        """Build the file as a user does, under the kernel's limit; nothing if that is done."""
        path = self._place / "built.json"
        with suppress(SwapnetError, OSError, msgspec.MsgspecError):
            if Engine.open(self._engine).manifest.compiled.builder == VERSION:
                return msgspec.json.decode(path.read_bytes(), type=Built)
        drop_page_cache()
        with MemoryGroup(_BUILD_LIMIT) as group:
            command = ["-m", "swapnet", "build", str(self._file), "-o", str(self._engine)]
            script = f'echo $$ > "{group.processes_file}"; exec "$@"'
            begun = time.perf_counter()
            started = ["sh", "-c", script, "sh", sys.executable, "-c", _TIMED, sys.executable]
            done = subprocess.run([*started, *command], check=False, stdout=subprocess.PIPE)
            seconds = time.perf_counter() - begun
        if done.returncode:
            raise BackendError(f"{self._subject.name} can't be built in {_BUILD_LIMIT} bytes")
        peak_bytes = int(done.stdout.split()[-1]) << 10
        built = Built(seconds, peak_bytes, self._file.stat().st_size)
        _write(path, built)
        return built

    def _kept(self, name: str, kind: type[K], make: Callable[[], K]) -> K:
        """What was measured with this key, or is measured now."""
        path = self._place / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
        with suppress(OSError, msgspec.MsgspecError):
            found = msgspec.json.decode(path.read_bytes(), type=kind)
            if found.key == self._key:
                return found
        begun = time.perf_counter()
        made = make()
        _write(path, made)
        say(f"{self._subject.name}, {name}: {time.perf_counter() - begun:.0f} s")
        return made

    def _answers(self) -> Talk:
        prompts = self._subject.prompts(self._engine)
        with self._open("genai") as process:
            said = [process.talk(prompt, self._subject.answer_tokens) for prompt in prompts]
        texts = []
        if self._subject.questions:
            text = Text(self._engine)
            texts = ["".join(text.pieces(iter(answer.tokens))) for answer in said]
        return Talk(key=self._key, prompts=prompts, said=said, texts=texts)

    def _case(self, budget: str) -> Case:
        manifest = self._opened.manifest
        smallest, _ = smallest_budget(manifest)
        sizes = {HALF: self._file.stat().st_size // 2, SMALLEST: smallest}
        budget_bytes = sizes.get(budget) or Budget.parse(budget).resolve(self._opened.demand)
        case = Case(self._subject.name, budget, self._key, budget_bytes)
        prompt = self.talk.prompts[0]
        sides = Sides()
        sides.notes |= self._dead
        with ExitStack() as stack:
            drop_page_cache()
            roles = PEERS if budget_bytes < smallest else ("ours", *PEERS)
            for role in roles:
                sides.attempt(role, partial(self._limited, sides, role, budget_bytes, stack))
            if "ours" not in roles:
                for _ in sides.rounds(PEERS, prompt, _LEAST_TOKENS):
                    pass
                note = f"ours needs {format_size(smallest)}"
                return msgspec.structs.replace(case, sides=sides.taken(), note=note)
            ours = sides.processes["ours"]
            count = self._subject.answer_tokens
            answers = [ours.talk(given, count) for given in self.talk.prompts]
            token_ms = max(answer.token_ms for answer in answers)
            most = max(int(TURN_S * 1e3 / token_ms), _LEAST_TOKENS)
            sides.processes |= {"again": ours, "paired": ours}
            for _ in sides.rounds(("ours", "again", *PEERS), prompt, most):
                pass
            for role in PEERS:  # so that files of theirs are not in the page cache for nothing
                if role in sides.processes:
                    sides.processes[role].close()
            plan = make_plan(manifest, self._opened.delays, budget_bytes)
            resident = self._open(
                "ours",
                self._opened.demand.total_bytes,
                streamed=tuple((read.file_offset, read.stored_bytes) for read in plan.reads),
                readers=max(plan.readers, 1),
            )
            sides.processes["resident"] = stack.enter_context(resident)
            sides.processes["unlimited"] = stack.enter_context(self._open("genai"))
            last = ("paired", "resident", "unlimited")
            return msgspec.structs.replace(
                case,
                streamed_bytes=plan.streamed_bytes,
                equal=[a.tokens == b.tokens for a, b in zip(answers, self.talk.said, strict=True)],
                bytes_per_s=[resident.bytes_per_s() for _ in sides.rounds(last, prompt, most)],
                sides=sides.taken(),
            )

    def drafted(self) -> Drafted | None:
        """Answers with drafts in turn with answers without; None for a model without texts."""
        if self._subject.name != _DRAFTING:
            return None
        return self._kept("drafts", Drafted, self._drafted)

    def _drafted(self) -> Drafted:
        shaped = ensure_context(self._opened, CONTEXT, rows=asked_rows("ngram"), say=say)
        engine = ensure_measured(shaped, say=say)
        budget_bytes = Budget.parse(_DRAFT_BUDGET).resolve(engine.demand)
        text = Text(self._engine)
        prompts = {name: text.tokens(asked, chat=True) for name, asked in _DRAFT_TEXTS.items()}
        answers: dict[str, dict[str, list[Said]]] = {}
        with self._open("ours", budget_bytes) as plain, self._open("drafts", budget_bytes) as other:
            sides = {"plain": plain, "drafted": other}
            for number in range(ROUNDS):
                for side in sorted(sides, reverse=bool(number % 2)):
                    for name, prompt in prompts.items():
                        said = sides[side].talk(prompt, _DRAFT_TOKENS)
                        answers.setdefault(side, {}).setdefault(name, []).append(said)
        return Drafted(self._key, _DRAFT_BUDGET, **answers)

    def _limited(self, sides: Sides, role: str, budget_bytes: int, stack: ExitStack) -> None:
        """Open a role under the limit of its own fixed cost and the budget."""
        cost = self._bench.cost(role, self._file)
        if role not in self._fixed:
            self._fixed[role] = cost.measure(counted=True)
        cost.warm_up()
        limit_bytes = self._fixed[role] + budget_bytes
        group = stack.enter_context(MemoryGroup(limit_bytes))
        limit = sides.limits[role] = Limit(group, limit_bytes, self._fixed[role])
        process = self._open(role, budget_bytes, limit)
        sides.processes[role] = stack.enter_context(process)

    def _open(
        self, role: str, budget_bytes: int = 0, limit: Limit | None = None, **fields: Any
    ) -> Process:
        path = {"llama": self._file, "genai": self._folder}.get(role, self._engine)
        return Process(
            Request(role, str(path), "", self._bench.threads, budget_bytes, **fields),
            *(limit.group, limit.limit_bytes) if limit else (),
            program=self._bench.program(role),
            patience_s=_PATIENCE_S if limit and role in PEERS else None,
        )


def measure_all(bench: Bench, subjects: Sequence[Subject]) -> Iterator[Measured]:
    """Measure what is missing of each subject.

    Raises
    ------
    SwapnetError
        The kernel's limit is not available, or our side fails.
    """
    for subject in subjects:
        measured = _Measured(bench, subject)
        cases = list(measured.cases())
        yield Measured(measured.built, measured.talk, cases, measured.drafted())


def _write(path: Path, record: msgspec.Struct) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--results", default="results/generation", type=click.Path(path_type=Path))
@click.option("--page/--no-page", "writes", default=True, help="Write the tables into the page.")
@click.option(
    "--peers-python",
    default=".venv-peers/bin/python",
    show_default=True,
    type=click.Path(path_type=Path),
    help="An interpreter that has llama-cpp-python and onnxruntime-genai.",
)
def command(names: tuple[str, ...], results: Path, writes: bool, peers_python: Path) -> None:
    """Measure language models at several budgets. [default: all]"""
    check_available()
    check_page(PAGE, PLACE)
    chosen = [subject for subject in SUBJECTS if not names or subject.name in names]
    with tempfile.TemporaryDirectory(prefix="swapnet-generation-") as temporary:
        bench = Bench(results.absolute(), peers_python.absolute(), Path(temporary))
        say(bench.peers)
        found = list(measure_all(bench, chosen))
    for line in spoken(found):
        say(line)
    for line in tables(found):
        say(line)
    if writes and not names:
        update_page(PAGE, "\n".join(tables(found)), PLACE)


if __name__ == "__main__":
    run(command)
