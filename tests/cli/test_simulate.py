"""``swapnet scenario simulate``: tables, JSON, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from swapnet.cli.scenario.simulate import command
from swapnet.errors import StorageError, SwapnetError

SMALL = ["--models", "12", "--requests", "500"]


def test_all_policies_and_growth() -> None:
    result = CliRunner().invoke(command, SMALL)
    assert result.exit_code == 0, result.output
    assert "12 DNNs, 500 requests (poisson), utilisation 0.7" in result.output
    for policy in ("deadline", "first-come", "fair", "shortest"):
        assert policy in result.output
    assert "Scheduling" in result.output


def test_json_is_the_same_every_time(tmp_path: Path) -> None:
    records = []
    for name in ("one.json", "other.json"):
        target = tmp_path / name
        arguments = [*SMALL, "--policy", "fair", "--arrivals", "bursty", "--json", str(target)]
        assert CliRunner().invoke(command, arguments).exit_code == 0
        records.append(json.loads(target.read_text()))
    first, second = records
    assert first["schema"] == "swapnet-simulation/1"
    assert (first["models"], first["requests"], first["arrivals"]) == (12, 500, "bursty")
    assert [(each["models"], each["policy"]) for each in first["growth"]] == [
        (10, "fair"),
        (12, "fair"),
    ]
    (policy,) = first["policies"]
    assert policy["policy"] == "fair"
    assert policy["weighted_latency_ms"] > 0
    for record in records:
        for measured in ("wall_s", "scheduling_us_per_request"):
            del record["policies"][0][measured]
    assert first["policies"] == second["policies"]


def test_json_alone_on_standard_output() -> None:
    result = CliRunner().invoke(command, [*SMALL, "--policy", "deadline", "--json", "-"])
    assert json.loads(result.stdout)["policies"][0]["policy"] == "deadline"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--models", "0"],
        ["--requests", "0"],
        ["--policy", "random"],
        ["--arrivals", "never"],
        ["--utilisation", "0"],
        ["--utilisation", "nan"],
    ],
)
def test_bad_options(wrong: list[str]) -> None:
    result = CliRunner().invoke(command, wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.output


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*SMALL, "--json", str(tmp_path / "no" / "where.json")])
    assert isinstance(result.exception, SwapnetError)
    assert isinstance(result.exception, StorageError) or "where.json" in str(result.exception)
