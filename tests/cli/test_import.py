"""``swapnet import``, and ``swapnet build`` of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swapnet import Generator
from swapnet.builder.importing.source import original_model
from swapnet.errors import InputError
from swapnet.executor.generation.text import Text
from swapnet.manifest import load_manifest
from tests.cli.conftest import Call, Start
from tests.helpers.gguf_files import WORDS, logits_of, write_gguf

PROMPT = "hello hello"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.Q8_0.gguf", "Q8_0")


def test_a_folder_is_written_once(
    call: Call, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("import", file).status == 0
    assert (tmp_path / "tiny.Q8_0" / "genai_config.json").is_file()
    again = call("import", file)
    assert again.is_user_error("tiny.Q8_0 can't be written", "nothing in it is replaced")


def test_what_can_not_be_imported_is_one_error(call: Call, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", architecture="falcon")
    said = call("import", file, "-o", tmp_path / "out")
    assert said.is_user_error("tiny.gguf can't be imported", "'falcon'")
    file.write_bytes(file.read_bytes()[:5000])
    assert call("import", file, "-o", tmp_path / "out").is_user_error("cut short")
    assert call("try", file).is_user_error("swapnet import")


@pytest.mark.slow
def test_a_file_is_built_and_generates_its_tokens(start: Start, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.Q4_1.gguf", "Q4_1")
    folder = tmp_path / "engines" / "tiny"
    process = start("build", file, "-o", folder, "--backend", "onnxruntime", "--no-measure")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    ids = Text(folder).tokens(PROMPT)
    with Generator(folder, "100%", 24) as generator:
        tokens = list(generator(ids, max_tokens=8))
        assert generator.executor.manifest.planned_shapes["logits_to_keep"] == (2,)
    for number, token in enumerate(tokens):
        logits = logits_of(file, np.array([*ids, *tokens[:number]]))[-1]
        assert logits[token] > logits.max() - 0.05 * np.ptp(logits)
    assert max(tokens) < len(WORDS)
    manifest = load_manifest(folder)
    assert manifest.source.name == "tiny.Q4_1"
    with pytest.raises(InputError, match=r"a GGUF file, (.|\n)*--model FOLDER/model.onnx"):
        original_model(manifest)
