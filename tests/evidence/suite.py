"""``make bench``: models at several budgets, peers and ablations; tables, plots, JSON."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import click
import msgspec

import swapnet
from swapnet import models
from swapnet.arrays import Array, load_npz, save_npz
from swapnet.budget import Budget
from swapnet.builder.importing.graph import used_names
from swapnet.builder.importing.shapes import plan_shapes
from swapnet.builder.importing.source import open_source
from swapnet.builder.one_operator import one_operator_engine
from swapnet.builder.rewriting.optimise import TYPES, operators_of, optimise
from swapnet.calibration import measure
from swapnet.cli.console import say
from swapnet.cli.options import engines_option
from swapnet.cli.zoo import current_engine
from swapnet.errors import BackendError, BackendUnavailableError, SwapnetError
from swapnet.executor.bench.bench import Other, Setup, bench
from swapnet.executor.bench.report import Report
from swapnet.executor.bench.rounds import Schedule
from swapnet.executor.bench.summary import scaled
from swapnet.executor.bench.worker import Program
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.planning.curve import curve
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand, usage
from swapnet.files import make_folder, replacing
from swapnet.manifest import Manifest, sha256_of
from swapnet.process.cgroup import check_available
from swapnet.units import format_size
from tests.evidence.ablations import ABLATIONS
from tests.evidence.cases import (
    ABLATION,
    Case,
    Key,
    Outline,
    case_path,
    load_case,
    load_outline,
    read_cases,
    read_outlines,
    save,
)
from tests.evidence.command import run
from tests.evidence.liveness import live_peak_bytes
from tests.evidence.offload import without_limit
from tests.evidence.pictures import Panel, check_drawable, panel_of, save_plot
from tests.evidence.table import ablation_page, results_page
from tests.evidence.targets import check_targets
from tests.helpers.state_dict import state_dict

__all__ = ["SMALLEST", "Suite", "run_suite"]

SMALLEST = "smallest"
"""The smallest budget that works, written as a budget."""

_PICTURED = ("resnet101", "yolov3", "vgg19")
"""Models of the picture of several, and of the ablations."""

_ABLATION_BUDGET = "weights:25%"
_OFFLOADED = "bert_base"
"""The model that there is a PyTorch module of."""
_LABELS = {"offload": "accelerate disk_offload"}
"""In pictures."""


@dataclass(frozen=True)
class Suite:
    """What to measure.

    Attributes
    ----------
    names
        Of the zoo.
    budgets
        As they are written, or `SMALLEST`.
    results, engines
        Folders of what is written, and of engine directories.
    peers
        Measure other ways to run the models.
    peers_python
        An interpreter with PyTorch and accelerate; need not exist.
    ablated
        Models to switch something off for; None for those of the picture.
    rounds
        Rounds of each side.
    memory_limit
        Run under the kernel's limit.
    """

    names: tuple[str, ...]
    budgets: tuple[str, ...]
    results: Path
    engines: Path
    peers: bool = True
    peers_python: Path = Path(".venv-peers/bin/python")
    ablated: tuple[str, ...] | None = None
    rounds: int = 5
    memory_limit: bool = True

    @property
    def cases(self) -> Path:
        """Folder of the cases."""
        return self.results / "cases"

    @property
    def outlines(self) -> Path:
        """Folder of what is known of each model."""
        return self.results / "models"

    def kinds(self, name: str) -> Iterator[tuple[str, str]]:
        """Budget and kind of each case of a model."""
        for budget in self.budgets:
            yield budget, ""
        if name in (_PICTURED if self.ablated is None else self.ablated):
            yield _ABLATION_BUDGET, ABLATION

    def schedule(self, kind: str) -> Schedule:
        """Rounds of about a third of a second, fewer where they take longer."""
        return Schedule(
            iterations=10 * self.rounds,
            warm_up_ms=0,
            duration_s=0,
            rounds=self.rounds,
            turn_ms=300,
            optional_rounds=None if kind == ABLATION else 3,
            at_most_s=25,
        )


def run_suite(suite: Suite) -> int:
    """Measure what is missing, and write tables and plots of all that is there.

    Returns
    -------
    int
        Cases that failed.

    Raises
    ------
    InputError
        A budget is invalid, or Matplotlib is not here.
    BackendUnavailableError
        The kernel's limit is not available.
    StorageError
        The folder of results can't be written.
    """
    check_drawable()
    if suite.memory_limit:
        try:
            check_available()
        except BackendUnavailableError as error:
            error.hint = error.hint.replace("leave --memory-limit out", "give --no-memory-limit")
            raise
    for folder in (suite.cases, suite.outlines):
        make_folder(folder)
    for budget in suite.budgets:
        if budget != SMALLEST:
            Budget.parse(budget)
    total = sum(len(list(suite.kinds(name))) for name in suite.names)
    failed = done = 0
    fixed_bytes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="swapnet-suite-") as temporary:
        runtime = one_operator_engine(Path(temporary))
        for name in suite.names:
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=temporary) as own:
                subject = _Subject(suite, name, Path(own), runtime, fixed_bytes)
                for case in subject.cases(done, total):
                    done += 1
                    failed += case.report is None and not case.note.startswith(_TOO_SMALL)
    write_results(suite)
    return failed


_TOO_SMALL = "needs at least"


@dataclass(frozen=True)
class _Subject:
    """One model while it is measured; what takes long is made when it is needed."""

    suite: Suite
    name: str
    folder: Path
    runtime: Path
    fixed_bytes: dict[str, int]
    device: Device = field(default_factory=Device)

    @cached_property
    def files(self) -> models.ZooFiles:
        return models.get(self.name)

    @cached_property
    def inputs(self) -> dict[str, Array]:
        return load_npz(self.files.example)

    @cached_property
    def engine(self) -> Engine:
        make_folder(self.suite.engines)
        folder = current_engine(self.suite.engines, self.files, self.inputs, "onnxruntime")
        return Engine.open(folder).in_child()

    @cached_property
    def manifest(self) -> Manifest:
        return self.engine.manifest

    @cached_property
    def optimised(self) -> tuple[Path, int]:
        """The optimised model with external data, and the ideal peak of its activations."""
        operators = operators_of(self.manifest.compiled)
        shapes = self.manifest.planned_shapes
        graph = optimise(
            open_source(self.files.onnx), self.folder, operators=operators, shapes=shapes
        )
        graph = plan_shapes(graph, self.folder / TYPES, shapes)
        peak = live_peak_bytes(
            [(used_names(node), node.output) for node in graph.nodes],
            {name: value.nbytes or 0 for name, value in graph.values.items()},
            [value.name for value in graph.inputs],
            [value.name for value in graph.outputs],
        )
        return self.folder / "optimised.onnx", peak

    @cached_property
    def offload(self) -> Other:
        """Weights in accelerate's format, and what runs them."""
        python = self.suite.peers_python.absolute()
        weights, folder = self.folder / "weights.npz", self.folder / "offload"
        save_npz(weights, state_dict(self.files.onnx))
        command = [python, "-m", "tests.evidence.offload", weights, folder]
        child = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        weights.unlink()
        if child.returncode:
            raise BackendError(
                f"{python} can't offload weights",
                why=child.stderr.strip().rpartition("\n")[2],
                hint="make it again: make peers, or give --no-peers",
            )
        return Other(folder, "offload", program=Program("tests.evidence.offload", python))

    def key(self, budget: str, kind: str) -> Key:
        peers = list(ABLATIONS) if kind == ABLATION else ["mapped"] if self.suite.peers else []
        if self.suite.peers and kind != ABLATION and self.name == _OFFLOADED:
            peers += ["offload"] if self.suite.peers_python.exists() else []
        return Key(
            engine=self.manifest.identity,
            swapnet=swapnet.__version__,
            budget=budget,
            kind=kind,
            peers=tuple(peers),
            rounds=self.suite.rounds,
            threads=self.device.threads,
            memory_limit=self.suite.memory_limit,
        )

    def cases(self, done: int, total: int) -> Iterator[Case]:
        """Cases that are there, and those that are not, measured and written."""
        fresh = False
        reports = []
        for number, (budget, kind) in enumerate(self.suite.kinds(self.name), done + 1):
            key = self.key(budget, kind)
            path = case_path(self.suite.cases, self.name, budget, kind)
            case = load_case(path, key)
            if case is None:
                if not fresh:
                    measure(self.engine.folder)
                    fresh = True
                started = time.perf_counter()
                case = self._measured(key)
                save(path, case)
                say(f"[{number}/{total}] {_line(case)} ({time.perf_counter() - started:.0f} s)")
            else:
                say(f"[{number}/{total}] {case.title} {kind}: there")
            if case.report is not None and kind != ABLATION:
                reports.append(case.report)
            yield case
        self._outline(reports)

    def _measured(self, key: Key) -> Case:
        smallest, reason = smallest_budget(self.manifest)
        budget = Budget(smallest) if key.budget == SMALLEST else Budget.parse(key.budget)
        if budget.resolve(demand(self.manifest)) < smallest:
            note = f"{_TOO_SMALL} {format_size(smallest)}: {reason}"
            return Case(model=self.name, key=key, note=note)
        try:
            report = bench(self._setup(key, budget)).report
        except SwapnetError as error:
            return Case(model=self.name, key=key, note=" ".join(str(error).splitlines()))
        self.fixed_bytes["swapped"] = report.fixed_bytes
        for name, peer in report.peers.items():
            if peer.fixed_bytes:
                self.fixed_bytes[name] = peer.fixed_bytes
        return Case(model=self.name, key=key, report=self._with_unlimited(report))

    def _with_unlimited(self, report: Report) -> Report:
        """The report, which says how accelerate fares with no limit where it died under this."""
        peer = report.peers.get("offload")
        if peer is None or not peer.note or peer.fixed_bytes is None:
            return report
        inputs = self.folder / "inputs.npz"
        save_npz(inputs, self.inputs)
        note = f"{peer.note}; {without_limit(self.offload, inputs, self.device.threads)}"
        told = msgspec.structs.replace(peer, note=note)
        return msgspec.structs.replace(report, peers={**report.peers, "offload": told})

    def _others(self, key: Key) -> dict[str, Other]:
        if key.kind == ABLATION:
            return {
                name: Other(
                    self.engine.folder, options=variant.options, load_mode=variant.load_mode
                )
                for name, variant in ABLATIONS.items()
            }
        others = {}
        if "mapped" in key.peers:
            others["mapped"] = Other(self.optimised[0], "mapped")
        if "offload" in key.peers:
            others["offload"] = self.offload
        return others

    def _setup(self, key: Key, budget: Budget) -> Setup:
        return Setup(
            engine=self.engine,
            budget=budget,
            inputs=self.inputs,
            one_operator=self.runtime,
            unswapped=None if key.kind == ABLATION else self.files.onnx,
            others=self._others(key),
            memory_limit=key.memory_limit,
            fixed_bytes=dict(self.fixed_bytes),
            schedule=self.suite.schedule(key.kind),
            command=shlex.join(
                ["python", "-m", "tests.evidence.suite", self.name, "--budget", key.budget]
                + ([] if key.memory_limit else ["--no-memory-limit"])
            ),
        )

    def _outline(self, reports: Sequence[Report]) -> None:
        """Write the outline, its curve by the delays of the reports as a whole."""
        profile = Engine.open(self.engine.folder).measured
        delays = scaled(
            profile,
            median(r.idle_ms for r in reports) if reports else 0.0,
            median(r.storage_bytes_per_s for r in reports) if reports else 0.0,
        )
        whole_ms = profile.step_ms + sum(block.idle_ms for block in profile.blocks)
        execution_ms = median(r.execution_ms for r in reports) if reports else whole_ms
        measured = sha256_of(msgspec.json.encode((profile, delays, execution_ms)))
        path = self.suite.outlines / f"{self.name}.json"
        if load_outline(path, self.manifest.identity, measured) is not None:
            return
        smallest, reason = smallest_budget(self.manifest)
        save(
            path,
            Outline(
                model=self.name,
                engine=self.manifest.identity,
                profile=measured,
                smallest_bytes=smallest,
                reason=reason,
                ideal_bytes=self.optimised[1],
                skeleton_bytes=usage(self.manifest).process_bytes,
                curve=curve(self.manifest, profile, delays=delays, execution_ms=execution_ms),
            ),
        )


