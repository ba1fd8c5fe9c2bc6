"""Files that a benchmark writes, shared by two commands."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from swapnet.cli.console import write_json
from swapnet.errors import InputError
from swapnet.files import check_writable

if TYPE_CHECKING:
    from swapnet.executor.bench.bench import Findings

__all__ = ["EXPORTED", "Exports"]


@dataclass(frozen=True)
class Exports:
    """Targets of exports by kind: a file each, ``-`` for standard output, or None.

    Raises
    ------
    InputError
        Two go to standard output.
    StorageError
        A file can't be written.
    """

    json: str | None = None
    times: str | None = None
    profile: str | None = None
    layer_info: str | None = None
    output: str | None = None
    trace: str | None = None

    def __post_init__(self) -> None:
        check_writable(*self._targets.values())
        shown = [name for name, target in self._targets.items() if target == "-"]
        if len(shown) > 1:
            raise InputError(
                f"{' and '.join(shown)} go to standard output",
                why="what would be read there is no JSON",
                hint="give - to one of them, files to the others",
            )

    @property
    def _targets(self) -> dict[str, str]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: target for name, target in given.items() if target is not None}

    @property
    def of_inferences(self) -> list[str]:
        """Kinds that are written and need inferences: all but the report."""
        return [name for name in self._targets if name != "json"]

    @property
    def is_quiet(self) -> bool:
        """Whether one goes to standard output, where then nothing else is written."""
        return "-" in self._targets.values()

    def write(self, findings: Findings) -> None:
        """Write all files; the report names the schemas of the others."""
        from swapnet.executor.bench import exports
        from swapnet.executor.report.trace import trace_file

        manifest, timings = findings.manifest, findings.timings
        schemas = {k: v for k, v in exports.SCHEMAS.items() if k in self._targets}
        report = msgspec.structs.replace(findings.report, exports=schemas)
        contents: dict[str, Any] = {
            "json": lambda: report,
            "times": lambda: exports.times_json(timings),
            "profile": lambda: exports.profile_json(findings.plan, manifest, timings),
            "layer_info": lambda: exports.layer_info_json(manifest),
            "output": lambda: exports.outputs_json(manifest, findings.outputs),
            "trace": lambda: trace_file(findings.trace_events, report.command, findings.plan),
        }
        for name, target in self._targets.items():
            write_json(contents[name](), target)


EXPORTED = tuple(field.name for field in fields(Exports))
"""Kinds of files."""
