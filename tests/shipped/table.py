"""``make shipped`` ends with this: tries all shipped models and writes docs/shipped.md."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swapnet.units import format_size
from tests.evidence.pages import DOCS, conditions, table, write_page
from tests.shipped.listed import SHIPPED, Shipped
from tests.shipped.trying import Tried, try_shipped

PAGE = DOCS / "shipped.md"
_PARTS = {
    "values_bytes": "values",
    "scratch_bytes": "scratch",
    "io_bytes": "inputs and outputs",
    "staging_bytes": "staging",
    "process_bytes": "skeletons, kernels, readers",
}


def main() -> int:
    """Try the models that are named, or all of them, which are then written to the page."""
    chosen = [model for model in SHIPPED if not sys.argv[1:] or model.name in sys.argv[1:]]
    tried = []
    for model in chosen:
        with tempfile.TemporaryDirectory(prefix="swapnet-shipped-") as folder:
            tried.append(try_shipped(model, Path(folder)))
        verdict = "; ".join(tried[-1].failures()) or tried[-1].said
        print(f"{model.name} ({tried[-1].seconds:.0f} s): {verdict}", flush=True)  # noqa: T201
    if not sys.argv[1:]:
        write_page(PAGE, page(SHIPPED, tried))
    return int(any(True for each in tried for _ in each.failures()))


def page(models: tuple[Shipped, ...], tried: list[Tried]) -> Iterator[str]:
    """Lines of the page."""
    yield "# Models that packages ship"
    yield ""
    yield "Written by `make shipped`: `swapnet try` walks a newcomer's path on each, with real"
    yield "inputs, at its smallest budget and at `weights:25%`, under the kernel's limit of that"
    yield "budget. They were listed before any was tried. *Ratio* is to ONNX Runtime unswapped,"
    yield "*difference* from it on the original file, over the largest output."
    yield ""
    yield conditions()
    yield ""
    columns = ["model", "file:", "smallest budget:", "peak:", "ratio:"]
    columns += ["`weights:25%`:", "peak:", "ratio:", "difference:"]
    pairs = list(zip(models, tried, strict=True))
    yield from table(columns, [_row(model, each.findings) for model, each in pairs])
    yield ""
    yield "## Parts of the smallest budget"
    yield ""
    yield "What it holds beside weights."
    yield ""
    rows = [_parts(model, each.findings) for model, each in pairs if each.findings]
    yield from table(["model", *(f"{title}:" for title in _PARTS.values()), "weights:"], rows)
    yield ""
    failed = [(model, "; ".join(each.failures())) for model, each in pairs]
    if any(failures for _, failures in failed):
        yield "## Failed"
        yield ""
        yield from (f"- `{model.name}`: {failures}" for model, failures in failed if failures)
        yield ""
    yield "## Sources"
    yield ""
    rows = [[m.name, m.wheel.requirement, m.wheel.members[0], m.licence, m.why] for m in models]
    yield from table(["model", "package", "file", "licence", "why"], rows)


def _row(model: Shipped, found: Any) -> list[str]:
    row = [model.name, format_size(model.nbytes)]
    if found is None:
        return [*row, "refused", *([""] * 6)]
    runs = {run["budget"]: run for run in found["runs"]}
    differences = []
    for budget in ("smallest", "weights:25%"):
        run = runs.get(budget)
        if run is None:
            row += ["below it", "", ""]
            continue
        report = run["report"]
        row += [format_size(run["budget_bytes"])]
        if report is None:
            row += ["failed", ""]
            continue
        row += [format_size(report["peak_bytes"]), f"{report['ratio_to_unswapped']:.2f}"]
        differences.append(report["max_rel_error"])
    return [*row, f"{max(differences):.0e}".replace("0e+00", "0") if differences else ""]


def _parts(model: Shipped, found: Any) -> list[str]:
    parts = found["beside_weights"]
    sizes = [parts[name] for name in _PARTS]
    weights = found["smallest_budget_bytes"] - sum(sizes)
    return [model.name, *(format_size(size) for size in (*sizes, weights))]


if __name__ == "__main__":
    sys.exit(main())