def write_results(suite: Suite) -> None:
    """Write tables and plots of all cases of current engines, whoever measured them.

    Raises
    ------
    StorageError
        The folder of results can't be written.
    """
    current = dict(_current_engines(suite))
    order = {budget: i for i, budget in enumerate(suite.budgets)}
    cases = [
        case
        for name in current
        for case in sorted(
            read_cases(suite.cases, name),
            key=lambda c: (order.get(c.key.budget, len(order)), c.key.budget, c.key.kind),
        )
        if case.key.engine == current[name] and case.key.swapnet == swapnet.__version__
    ]
    found = {outline.model: outline for outline in read_outlines(suite.outlines)}
    outlines = [found[n] for n in current if n in found and found[n].engine == current[n]]
    targets = check_targets(cases, outlines)
    record = {
        "schema": "swapnet-suite/1",
        "machine": next((c.report.machine for c in reversed(cases) if c.report), None),
        "targets": [{**msgspec.structs.asdict(t), "holds": t.holds} for t in targets],
        "outlines": outlines,
        "cases": cases,
    }
    _write(suite.results / "results.json", msgspec.json.format(msgspec.json.encode(record)))
    page = results_page(cases, outlines, targets, list(_notes(suite, current)))
    _write(suite.results / "results.md", page.encode())
    if any(case.key.kind == ABLATION for case in cases):
        _write(suite.results / "ablations.md", ablation_page(cases).encode())
    _plot(suite, cases, outlines)
    say(f"{suite.results / 'results.md'}: {len(cases)} cases")


