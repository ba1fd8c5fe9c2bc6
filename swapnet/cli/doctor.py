"""``swapnet doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from swapnet.cli.console import print_table, print_text, progress, write_json
from swapnet.cli.diagnosis import Capability, Diagnosis, Finding, diagnose
from swapnet.cli.options import PATH

__all__ = ["command"]


@click.command("doctor")
@click.argument("folder", metavar="[DIR]", default=".", type=PATH)
@click.option("--json", "json_target", metavar="FILE", help="Write it as JSON; - for stdout.")
def command(folder: Path, json_target: str | None) -> None:
    """Show what is installed, what each backend can do here, and how to get the rest.

    DIR is the folder for engines; its storage is tested. [default: the current folder]

    The exit status is 0 if at least one backend can run engines, else 1.
    """
    with progress("doctor", lines=False):
        diagnosis = diagnose(folder)
    if json_target:
        write_json(diagnosis, json_target)
    else:
        _show(diagnosis)
    if not diagnosis.runnable:
        raise SystemExit(1)


def _show(diagnosis: Diagnosis) -> None:
    _show_backends(diagnosis.backends)
    for topic, findings in diagnosis.topics.items():
        title = topic[0].upper() + topic[1:]
        print_table(title, ["", "found"], [(found.name, found.detail) for found in findings])
        for found in findings:
            if found.hint:
                print_text(f"{found.name}: {found.hint}")
        print_text()
    print_text(
        f"Engines can be run here with: {', '.join(diagnosis.runnable)}"
        if diagnosis.runnable
        else "No backend can run engines here"
    )


def _show_backends(backends: Sequence[Capability]) -> None:
    print_table(
        "Backends",
        ["backend", "version", "builds here", "runs here"],
        [
            (
                backend.backend,
                backend.version or "-",
                "yes" if backend.builds.state == "ok" else "no",
                "yes" if backend.runs.state == "ok" else "no",
            )
            for backend in backends
        ],
    )
    refused: dict[tuple[str, Finding], list[str]] = {}
    for backend in backends:
        for verb, found in (("build", backend.builds), ("run", backend.runs)):
            if found.state == "no":
                refused.setdefault((verb, found), []).append(backend.backend)
    for (verb, found), names in refused.items():
        print_text(f"{', '.join(names)} can't {verb}: {found.detail}\n  {found.hint}")
    print_text()
