"""The tokenizer that a GGUF file describes, as files of the package `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swapnet.builder.importing.gguf.file import GGUF, missing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["write_tokenizer"]

_SPLITS: Final = ("gpt-2", "smollm", "llama-bpe", "qwen2")
_GPT2, _SMOLLM, _LLAMA3, _QWEN2 = _SPLITS
"""Ways to split a text before its bytes are joined: ``tokenizer.ggml.pre``."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pieces of a text for Llama 3 and Qwen 2, with how many digits are one: llama-vocab.cpp."""

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens that are found in a text as they are

_SPECIAL: Final = {"bos": "bos", "eos": "eos", "eot": "", "unknown": "unk", "padding": "pad"}
"""Special tokens as a GGUF file calls them, and as ``tokenizer_config.json`` does."""


def write_tokenizer(file: GGUF, folder: Path) -> dict[str, int]:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Returns the numbers of special tokens by their names in `_SPECIAL`: ``"eos"``, and others that
    the file names. Raises as `import_gguf`.
    """
    kind = file.value("tokenizer.ggml.model", str)
    split = file.value("tokenizer.ggml.pre", str, "none")
    if kind != "gpt2" or split not in _SPLITS:
        raise file.refusal(
            f"its tokenizer is {kind!r} with the splitting {split!r}; 'gpt2' is read, with "
            f"{', '.join(map(repr, _SPLITS))}",
            "export the model with onnxruntime-genai's model builder, and build that folder",
        )
    words = file.value("tokenizer.ggml.tokens", list)
    numbers = {name: file.value(f"tokenizer.ggml.{name}_token_id", int, -1) for name in _SPECIAL}
    special = {name: number for name, number in numbers.items() if 0 <= number < len(words)}
    if "eos" not in special:
        raise file.refusal(f"its token {numbers['eos']} ends a text, and it has {len(words)}")
    starts = file.value("tokenizer.ggml.add_bos_token", bool, split == _LLAMA3)
    try:
        made = _tokenizer(file, words, split, words[special["bos"]] if starts else "")
    except ImportError as error:
        raise missing("tokenizers", error) from error
    except Exception as error:  # the package raises this class itself
        raise file.refusal(f"its tokenizer is damaged: {error}") from error
    made.save(str(folder / "tokenizer.json"))
    config = {
        f"{own}_token": words[special[n]] for n, own in _SPECIAL.items() if own and n in special
    }
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": starts}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    if template := file.value("tokenizer.chat_template", str, ""):
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return special


def _tokenizer(file: GGUF, words: list[str], split: str, first: str) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    merges = [tuple(pair.split(" ")) for pair in file.value("tokenizer.ggml.merges", list)]
    numbers = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.BPE(numbers, merges, ignore_merges=split == _LLAMA3))
    pieces: dict[str, list[Any]] = {
        _GPT2: [],
        _SMOLLM: [Digits(individual_digits=True)],
        _LLAMA3: [Split(Regex(_WORDS % "{1,3}"), "isolated")],
        _QWEN2: [Split(Regex(_WORDS % ""), "isolated")],
    }
    use_regex = split in (_GPT2, _SMOLLM)
    made.pre_tokenizer = Sequence([*pieces[split], ByteLevel(False, use_regex=use_regex)])
    made.decoder = decoders.ByteLevel()
    if split == _QWEN2:
        made.normalizer = normalizers.NFC()
    if first:
        pair = f"{first} $A {first} $B"
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=pair, special_tokens=[(first, numbers[first])]
        )
    types = file.value("tokenizer.ggml.token_type", list, [])
    for word, kind in zip(words, types, strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            made.add_tokens([AddedToken(word, special=kind == _CONTROL, normalized=False)])
    return made
