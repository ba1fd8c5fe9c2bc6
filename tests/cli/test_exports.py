"""Files that a benchmark writes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from swapnet.budget import Budget
from swapnet.cli.exports import Exports
from swapnet.errors import InputError, StorageError
from swapnet.executor.bench.bench import Findings
from swapnet.executor.bench.exports import SCHEMAS
from swapnet.executor.bench.report import Report
from swapnet.executor.engine import Engine
from swapnet.testing.engine import write_engine
from tests.executor.bench.conftest import some_findings


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    """A benchmark of a simulated engine."""
    write_engine(tmp_path / "engine", [1 << 20] * 4)
    return some_findings(Engine.open(tmp_path / "engine"), Budget.parse("7MiB"))


def test_a_report_names_schemas_and_is_read_again(findings: Findings, tmp_path: Path) -> None:
    files = {name: str(tmp_path / f"{name}.json") for name in ("json", *SCHEMAS, "trace")}
    exports = Exports(**files)
    assert not exports.is_quiet
    exports.write(findings)
    text = Path(files["json"]).read_bytes()
    report = msgspec.json.decode(text, type=Report)
    assert report.exports == SCHEMAS
    assert msgspec.structs.replace(report, exports={}) == findings.report
    times, (count, *_) = (json.loads(Path(files[n]).read_text()) for n in ("times", "profile"))
    assert count["count"] == len(times) == 3
    for changed in (
        text.replace(b'"verdict"', b'"unknown": 1, "verdict"', 1),
        text.replace(b'"processor"', b'"unknown": 1, "processor"', 1),
        text.replace(b'"cv_percent"', b'"unknown": 1, "cv_percent"', 1),
    ):
        with pytest.raises(msgspec.ValidationError, match="unknown"):
            msgspec.json.decode(changed, type=Report)


def test_one_may_go_to_standard_output(
    findings: Findings, capsys: pytest.CaptureFixture[str]
) -> None:
    exports = Exports(profile="-")
    assert exports.is_quiet
    exports.write(findings)
    assert json.loads(capsys.readouterr().out)[0]["count"] == 3
    with pytest.raises(InputError, match="json and times go to standard output"):
        Exports(json="-", times="-")


def test_files_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        Exports(output=str(tmp_path / "none" / "output.json"))
