"""Small seeded GGUF files of Llama-like models, and what they answer by plain arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from gguf.constants import GGML_QUANT_SIZES

__all__ = ["CHAT", "PIECES", "SPACE", "WORDS", "logits_of", "quantised", "write_gguf"]

Array = npt.NDArray[Any]

LAYERS, HIDDEN, INNER, HEADS, KEYS, HEAD = 2, 256, 256, 4, 2, 64
CHAT = "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"


def _words() -> list[str]:
    """Bytes as GPT-2 writes them, a few joined ones, and two special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    joined = ["he", "ll", "hell", "hello", "Ġhello", "12", "123"]
    return [*sorted(ByteLevel.alphabet()), *joined, "<|start|>", "<|end|>"]


WORDS = _words()
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def _pieces() -> list[str]:
    """Tokens of SentencePiece: special ones, bytes, seeded pieces, and single characters."""
    random = np.random.default_rng(3)
    special = ["<unk>", "<s>", "</s>", "<|user|>"]
    words = [f"{SPACE}hello", "hello", f"{SPACE}w", "or", "ld", "world", "11", f"{SPACE}<"]
    lengths = random.integers(2, 6, 300)
    seeded = ["".join(random.choice([*"abc", SPACE], length)) for length in lengths]
    joined = dict.fromkeys([*(SPACE * n for n in (2, 3, 4, 8)), *seeded, *words])
    ways = ["he", "ll", "lo", "llo", "wo", "rld", f"{SPACE}he"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    return [*special, *bytes_, *joined, *ways, SPACE, *"abcdehlorw1<>|/s\u00e9"]


PIECES = _pieces()
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "12 3"]


