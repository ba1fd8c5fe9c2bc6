"""Files that a benchmark writes, shared by two commands."""

from __future__ import annotations

from typing import Any

import msgspec

from swapnet.cli.console import write_json
from swapnet.errors import InputError
from swapnet.executor.bench import exports
from swapnet.executor.bench.bench import Findings
from swapnet.executor.report.trace import trace_file
from swapnet.files import check_writable

__all__ = ["EXPORTED", "Exports"]

EXPORTED = ("json", "times", "profile", "layer_info", "output", "trace")
"""Kinds of files."""


class Exports(dict[str, str]):
    """Targets of exports by kind: a file each, or ``-`` for standard output; None is left out.

    Raises
    ------
    InputError
        Two go to standard output.
    StorageError
        A file can't be written.
    """

    def __init__(self, **targets: str | None) -> None:
        super().__init__({kind: target for kind, target in targets.items() if target is not None})
        check_writable(*self.values())
        shown = [kind for kind, target in self.items() if target == "-"]
        if len(shown) > 1:
            raise InputError(
                f"{' and '.join(shown)} go to standard output",
                why="what would be read there is no JSON",
                hint="give - to one of them, files to the others",
            )

    @property
    def is_quiet(self) -> bool:
        """Whether one goes to standard output, where then nothing else is written."""
        return "-" in self.values()

    def write(self, findings: Findings) -> None:
        """Write all files; the report names the schemas of the others."""
        manifest, timings = findings.manifest, findings.timings
        schemas = {k: v for k, v in exports.SCHEMAS.items() if k in self}
        report = msgspec.structs.replace(findings.report, exports=schemas)
        contents: dict[str, Any] = {
            "json": lambda: report,
            "times": lambda: exports.times_json(timings),
            "profile": lambda: exports.profile_json(findings.plan, manifest, timings),
            "layer_info": lambda: exports.layer_info_json(manifest),
            "output": lambda: exports.outputs_json(manifest, findings.outputs),
            "trace": lambda: trace_file(findings.trace_events, report.command, findings.plan),
        }
        for kind, target in self.items():
            write_json(contents[kind](), target)
