"""What a scenario's file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet import models
from swapnet.cli.scenario.parts import scenarios
from swapnet.errors import InputError
from swapnet.executor.scenario.scenario import at_rates, load_scenario
from tests.executor.scenario.conftest import a_scenario

HEAD = "title = 'A device'\n"
ONE = "[[models]]\nname = 'one'\nmodel = 'yolov3'\nrate_per_s = 2\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text)
    return path


def test_all_that_may_be_said(tmp_path: Path) -> None:
    text = (
        HEAD
        + ONE
        + "task = 'boxes'\ndeadline_ms = 200\npriority = 3\narrivals = 'bursty'\n"
        + "shapes = { x = [1, 3, 48, 320] }\n"
        + "[[models]]\nname = 'two'\nengine = 'engines/mine'\nrate_per_s = 0.5\n"
    )
    one, two = load_scenario(written(tmp_path, text)).models
    assert (one.source, one.task, one.deadline_ms, one.priority) == ("yolov3", "boxes", 200.0, 3.0)
    assert one.shapes == {"x": (1, 3, 48, 320)}
    assert (two.deadline_ms, two.priority, two.arrivals) == (None, 1.0, "poisson")
    assert Path(two.source) == tmp_path / "engines/mine"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD, "models"),
        (HEAD + "models = []", "length >= 1"),
        (ONE, "title"),
        (HEAD + ONE + "colour = 'red'", "unknown field `colour`"),
        (HEAD + ONE + ONE, "two models named 'one'"),
        (HEAD + ONE.replace("2", "-2"), "rate_per_s"),
        (HEAD + ONE.replace("2", "0"), "rate_per_s"),
        (HEAD + ONE.replace("2", "inf"), "must be finite"),
        (HEAD + ONE.replace("2", "nan"), "rate_per_s"),
        (HEAD + ONE + "deadline_ms = 0", "deadline_ms"),
        (HEAD + ONE + "arrivals = 'sometimes'", "arrivals"),
        (HEAD + ONE + "engine = 'mine'", "either a model of the zoo or an engine"),
        (HEAD + ONE.replace("model = 'yolov3'", ""), "either a model of the zoo or an engine"),
        (HEAD + ONE.replace("'one'", "''"), "name"),
        (HEAD + ONE + "shapes = { x = [0] }", "shapes"),
        (HEAD + "[[models", "array declaration"),
    ],
)
def test_what_may_not_be_said(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError, match="is not a scenario") as caught:
        load_scenario(written(tmp_path, text))
    assert why in caught.value.why


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        load_scenario(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(InputError, match="is not a scenario"):
        load_scenario(tmp_path / "latin.toml")


def test_speed_changes_rates_only() -> None:
    fast = at_rates(a_scenario(), {}, 2.0)
    assert [entry.rate_per_s for entry in fast.models] == [4.0, 10.0]
    assert [entry.name for entry in fast.models] == ["one", "two"]


def test_some_rates_may_be_others() -> None:
    changed = at_rates(a_scenario(), {"two": 0.5})
    assert [entry.rate_per_s for entry in changed.models] == [2.0, 0.5]


def test_a_rate_is_of_a_dnn_of_the_scenario() -> None:
    with pytest.raises(InputError, match="no DNN 'three'") as caught:
        at_rates(a_scenario(), {"one": 1.0, "three": 1.0})
    assert caught.value.why == "it has one, two"


@pytest.mark.parametrize("path", scenarios().values(), ids=lambda path: path.stem)
def test_scenarios_that_come_with_us_name_models_of_the_zoo(path: Path) -> None:
    for entry in load_scenario(path).models:
        assert entry.model in models.names()