def quantised(values: Array, kind: str) -> Array:
    """Rows in a type of llama.cpp; of those that the package can't write, seeded blocks."""
    number = GGMLQuantizationType[kind]
    if not kind.endswith("_K") and not kind.startswith("IQ"):
        return np.asarray(quantize(values.astype(np.float32), number))
    size, nbytes = GGML_QUANT_SIZES[number]
    random = np.random.default_rng(values.shape[0])
    blocks = random.integers(0, 256, (values.size // size, nbytes), dtype=np.uint8)
    halves = np.full((len(blocks), 1), 2e-4, np.float16) * random.random((len(blocks), 2)) + 1e-4
    halves = halves.astype(np.float16).view(np.uint8)
    scales = {"Q2_K": (-4, None), "Q3_K": (-2, None), "Q6_K": (-2, None)}
    place = slice(*scales.get(kind, (0, 4 if kind in ("Q4_K", "Q5_K") else 2)))
    blocks[:, place] = halves[:, : blocks[:, place].shape[1]]
    return blocks.reshape(values.shape[0], -1)


def write_gguf(
    path: Path,
    kind: str = "Q4_0",
    *,
    architecture: str = "llama",
    table: str = "",
    tied: bool = True,
    biases: bool = False,
    factors: bool = False,
    split: str = "smollm",
    values: Mapping[str, Any] | None = None,
    without: str = "",
) -> Path:
    """Write a model with weights of one type and a table of another; ``values`` change its keys.

    The tokenizer is of bytes, or with the splitting ``"pieces"`` one of SentencePiece.
    """
    random = np.random.default_rng(7)
    words = PIECES if split == "pieces" else WORDS
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    given = values or {}
    if "llama.context_length" not in given:
        writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1000.0)
    if split == "pieces":
        writer.add_tokenizer_model("llama")
        writer.add_token_list(words)
        writer.add_token_scores([-float(number) for number in range(len(words))])
        writer.add_token_types([2, 3, 3, 4, *[6] * 256, *[1] * (len(words) - 260)])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
        writer.add_token_list(words)
        writer.add_token_merges(MERGES)
        writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
        writer.add_bos_token_id(len(words) - 2)
    if "tokenizer.ggml.eos_token_id" not in given and split != "pieces":
        writer.add_eos_token_id(len(words) - 1)
    writer.add_chat_template(CHAT)
    for key, value in given.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(key, value)

    def add(name: str, rows: int, columns: int, kind: str) -> None:
        if name != without:
            data = quantised(random.standard_normal((rows, columns)) * columns**-0.5, kind)
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])

    def vector(name: str, size: int, mean: float = 0.0) -> None:
        if name != without:
            writer.add_tensor(name, (mean + 0.2 * random.standard_normal(size)).astype(np.float32))

    add("token_embd.weight", len(words), HIDDEN, table or kind)
    if not tied:
        add("output.weight", len(words), HIDDEN, kind)
    vector("output_norm.weight", HIDDEN, 1)
    if factors:
        vector("rope_freqs.weight", HEAD // 2, 3)
    sizes = {
        **{"attn_q": (HEADS * HEAD, HIDDEN), "attn_output": (HIDDEN, HEADS * HEAD)},
        **{"attn_k": (KEYS * HEAD, HIDDEN), "attn_v": (KEYS * HEAD, HIDDEN)},
        **{"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)},
    }
    for layer in range(LAYERS):
        for name, (rows, columns) in sizes.items():
            add(f"blk.{layer}.{name}.weight", rows, columns, kind)
            if biases and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"blk.{layer}.{name}.bias", rows)
        vector(f"blk.{layer}.attn_norm.weight", HIDDEN, 1)
        vector(f"blk.{layer}.ffn_norm.weight", HIDDEN, 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of(path: Path, ids: Array) -> Array:
    """Logits (tokens, vocabulary) of tokens, with weights that the package `gguf` dequantises."""
    reader = GGUFReader(path)
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(float) for t in reader.tensors}
    architecture = reader.fields["general.architecture"].contents()

    def product(value: Array, name: str) -> Array:
        made: Array = value @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
        return made

    def normed(value: Array, name: str) -> Array:
        size = np.sqrt((value**2).mean(-1, keepdims=True) + 1e-5)
        made: Array = value / size * weights[f"{name}.weight"]
        return made

    ends = ("rope.scaling.factor", "rope.scale_linear")
    found = [reader.fields[key].contents() for key in reader.fields if key.endswith(ends)]
    steps = 1000.0 ** -(np.arange(0, HEAD, 2) / HEAD) / weights.get("rope_freqs.weight", 1)
    steps = steps / max([1.0, *found])
    angles = np.outer(np.arange(len(ids)), steps)[:, None]

    def turned(heads: Array) -> Array:
        pairs = [heads[..., ::2], heads[..., 1::2]]
        if architecture == "qwen2":
            pairs = [heads[..., : HEAD // 2], heads[..., HEAD // 2 :]]
        one, other = pairs
        made = [
            one * np.cos(angles) - other * np.sin(angles),
            other * np.cos(angles) + one * np.sin(angles),
        ]
        return np.concatenate(made, -1) if architecture == "qwen2" else _interleaved(*made)

    hidden = weights["token_embd.weight"][ids]
    later = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        value = normed(hidden, f"{name}.attn_norm")
        query = turned(product(value, f"{name}.attn_q").reshape(len(ids), HEADS, HEAD))
        key, content = (
            product(value, f"{name}.attn_{part}").reshape(len(ids), KEYS, HEAD) for part in "kv"
        )
        key, content = (np.repeat(each, HEADS // KEYS, 1) for each in (turned(key), content))
        scores = np.einsum("qhd,khd->hqk", query, key) * HEAD**-0.5 + later
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), content)
        hidden = hidden + product(mixed.reshape(len(ids), -1), f"{name}.attn_output")
        value = normed(hidden, f"{name}.ffn_norm")
        gate, up = (product(value, f"{name}.ffn_{part}") for part in ("gate", "up"))
        hidden = hidden + product(gate / (1 + np.exp(-gate)) * up, f"{name}.ffn_down")
    last = "output" if "output.weight" in weights else "token_embd"
    return product(normed(hidden, "output_norm"), last)


def _interleaved(one: Array, other: Array) -> Array:
    return np.stack([one, other], -1).reshape(*one.shape[:-1], -1)
