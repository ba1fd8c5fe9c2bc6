"""The tokenizer that a GGUF file describes, as files of the package `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swapnet.builder.importing.gguf.file import GGUF, missing
from swapnet.errors import ModelError

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

_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's sign for a space."""

_SENTENCEPIECE, _BYTE_LEVEL = "llama", "gpt2"
"""Kinds of tokenizers: ``tokenizer.ggml.model``."""

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""Types of tokens: ``tokenizer.ggml.token_type``."""

_SPECIAL: Final = {"bos": "bos", "eos": "eos", "eot": "", "unknown": "unk", "padding": "pad"}
"""Special tokens as a GGUF file calls them, and as ``tokenizer_config.json`` does."""

_DEFAULTS: Final = {"bos": 1, "eos": 2, "unknown": 0}
"""Special tokens of a SentencePiece tokenizer where the file names none: llama-vocab.cpp."""


def write_tokenizer(file: GGUF, folder: Path) -> dict[str, int]:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Returns the numbers of special tokens by their names in `_SPECIAL`: ``"eos"``, and others that
    the file names. Raises as `import_gguf`.
    """
    kind = file.value("tokenizer.ggml.model", str)
    split = file.value("tokenizer.ggml.pre", str, "none")
    is_pieces = kind == _SENTENCEPIECE
    if not is_pieces and (kind != _BYTE_LEVEL or split not in _SPLITS):
        raise file.refusal(
            f"its tokenizer is {kind!r} with the splitting {split!r}; {_SENTENCEPIECE!r} is read, "
            f"and {_BYTE_LEVEL!r} with {', '.join(map(repr, _SPLITS))}",
            "export the model with onnxruntime-genai's model builder, and build that folder",
        )
    words = file.value("tokenizer.ggml.tokens", list)
    defaults = _DEFAULTS if is_pieces else {}
    numbers = {
        name: file.value(f"tokenizer.ggml.{name}_token_id", int, defaults.get(name, -1))
        for name in _SPECIAL
    }
    special = {name: number for name, number in numbers.items() if 0 <= number < len(words)}
    if "eos" not in special:
        raise file.refusal(f"its token {numbers['eos']} ends a text, and it has {len(words)}")
    starts = file.value("tokenizer.ggml.add_bos_token", bool, is_pieces or split == _LLAMA3)
    types = file.value("tokenizer.ggml.token_type", list, [_NORMAL] * len(words))
    try:
        if is_pieces:
            unknown = words[special["unknown"]] if "unknown" in special else None
            made = _sentencepiece(file, words, types, unknown)
        else:
            made = _byte_level(file, words, split)
        _add_special(made, words, types, words[special["bos"]] if starts else "")
    except ImportError as error:
        raise missing("tokenizers", error) from error
    except ModelError:
        raise
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


def _byte_level(file: GGUF, words: list[str], split: str) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
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
    return made


def _sentencepiece(
    file: GGUF, words: list[str], types: list[int], unknown: str | None
) -> Tokenizer:
    """Pieces of SentencePiece's BPE: characters are joined, and unknown ones become bytes.

    SentencePiece (bpe_model.cc) joins the two neighbours that make the token of the highest score.
    Ranked pairs do the same: each way to make a token of two others, by the token's score
    (``generate_merges`` of transformers' convert_slow_tokenizer.py). The normaliser and the
    decoder are those of its ``LlamaConverter``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.value("tokenizer.ggml.scores", list)
    joined = {
        word: (-score, number)
        for number, (word, score, kind) in enumerate(zip(words, scores, types, strict=True))
        if kind in (_NORMAL, _UNUSED)
    }
    pairs = {
        (word[:cut], word[cut:]): rank
        for word, rank in joined.items()
        for cut in range(1, len(word))
        if word[:cut] in joined and word[cut:] in joined
    }
    model = models.BPE(
        {word: number for number, word in enumerate(words)},
        sorted(pairs, key=lambda pair: (pairs[pair], joined[pair[0]][1])),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=_BYTE in types,
    )
    made = Tokenizer(model)
    forth: list[Any] = [normalizers.Replace(" ", _SPACE)]
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.value("tokenizer.ggml.add_space_prefix", bool, True):
        forth.insert(0, normalizers.Prepend(_SPACE))
        back.append(decoders.Strip(" ", 1, 0))
    made.normalizer, made.decoder = normalizers.Sequence(forth), decoders.Sequence(back)
    return made


def _add_special(made: Tokenizer, words: list[str], types: list[int], first: str) -> None:
    """Have tokens found in a text as they are, and a text begin with the token ``first``."""
    from tokenizers import AddedToken, processors

    if first:
        template = f"{first} $A", f"{first} $A {first} $B"
        number = made.token_to_id(first)
        made.post_processor = processors.TemplateProcessing(*template, [(first, number)])
    for word, kind in zip(words, types, strict=False):
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            is_special = kind != _USER_DEFINED
            made.add_tokens([AddedToken(word, special=is_special, normalized=False)])