def _current_engines(suite: Suite) -> Iterator[tuple[str, str]]:
    """Name and identity of the engines that are there, in the order of the zoo."""
    for name in models.networks():
        try:
            yield name, Engine.open(suite.engines / name).manifest.identity
        except SwapnetError:
            continue


def _notes(suite: Suite, current: dict[str, str]) -> Iterator[str]:
    if _OFFLOADED in current and not suite.peers_python.exists():
        yield "accelerate: not measured: make peers"


def _plot(suite: Suite, cases: Sequence[Case], outlines: Sequence[Outline]) -> None:
    panels: dict[str, Panel] = {}
    for outline in outlines:
        mine = [c for c in cases if c.model == outline.model and c.key.kind != ABLATION]
        reports = [case.report for case in mine if case.report is not None]
        if reports:
            panel = panel_of(outline.model, outline.curve, reports)
            peers = {_LABELS.get(name, name): points for name, points in panel.peers.items()}
            panels[outline.model] = replace(panel, peers=peers)
    for name, panel in panels.items():
        save_plot([panel], suite.results / f"{name}.png")
    several = [panels[name] for name in _PICTURED if name in panels]
    if len(several) > 1:
        save_plot(several, suite.results / "latency.png")


def _line(case: Case) -> str:
    report = case.report
    if report is None:
        return f"{case.title}: {case.note}"
    parts = [f"{report.latency_ms.median:.1f} ms"]
    if report.ratio_to_unswapped is not None:
        parts.append(f"{report.ratio_to_unswapped:.2f} of unswapped")
    parts.append(f"{report.ratio_to_bound:.2f} of the bound")
    parts.append(f"{report.ratio_to_contended_bound:.2f} of the contended one")
    parts.append(f"{report.prediction_error * 100:+.1f}% of the prediction")
    for name, peer in report.peers.items():
        parts.append(f"{name} {peer.ratio:.2f}" if peer.ratio is not None else f"{name} failed")
    return f"{case.title}: {', '.join(parts)}"


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=("weights:66%", "weights:43%", "weights:25%", "weights:17%", "smallest"),
    show_default=True,
    metavar="SIZE",
    help="May be given several times; smallest is the smallest that works.",
)
@click.option(
    "--results",
    default="results",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where cases, tables and plots go; cases that are there are not measured again.",
)
@engines_option
@click.option("--peers/--no-peers", default=True, help="Other ways to run what does not fit.")
@click.option(
    "--peers-python",
    default=".venv-peers/bin/python",
    show_default=True,
    type=click.Path(path_type=Path),
    help="An interpreter that has PyTorch and accelerate.",
)
@click.option("--ablations/--no-ablations", default=True, help="Switch off one thing at a time.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--memory-limit/--no-memory-limit", default=True, help="Under the kernel's limit; needs root."
)
def command(
    names: tuple[str, ...],
    budgets: tuple[str, ...],
    results: Path,
    engines: Path,
    peers: bool,
    peers_python: Path,
    ablations: bool,
    rounds: int,
    memory_limit: bool,
) -> None:
    """Measure models at several budgets: JSON, tables and plots. [default: all]"""
    chosen = tuple(models.find(name).name for name in names or models.networks())
    suite = Suite(
        names=chosen,
        budgets=budgets,
        results=results,
        engines=engines,
        peers=peers,
        peers_python=peers_python,
        ablated=(chosen if names else None) if ablations else (),
        rounds=rounds,
        memory_limit=memory_limit,
    )
    if run_suite(suite):
        raise SystemExit(1)


if __name__ == "__main__":
    run(command)
