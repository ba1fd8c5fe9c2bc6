"""Cases on the disk: there, or to be measured again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.evidence.cases import (
    ABLATION,
    case_path,
    load_case,
    load_outline,
    read_cases,
    read_outlines,
    save,
)
from tests.evidence.conftest import a_case, an_outline


def test_a_case_comes_back(tmp_path: Path) -> None:
    case = a_case()
    path = case_path(tmp_path, "toy", "weights:25%")
    save(path, case)
    assert path.name == "toy-weights-25.json"
    assert load_case(path, case.key) == case


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "other"},
        {"swapnet": "9"},
        {"peers": ()},
        {"rounds": 1},
        {"threads": 1},
        {"memory_limit": False},
    ],
)
def test_another_key_is_another_measurement(tmp_path: Path, change: dict[str, object]) -> None:
    case = a_case()
    save(tmp_path / "case.json", case)
    assert load_case(tmp_path / "case.json", msgspec.structs.replace(case.key, **change)) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "swapnet-case/0"}'])
def test_damaged_and_foreign_files_are_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "case.json").write_bytes(content)
    assert load_case(tmp_path / "case.json", a_case().key) is None
    assert read_cases(tmp_path, "toy") == []
    assert read_outlines(tmp_path) == []


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    case = a_case(note="killed")
    save(tmp_path / "case.json", case)
    assert load_case(tmp_path / "case.json", case.key) is None
    assert read_cases(tmp_path, "toy") == [case]


def test_each_case_has_its_own_file(tmp_path: Path) -> None:
    paths = {
        case_path(tmp_path, "toy", budget, kind)
        for budget in ("weights:25%", "25%", "smallest", "25MiB")
        for kind in ("", ABLATION)
    }
    assert len(paths) == 8


def test_cases_are_read_by_model(tmp_path: Path) -> None:
    for model in ("one", "two"):
        save(case_path(tmp_path, model, "25%"), a_case(model, "25%"))
    assert [case.model for case in read_cases(tmp_path, "two")] == ["two"]


def test_outlines_go_with_engine_and_delays(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    save(path, an_outline())
    assert load_outline(path, "e", "p") == an_outline()
    assert load_outline(path, "e", "other") is None
    assert read_outlines(tmp_path) == [an_outline()]
