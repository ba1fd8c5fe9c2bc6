"""The section of docs/gpu.md, out of the kit's results.

``python -m tests.gpu_kit.report gpu-kit/results`` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import swapnet
from tests.evidence.gpu import GpuCase, as_markdown
from tests.evidence.pages import update_page

__all__ = ["ROOT", "Answer", "Results", "as_section", "main", "write_page"]

ROOT = Path(swapnet.__file__).parent.parent


class Answer(msgspec.Struct, frozen=True):
    """What a check said; see `Check`.

    Attributes
    ----------
    verdict
        ``ok``, ``wrong``, ``failed``, ``crashed``, ``time``, ``no time`` or ``not here``.
    seconds
        With the start of its process.
    why
        In words, where it is not ``ok``.
    figures
        What was measured.
    """

    name: str
    title: str
    verdict: str
    seconds: float
    why: str
    figures: dict[str, Any]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the kit on one machine."""

    part: str
    simulated: bool
    date: str
    python: str
    answers: tuple[Answer, ...]


def write_page(page: Path, folder: Path) -> None:
    """Write what lies in a folder of results into a page.

    Parameters
    ----------
    page
        With the marks of the kit; the marks of bench-gpu are used where it was run.
    folder
        Has ``results-PART.json``.

    Raises
    ------
    ValueError
        The page has no such place, or there are no results.
    """
    files = sorted(folder.glob("results-*.json"))
    if not files:
        raise ValueError(f"{folder} has no results of the kit")
    found = [msgspec.json.decode(file.read_bytes(), type=Results) for file in files]
    update_page(page, "\n\n".join(map(as_section, found)), name="gpu-kit")
    cases = [
        msgspec.convert(case, GpuCase)
        for results in found
        if results.part != "a" and not results.simulated
        for answer in results.answers
        for case in answer.figures.get("cases", ())
    ]
    if cases:
        update_page(page, as_markdown(cases, _machine(found), "sh gpu-kit/run.sh"))


def _machine(found: list[Results]) -> str:
    names = [a.figures.get("gpu") for results in found for a in results.answers]
    return str(next(filter(None, names), "the GPU"))


def as_section(results: Results) -> str:
    """A part in Markdown: a table of answers, then what was measured."""
    where = "a **simulated** GPU: times say nothing" if results.simulated else _machine([results])
    lines = [
        f"### Part {results.part}, {results.date}, on {where}",
        "",
        "| check | answer | s | |",
        "|---|---|---:|---|",
    ]
    for answer in results.answers:
        why = answer.why.replace("|", "\\|")[:300] or answer.title
        lines.append(f"| {answer.name} | {answer.verdict} | {answer.seconds:.1f} | {why} |")
    for answer in results.answers:
        if answer.figures:
            lines += ["", f"*{answer.name}*: {answer.title}", "", *_figures(answer.figures)]
    return "\n".join(lines)


def _figures(figures: dict[str, Any]) -> Iterator[str]:
    """Plain figures in one line; those with parts as rows of a table."""
    plain = {key: value for key, value in _flat(figures) if not isinstance(value, dict)}
    if plain:
        yield ", ".join(f"{key} {_shown(value)}" for key, value in plain.items())
    tables: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
    for key, value in _flat(figures):
        if isinstance(value, dict):
            tables.setdefault(tuple(value), []).append((key, value))
    for columns, rows in tables.items():
        yield from ("", f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns))
        for key, row in rows:
            yield f"| {key} | {' | '.join(map(_shown, row.values()))} |"


def _flat(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        if key == "cases":
            continue
        if isinstance(value, dict) and "cases" in value:
            rest = {name: figure for name, figure in value.items() if name != "cases"}
            yield f"{key}", rest
            for case in value["cases"]:
                names = ("unswapped_ms", "swapped_ms", "ratio_to_bound", "overlap_fraction")
                yield f"{key}, {case['budget']}", {name: case[name] for name in names}
        else:
            yield key, value


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(folder: str) -> None:
    """Write the page of this repository."""
    write_page(ROOT / "docs" / "gpu.md", Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
