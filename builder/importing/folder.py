"""A folder that an exporter of language models wrote: its model, and the files of its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from swapnet.errors import ModelError

__all__ = ["check_not_merged", "model_in", "tokenizer_files"]

_GENAI = "genai_config.json"
_MODELS = ("model.onnx", "onnx/model.onnx", "decoder_with_past_model.onnx")
_MERGED = ("decoder_model_merged.onnx", "onnx/decoder_model_merged.onnx")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("generation_config.json", _GENAI, "config.json"),
)
"""Files that a generator uses (`swapnet.executor.generation.text`)."""


def model_in(folder: Path) -> Path:
    """The ONNX file of a folder of onnxruntime-genai or optimum.

    Raises
    ------
    ModelError
        There is none, or only a merged decoder.
    """
    names = [*_MODELS]
    if (config := folder / _GENAI).is_file():
        try:
            names = [
                str(Path(json.loads(config.read_text("utf-8"))["model"]["decoder"]["filename"]))
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{config} is damaged",
                why=f"it names no model.decoder.filename: {error}",
                hint="export the model again, or give its .onnx file",
            ) from error
    for name in names:
        if (folder / name).is_file():
            return folder / name
    for name in _MERGED:
        if (folder / name).is_file():
            raise _merged(folder / name)
    raise ModelError(
        f"{folder} can't be read",
        why=f"it is a folder without {' or '.join(names)}",
        hint="give the path of an .onnx file, or the folder that onnxruntime-genai's model builder "
        "or optimum-cli wrote",
    )


def check_not_merged(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse a decoder with a branch for the first step and another for later ones.

    Raises
    ------
    ModelError
        The model is such a decoder.
    """
    if any(taken.name == "use_cache_branch" for taken in proto.graph.input):
        raise _merged(path)


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Files that a generator needs beside the model."""
    return tuple(folder / name for name in _TOKENIZER if (folder / name).is_file())


def _merged(path: Path) -> ModelError:
    return ModelError(
        f"{path} can't be built: it is a merged decoder",
        why="it holds the model twice, in the branches of an If on use_cache_branch",
        hint="export it again: optimum-cli export onnx --task text-generation-with-past --model "
        "MODEL FOLDER",
    )
