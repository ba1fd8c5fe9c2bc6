"""The graph of a Llama-like decoder with weights of a GGUF file, as onnxruntime-genai has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from swapnet.builder.importing.gguf.blocks import BLOCK_TYPES, FLOAT_TYPES, floats
from swapnet.builder.importing.gguf.file import GGUF
from swapnet.builder.importing.gguf.weights import Weights

if TYPE_CHECKING:
    import onnx
    from gguf import ReaderTensor

__all__ = ["Decoder"]

_INTERLEAVED: Final = {"llama": 1, "qwen2": 0}
"""Architectures that are read, and whether the numbers that turn together are neighbours:
convert_hf_to_gguf.py reorders rows of Llama's queries and keys that way."""

_MOST_POSITIONS = 8192
"""Rows of the tables of angles: all blocks share them, so they stay in memory."""

_MICROSOFT: Final = {"domain": "com.microsoft"}
_IDS, _MASK, _LOGITS = "input_ids", "attention_mask", "logits"
_PAST, _PRESENT, _PARTS = "past_key_values.%d.", "present.%d.", ("key", "value")


class Decoder:
    """Operators of a decoder; weights are written when operators ask for them.

    Raises
    ------
    ModelError
        The architecture is not one that is read, or a size is missing.
    """

    def __init__(self, file: GGUF) -> None:
        self._file, own = file, file.architecture
        if own not in _INTERLEAVED:
            raise file.refusal(
                f"its architecture is {own!r}; those that are read are "
                f"{' and '.join(_INTERLEAVED)}",
                "export the model with onnxruntime-genai's model builder, and build that folder",
            )
        self._layers, self._hidden = file.size("block_count"), file.size("embedding_length")
        self._heads = file.size("attention.head_count")
        self._keys = file.size("attention.head_count_kv", self._heads)
        self._head = file.size("attention.key_length", self._hidden // max(self._heads, 1))
        self._context = min(file.size("context_length"), _MOST_POSITIONS)
        self._epsilon = file.value(f"{own}.attention.layer_norm_rms_epsilon", float)
        turned = file.size("rope.dimension_count", self._head)
        scaling = file.value(f"{own}.rope.scaling.type", str, "none")
        if turned != self._head or scaling != "none":
            raise file.refusal(
                f"positions turn {turned} of the {self._head} numbers of a head, scaled by "
                f"{scaling!r}; all numbers without scaling are read"
            )
        self._nodes: list[onnx.NodeProto] = []
        self._small: dict[str, onnx.TensorProto] = {}
        self._sums: dict[tuple[str, int], str] = {}
        self._unused = set(file.tensors)

    def config(self, filename: str) -> dict[str, Any]:
        """The part of ``genai_config.json`` about the model, without its tokens."""
        inputs, outputs = (
            {f"{when}_{part}_names": f"{name}{part}" for part in _PARTS}
            for when, name in (("past", _PAST), ("present", _PRESENT))
        )
        decoder = {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": filename,
            "head_size": self._head,
            "hidden_size": self._hidden,
            "num_attention_heads": self._heads,
            "num_hidden_layers": self._layers,
            "num_key_value_heads": self._keys,
            "inputs": {_IDS: _IDS, _MASK: _MASK, **inputs},
            "outputs": {_LOGITS: _LOGITS, **outputs},
        }
        return {
            "type": self._file.architecture,
            "context_length": self._context,
            "vocab_size": int(self._tensor("token_embd.weight").shape[1]),
            "decoder": decoder,
        }

    def write(self, path: Path) -> None:
        """Write the model to ``path`` and its weights to ``.data``, a piece of a weight at a time.

        Raises
        ------
        ModelError
            A tensor is missing, not known, or of a type that is not read.
        OSError
            A file can't be written.
        """
        import onnx
        from onnx import TensorProto, helper

        def value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype, ["batch_size", *shape])

        def cache(name: str, length: str) -> list[onnx.ValueInfoProto]:
            names = [name % layer + part for layer in range(self._layers) for part in _PARTS]
            shape = self._keys, length, self._head
            return [value(name, TensorProto.FLOAT, *shape) for name in names]

        data = path.with_name(f"{path.name}.data")
        with data.open("wb") as stored:
            self._weights = Weights(stored, data.name)
            vocabulary = self._write_operators()
        sequence, total = "sequence_length", "total_sequence_length"
        ids, mask = value(_IDS, TensorProto.INT64, sequence), value(_MASK, TensorProto.INT64, total)
        graph = helper.make_graph(
            self._nodes,
            self._file.path.stem,
            [ids, mask, *cache(_PAST, "past_sequence_length")],
            [value(_LOGITS, TensorProto.FLOAT, sequence, vocabulary), *cache(_PRESENT, total)],
            [*self._small.values(), *self._weights.tensors],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)

    def _write_operators(self) -> int:
        """Write all operators; returns the number of tokens of the vocabulary."""
        write, table = self._write, self._tensor("token_embd.weight")
        hidden, shared = self._rows(table), [*self._lengths(), *self._angles()]
        norm = {"axis": -1, "stash_type": 1, "epsilon": self._epsilon}
        given = [hidden, self._vector("blk.0.attn_norm.weight")]
        normed = write("SimplifiedLayerNormalization", given, "normed", **norm)
        for layer in range(self._layers):
            name = f"blk.{layer}"
            heads = [self._dense(normed, f"{name}.attn_{part}") for part in "qkv"]
            past, present = ([n % layer + part for part in _PARTS] for n in (_PAST, _PRESENT))
            mixed = write(
                "GroupQueryAttention",
                [*heads, *past, *shared],
                f"{name}.mixed",
                *present,
                num_heads=self._heads,
                kv_num_heads=self._keys,
                do_rotary=1,
                rotary_interleaved=_INTERLEAVED[self._file.architecture],
                **_MICROSOFT,
            )
            added = self._dense(mixed, f"{name}.attn_output")
            normed, hidden = self._norm_of_sum(hidden, added, f"{name}.ffn_norm")
            gate, up = (self._dense(normed, f"{name}.ffn_{part}") for part in ("gate", "up"))
            opened = write(
                "Mul", [gate, write("Sigmoid", [gate], f"{name}.open")], f"{name}.opened"
            )
            added = self._dense(write("Mul", [opened, up], f"{name}.gated"), f"{name}.ffn_down")
            following = f"blk.{layer + 1}.attn_norm" if layer + 1 < self._layers else "output_norm"
            normed, hidden = self._norm_of_sum(hidden, added, following)
        if "output.weight" in self._unused:
            self._dense(normed, "output", _LOGITS)
        elif table.tensor_type.name in BLOCK_TYPES:
            self._product(normed, table, _LOGITS)
        else:
            columns = write("Transpose", [table.name], "token_embd.columns", perm=[1, 0])
            write("MatMul", [normed, columns], _LOGITS)
        if self._unused:
            raise self._file.refusal(
                f"it has tensors that are not known of a {self._file.architecture}: "
                f"{', '.join(sorted(self._unused)[:3])}"
            )
        return int(table.shape[1])

    def _lengths(self) -> tuple[str, str]:
        """Number of the last token of each row, and of all tokens, as the attention takes them."""
        one, int32 = self._constant("one", np.array([1])), 6
        last = self._write("Sub", [self._sum(_MASK, one, "tokens"), one], "last")
        size = self._write("Shape", [_MASK], "mask_shape")
        total = self._write("Gather", [size, self._constant("second", np.array(1))], "total")
        last = self._write("Cast", [last], "last_int32", to=int32)
        return last, self._write("Cast", [total], "total_int32", to=int32)

    def _angles(self) -> Sequence[str]:
        """Cosines and sines of the angles by which positions turn pairs of numbers."""
        exponents, own = np.arange(0, self._head, 2) / self._head, self._file.architecture
        steps = self._file.value(f"{own}.rope.freq_base", float, 1e4) ** -exponents
        if "rope_freqs.weight" in self._unused:
            steps = steps / self._numbers("rope_freqs.weight")
        angles = np.outer(np.arange(self._context), steps)
        return [
            self._weights.add(turn.__name__, "float32", angles.shape, [turn(angles).astype("f4")])
            for turn in (np.cos, np.sin)
        ]

    def _rows(self, table: ReaderTensor) -> str:
        """Embeddings of the tokens: rows of the table."""
        kind, name = BLOCK_TYPES.get(table.tensor_type.name), table.name
        if kind is not None:
            self._weights.blocks(table)
        if kind is None or kind.has_offsets:
            name = self._weights.floats(table, f"{name}.rows" if kind else name)
            return self._write("Gather", [name, _IDS], "embeddings", axis=0)
        size = self._constant("row", np.array([-1, self._hidden * kind.bits // 8]))
        given = [self._write("Reshape", [name, size], "rows"), _IDS, f"{name}.scales"]
        sizes = {
            "bits": kind.bits,
            "block_size": kind.block_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        return self._write("GatherBlockQuantized", given, "embeddings", **sizes, **_MICROSOFT)

    def _dense(self, value: str, name: str, output: str = "") -> str:
        """Product with a weight, and the bias that it may have."""
        output, weight = output or name, self._tensor(f"{name}.weight")
        if weight.tensor_type.name in BLOCK_TYPES:
            self._weights.blocks(weight)
        else:
            self._weights.floats(weight, transposed=True)
        if f"{name}.bias" not in self._unused:
            return self._product(value, weight, output)
        product = self._product(value, weight, f"{output}.product")
        return self._write("Add", [product, self._vector(f"{name}.bias")], output)

    def _product(self, value: str, weight: ReaderTensor, output: str) -> str:
        """Product with a weight that is written."""
        kind, name = BLOCK_TYPES.get(weight.tensor_type.name), weight.name
        if kind is None:
            return self._write("MatMul", [value, name], output)
        columns, rows = map(int, weight.shape)
        # An accuracy level of 4 rounds what is multiplied to 8 bits, in blocks.
        sizes = {"bits": kind.bits, "block_size": kind.block_size, "accuracy_level": 4}
        product = f"{output}.scaled" if kind.has_offsets else output
        given = [value, name, f"{name}.scales"]
        self._write("MatMulNBits", given, product, N=rows, K=columns, **sizes, **_MICROSOFT)
        if not kind.has_offsets:
            return product
        # Zero points of floats would do it in one, but ONNX Runtime packs no such weights.
        sums = self._block_sums(value, columns // kind.block_size)
        added = self._write("MatMul", [sums, f"{name}.offsets"], f"{output}.offset")
        return self._write("Add", [product, added], output)

    def _block_sums(self, value: str, count: int) -> str:
        """Sum of each block of the last axis, once for all products of a value."""
        if (value, count) not in self._sums:
            shape = self._constant(f"{count}_blocks", np.array([0, 0, count, -1]))
            blocks = self._write("Reshape", [value, shape], f"{value}.blocks")
            axis = self._constant("last_axis", np.array([-1]))
            self._sums[value, count] = self._sum(blocks, axis, f"{value}.sums")
        return self._sums[value, count]

    def _sum(self, value: str, axis: str, output: str) -> str:
        return self._write("ReduceSum", [value, axis], output, keepdims=0)

    def _norm_of_sum(self, value: str, added: str, name: str) -> tuple[str, str]:
        """The sum normed, and the sum."""
        given, total = [value, added, self._vector(f"{name}.weight")], f"{name}.sum"
        outputs, kind = (f"{name}.normed", "", "", total), "SkipSimplifiedLayerNormalization"
        return self._write(kind, given, *outputs, epsilon=self._epsilon, **_MICROSOFT), total

    def _vector(self, name: str) -> str:
        return self._constant(name, self._numbers(name))

    def _numbers(self, name: str) -> npt.NDArray[np.float32]:
        tensor = self._tensor(name, FLOAT_TYPES)
        return floats(tensor.data, tensor.tensor_type.name)

    def _tensor(
        self, name: str, types: Sequence[str] = (*BLOCK_TYPES, *FLOAT_TYPES)
    ) -> ReaderTensor:
        tensor = self._file.tensors.get(name)
        if tensor is None:
            raise self._file.refusal(f"it has no tensor {name!r}")
        if (kind := tensor.tensor_type.name) not in types:
            raise self._file.refusal(
                f"{name} is of the type {kind}; those that are read are {', '.join(types)}",
                "fetch another file of this model, such as its Q4_0 or Q8_0",
            )
        self._unused.discard(name)
        return tensor

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """A small constant, which is in the model's file; returns its name."""
        from onnx import numpy_helper

        self._small.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def _write(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add an operator; returns its first output."""
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], **attributes))
        return outputs[0]
