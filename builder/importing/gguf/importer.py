"""A GGUF file in, a folder of onnxruntime-genai out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from swapnet.builder.importing.gguf.decoder import Decoder
from swapnet.builder.importing.gguf.file import GGUF, is_gguf
from swapnet.builder.importing.gguf.tokenizer import write_tokenizer
from swapnet.errors import StorageError
from swapnet.files import working_folder, writing

__all__ = ["import_gguf", "imported"]

_HINT = "choose another place, or free some space"


def import_gguf(
    path: Path, folder: Path, filename: str = "model.onnx", context: int | None = None
) -> int:
    """Write a Llama-like model of llama.cpp as a folder that onnxruntime-genai reads too.

    Weights keep their blocks and their numbers; a piece of them is in memory at a time. Returns the
    number of parameters.

    Parameters
    ----------
    path
        The GGUF file, of an architecture and of types that `Decoder` reads.
    folder
        Where to write: no folder, or an empty one.
    filename
        Name of the model; its weights are in that name and ``.data``.
    context
        Most tokens that the model takes, which its tables of angles are made for; by default as
        many as it learnt, at most 8,192.

    Raises
    ------
    InputError
        The context is larger than the one that the model learnt.
    ModelError
        The file is damaged, or its architecture, its tokenizer or a tensor is not read.
    BackendUnavailableError
        The package `gguf` or `tokenizers` is not installed.
    StorageError
        The folder can't be written, or has files.
    """
    with writing(folder, _HINT):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(
                f"{folder} can't be written",
                why="it is there already, and nothing in it is replaced",
                hint="choose a new folder, or remove it first",
            )
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with working_folder(f".{folder.name}.", folder.absolute().parent) as partial:
            partial.chmod(0o755)
            file = GGUF(path)
            _write(file, partial, filename, context)
            partial.rename(folder)
            return sum(tensor.n_elements for tensor in file.tensors.values())


@contextmanager
def imported(model: Path, place: Path) -> Iterator[Path]:
    """The model itself; of a GGUF file, a folder in ``place`` that is there until the block ends.

    Raises
    ------
    SwapnetError
        As `import_gguf`.
    """
    if not is_gguf(model):
        yield model
        return
    with ExitStack() as opened:
        with writing(place, _HINT):
            place.mkdir(parents=True, exist_ok=True)
            folder = opened.enter_context(working_folder(f".{model.stem}.", place)) / "model"
        import_gguf(model, folder)
        yield folder


def _write(file: GGUF, folder: Path, filename: str, context: int | None) -> None:
    decoder = Decoder(file, context)
    tokens = write_tokenizer(file, folder)
    ends = [tokens[name] for name in ("eos", "eot") if name in tokens]
    model = decoder.config(filename) | {
        "bos_token_id": tokens.get("bos", ends[0]),
        "eos_token_id": ends,
        "pad_token_id": tokens.get("padding", ends[0]),
    }
    search = {"max_length": model["context_length"], "past_present_share_buffer": True}
    config = json.dumps({"model": model, "search": search}, indent=2)
    (folder / "genai_config.json").write_text(config, "utf-8")
    decoder.write(folder / filename)
