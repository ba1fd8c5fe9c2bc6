from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from swapnet.builder.importing.gguf.importer import import_gguf, imported
from swapnet.builder.importing.gguf.weights import BLOCK_TYPES
from swapnet.builder.importing.shapes import plan_shapes
from swapnet.builder.importing.source import open_source
from swapnet.builder.rewriting.asked_rows import ask_rows
from swapnet.builder.rewriting.optimise import TYPES, Operators, optimise
from swapnet.errors import (
    BackendUnavailableError,
    InputError,
    ModelError,
    StorageError,
    SwapnetError,
)
from tests.helpers.gguf_files import HEAD, KEYS, LAYERS, WORDS, logits_of, write_gguf

IDS = np.array([3, 70, 12, 255, 8, 8, 200, 1, 31, 99])


def logits(folder: Path, *, exact: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits of `IDS`, by ONNX Runtime; ``exact`` rounds nothing to 8 bits."""
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level" and exact:
                attribute.i = 0
    session = ort.InferenceSession(model.SerializeToString())
    names = [given.name for given in session.get_inputs()]
    empty = np.zeros((1, KEYS, 0, HEAD), np.float32)
    given = {"input_ids": IDS[None], "attention_mask": np.ones((1, len(IDS)), np.int64)}
    given |= {name: empty for name in names if name.startswith("past")}
    found: np.ndarray[Any, np.dtype[np.float32]] = session.run(["logits"], given)[0][0]
    return found


@pytest.mark.parametrize("kind", [*BLOCK_TYPES, "F16", "BF16"])
def test_logits_are_those_of_the_dequantised_model(kind: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", kind)
    parameters = import_gguf(file, tmp_path / "folder")
    expected = logits_of(file, IDS)
    span = np.abs(expected).max()
    np.testing.assert_allclose(
        logits(tmp_path / "folder", exact=True), expected, rtol=0, atol=2e-5 * span
    )
    rounded = logits(tmp_path / "folder", exact=False)
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=0.05 * span)
    assert parameters > 500_000


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "Q4_0", "table": "Q8_0"},
        {"kind": "Q4_K", "table": "Q6_K", "tied": False},
        {"kind": "F16", "tied": False, "factors": True},
        {"kind": "Q5_K", "split": "pieces", "values": {"llama.rope.scale_linear": 2.0}},
        {
            "kind": "Q8_0",
            "values": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        },
        {"kind": "Q8_0", "architecture": "qwen2", "biases": True, "split": "qwen2"},
    ],
)
def test_variants_of_the_network_are_read(options: dict[str, Any], tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", **options)
    import_gguf(file, tmp_path / "folder")
    expected = logits_of(file, IDS)
    found = logits(tmp_path / "folder", exact=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_rows_of_logits_can_be_asked_for(kind: str, tmp_path: Path) -> None:
    import_gguf(write_gguf(tmp_path / "tiny.gguf", kind), tmp_path / "folder")
    graph = optimise(open_source(tmp_path / "folder"), tmp_path, operators=Operators.PORTABLE)
    graph = plan_shapes(graph, tmp_path / TYPES, {})
    before, asked = graph.outputs[0], ask_rows(graph).outputs[0]
    assert (before.shape[1], asked.shape[1]) == ("sequence_length", "logits_to_keep")


def test_the_folder_names_what_a_generator_needs(tmp_path: Path) -> None:
    import_gguf(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "new" / "folder")
    config = json.loads((tmp_path / "new" / "folder" / "genai_config.json").read_text())["model"]
    assert config["type"] == "llama"
    assert config["context_length"] == 512
    assert config["vocab_size"] == len(WORDS)
    assert config["eos_token_id"] == [len(WORDS) - 1]
    assert config["decoder"]["num_hidden_layers"] == LAYERS
    assert config["decoder"]["outputs"]["present_key_names"] == "present.%d.key"
    source = open_source(tmp_path / "new" / "folder")
    assert {path.name for path in source.tokenizer} == {
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "genai_config.json")
    }
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "folder"]


def test_a_context_is_as_long_as_is_asked_for(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", values={"llama.context_length": 20000})
    for context, expected in ((None, 8192), (100, 100), (20000, 20000)):
        folder = tmp_path / str(context)
        import_gguf(file, folder, context=context)
        config = json.loads((folder / "genai_config.json").read_text())
        assert config["model"]["context_length"] == expected
        tables = {made.name: made for made in onnx.load(folder / "model.onnx").graph.initializer}
        assert onnx.numpy_helper.to_array(tables["sin"]).shape == (expected, HEAD // 2)
    for context, words in ((0, "context can't be 0"), (20001, "of 20001 tokens is too long")):
        with pytest.raises(InputError, match=words):
            import_gguf(file, tmp_path / "folder", context=context)


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    for name, tied in (("tied", True), ("apart", False)):
        file = write_gguf(tmp_path / f"{name}.gguf", "Q8_0", tied=tied)
        import_gguf(file, tmp_path / name)
    tied_bytes, apart_bytes = (
        (tmp_path / name / "model.onnx.data").stat().st_size for name in ("tied", "apart")
    )
    assert apart_bytes - tied_bytes >= len(WORDS) * 256


def test_other_models_are_left_as_they_are(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    with imported(model, tmp_path) as path:
        assert path is model


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"architecture": "falcon"}, "architecture is 'falcon'; those that are read are llama"),
        ({"kind": "TQ2_0"}, "is of the type TQ2_0; those that are read are Q4_0, Q4_1"),
        ({"without": "blk.1.ffn_up.weight"}, "it has no 2-D tensor 'blk.1.ffn_up.weight'"),
        (
            {"biases": True, "without": "output_norm.weight"},
            "it has no 1-D tensor 'output_norm.weight'",
        ),
        ({"values": {"llama.rope.scaling.type": "yarn"}}, "scaled by 'yarn'"),
        ({"values": {"llama.context_length": 0}}, "its llama.context_length is 0, which must be"),
        (
            {"values": {"llama.attention.key_length": 4_000_000_000}},
            "its queries [256, 256]; sizes ask for [256, 16000000000]",
        ),
        ({"architecture": "qwen2", "split": "tekken"}, "with the splitting 'tekken'"),
        ({"values": {"llama.attention.key_length": 32}, "factors": True}, "64 of the 32 numbers"),
    ],
)
def test_what_is_not_read_is_refused_with_its_name(
    options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    values = {"llama.rope.dimension_count": 64} if "64 of" in why else {}
    options = {**options, "values": {**values, **options.get("values", {})}}
    file = write_gguf(tmp_path / "tiny.gguf", **options)
    with pytest.raises(ModelError) as caught:
        import_gguf(file, tmp_path / "folder")
    assert why in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_unknown_tensors_are_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", factors=True, values={"llama.block_count_": 1})
    data = file.read_bytes().replace(b"blk.1.ffn_norm", b"blk.1.ffn_morn")
    file.write_bytes(data.replace(b"rope_freqs.weight", b"rope_freks.weight"))
    with pytest.raises(ModelError, match=r"no 1-D tensor 'blk.1.ffn_norm.weight'"):
        import_gguf(file, tmp_path / "folder")
    file = write_gguf(file, factors=True)
    file.write_bytes(file.read_bytes().replace(b"rope_freqs.weight", b"rope_freks.weight"))
    with pytest.raises(ModelError, match=r"not known of a llama: rope_freks.weight"):
        import_gguf(file, tmp_path / "folder")


@pytest.mark.parametrize("kept", [0, 3, 20, 1000, 9000, 400_000])
def test_files_that_are_cut_short_are_refused(kept: int, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match="damaged, cut short"), imported(file, tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_damaged_texts_and_sizes_are_refused(tmp_path: Path) -> None:
    data = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    text, size = b"<|start|>{{", b"llama.embedding_length\x04\0\0\0"
    assert text in data
    for old, new, why in (
        (text, b"\xc3" + text[1:], "tokenizer.chat_template is damaged"),
        (size + b"\0\1", size + b"\0\2", "its tables are 256 wide"),
        (size + b"\0\1", size + b"\3\0", "attention.key_length is 0, which must be"),
    ):
        file = tmp_path / "damaged.gguf"
        file.write_bytes(data.replace(old, new, 1))
        with pytest.raises(ModelError, match=why):
            import_gguf(file, tmp_path / "folder")


def test_files_that_are_missing_or_in_the_way_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "folder")
    with pytest.raises(ModelError, match="it is a folder"):
        import_gguf(tmp_path, tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(StorageError, match="nothing in it is replaced"):
        import_gguf(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "folder")


def test_another_command_says_that_it_takes_no_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="swapnet import"):
        open_source(write_gguf(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("package", ["gguf", "tokenizers"])
def test_missing_packages_are_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(BackendUnavailableError, match=f"{package} is not installed") as caught:
        import_gguf(file, tmp_path / "folder")
    assert isinstance(caught.value, SwapnetError)
    assert "swapnet-trt[gguf]" in str(caught.value)
