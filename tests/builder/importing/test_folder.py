"""Folders that exporters of language models write."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from swapnet.builder.importing.source import open_source
from swapnet.errors import ModelError
from tests.helpers.decoders import grouped, named
from tests.helpers.tokenizers import write_tokenizer


def genai(filename: object) -> str:
    return json.dumps({"model": {"decoder": {"filename": filename}}})


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
def test_the_model_and_the_tokenizer_of_optimum_are_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    onnx.save(named(grouped()), tmp_path / name)
    write_tokenizer(tmp_path)
    (tmp_path / "README.md").write_text("")
    source = open_source(tmp_path)
    assert source.path == tmp_path / name
    files = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in source.tokenizer) == files


def test_the_configuration_of_genai_names_the_model(tmp_path: Path) -> None:
    for name in ("model.onnx", "decoder.onnx"):
        onnx.save(named(grouped()), tmp_path / name)
    (tmp_path / "genai_config.json").write_text(genai("decoder.onnx"))
    assert open_source(tmp_path).path.name == "decoder.onnx"


@pytest.mark.parametrize("text", ["{", "[]", "{}", genai(3)])
def test_a_damaged_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "genai_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"genai_config.json is damaged"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "decoder_model_merged.onnx"])
def test_a_merged_decoder_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    model = named(grouped())
    branch = onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    model.graph.input.append(branch)
    onnx.save(model, tmp_path / name)
    with pytest.raises(ModelError, match="merged decoder") as caught:
        open_source(tmp_path)
    assert "text-generation-with-past" in caught.value.hint


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without model.onnx or onnx/model.onnx"):
        open_source(tmp_path)
