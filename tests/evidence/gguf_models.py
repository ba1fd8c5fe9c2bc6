"""GGUF files that are made to measure with: one in float32, and a large one of seeded weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize

from tests.helpers.gguf_files import WORDS

__all__ = ["in_float32", "seeded"]

_PIECE_ROWS = 4096
_BLOCK, _BLOCK_BYTES = 32, 18
"""Of Q4_0: a scale in float16, and 32 quants of 4 bits."""


def in_float32(source: Path, path: Path) -> Path:
    """Write a GGUF file again with all its weights in float32, a tensor in memory at a time."""
    reader = GGUFReader(source)
    name = "general.architecture"
    writer = GGUFWriter(path, reader.fields[name].contents())
    for key, field in reader.fields.items():
        if key != name and not key.startswith("GGUF."):
            kind, *inner = field.types
            of = inner[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=of)
    for tensor in reader.tensors:
        shape = tensor.shape[::-1].tolist()
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * tensor.n_elements)
    _begin(writer)
    for tensor in reader.tensors:
        writer.write_tensor_data(dequantize(tensor.data, tensor.tensor_type))
    writer.close()
    return path


def seeded(
    path: Path,
    *,
    layers: int = 22,
    hidden: int = 2048,
    inner: int = 5632,
    heads: int = 32,
    keys: int = 4,
    vocabulary: int = 32000,
) -> Path:
    """Write a decoder of seeded 4-bit weights (Q4_0), by default of TinyLlama's sizes (1.1 B).

    One tensor is in memory at a time.
    """
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*WORDS, *(f"w{number}" for number in range(vocabulary - len(WORDS)))])
    writer.add_token_merges(["h e"])
    writer.add_token_types([1] * vocabulary)
    writer.add_eos_token_id(vocabulary - 1)
    head = hidden // heads
    sizes = {
        **{"attn_q": (hidden, hidden), "attn_k": (keys * head, hidden)},
        **{"attn_v": (keys * head, hidden), "attn_output": (hidden, hidden)},
        **{"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)},
    }
    weights = {"token_embd.weight": (vocabulary, hidden), "output.weight": (vocabulary, hidden)}
    for layer in range(layers):
        weights |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
    norms = [f"blk.{n}.{part}_norm.weight" for n in range(layers) for part in ("attn", "ffn")]
    for name, (rows, columns) in weights.items():
        nbytes = rows * columns // _BLOCK * _BLOCK_BYTES
        kind, stored = GGMLQuantizationType.Q4_0, np.dtype(np.uint8)
        shape = (rows, columns // _BLOCK * _BLOCK_BYTES)
        writer.add_tensor_info(name, shape, stored, nbytes, raw_dtype=kind)
    for name in (*norms, "output_norm.weight"):
        writer.add_tensor_info(name, (hidden,), np.dtype(np.float32), 4 * hidden)
    _begin(writer)
    random = np.random.default_rng(11)
    for name, (rows, columns) in weights.items():
        # Embeddings as large as what layers add: else each token follows itself.
        size = 1.0 if name == "token_embd.weight" else columns**-0.5
        writer.write_tensor_data(np.concatenate(list(_blocks(random, rows, columns, size))))
    for _ in (*norms, ""):
        writer.write_tensor_data(np.ones(hidden, np.float32))
    writer.close()
    return path


def _blocks(
    random: np.random.Generator, rows: int, columns: int, size: float
) -> Iterator[npt.NDArray[np.uint8]]:
    """Rows of Q4_0 with weights of the mean 0 and this standard deviation."""
    count = columns // _BLOCK
    # Quants of -7 to 7 have a standard deviation of 4.3.
    scale = np.array([size / 4.3], np.float16)
    for start in range(0, rows, _PIECE_ROWS):
        part = min(_PIECE_ROWS, rows - start)
        low, high = random.integers(1, 16, (2, part, count, _BLOCK_BYTES), np.uint8)
        blocks = low | high << np.uint8(4)
        blocks[..., :2] = scale.view(np.uint8)
        yield blocks.reshape(part, -1)


def _begin(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
