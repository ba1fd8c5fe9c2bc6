"""The graph of a Llama-like decoder with weights of a GGUF file, as onnxruntime-genai has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from swapnet.builder.importing.gguf.file import GGUF
from swapnet.builder.importing.gguf.weights import (
    BLOCK_TYPES,
    FLOAT_TYPES,
    Weights,
    floats,
    parts,
)
from swapnet.errors import InputError
from swapnet.input_checks import whole_number
from swapnet.tensors import ONNX_TYPES

if TYPE_CHECKING:
    import onnx
    from gguf import ReaderTensor

__all__ = ["Decoder"]

_INTERLEAVED: Final = {"llama": 1, "qwen2": 0}
"""Architectures that are read, and whether the numbers that turn together are neighbours:
convert_hf_to_gguf.py reorders rows of Llama's queries and keys that way."""

_MOST_POSITIONS = 8192
"""Rows of the tables of angles where no context is asked for: all blocks share them, so they stay
in memory."""

_MICROSOFT: Final = {"domain": "com.microsoft"}
_FLOAT, _INT32, _INT64 = (ONNX_TYPES[dtype] for dtype in ("float32", "int32", "int64"))
_IDS, _MASK, _LOGITS = "input_ids", "attention_mask", "logits"
_PAST, _PRESENT, _PARTS = "past_key_values.%d.", "present.%d.", ("key", "value")


class Decoder:
    """Operators of a decoder, and weights as operators ask for them; as `import_gguf`."""

    def __init__(self, file: GGUF, context: int | None = None) -> None:
        self._file, own = file, file.architecture
        if own not in _INTERLEAVED:
            raise file.refusal(
                f"its architecture is {own!r}; those that are read are {', '.join(_INTERLEAVED)}",
                "export the model with onnxruntime-genai's model builder, and build that folder",
            )
        self._unused = set(file.tensors)
        for name, tensor in file.tensors.items():
            if (kind := tensor.tensor_type.name) not in (*BLOCK_TYPES, *FLOAT_TYPES):
                raise file.refusal(
                    f"{name} is of the type {kind}; those that are read are "
                    f"{', '.join((*BLOCK_TYPES, *FLOAT_TYPES))}",
                    "fetch another file of this model, such as its Q4_0 or Q8_0",
                )
        self._layers, self._hidden = file.size("block_count"), file.size("embedding_length")
        self._heads = file.size("attention.head_count")
        self._keys = file.size("attention.head_count_kv", self._heads)
        self._head = file.size("attention.key_length", self._hidden // self._heads)
        longest = file.size("context_length")
        usual = min(longest, _MOST_POSITIONS)
        self._context = usual if context is None else whole_number("context", context)
        if self._context > longest:
            raise InputError(
                f"a context of {context} tokens is too long",
                why=f"the model in {file.path} learnt {longest}",
                hint=f"give at most {longest}, or leave the context out",
            )
        self._norm = {"epsilon": file.value(f"{own}.attention.layer_norm_rms_epsilon", float)}
        turned = file.size("rope.dimension_count", self._head)
        scaling = file.value(f"{own}.rope.scaling.type", str, "linear")
        if turned != self._head or scaling not in ("none", "linear"):
            raise file.refusal(
                f"positions turn {turned} of the {self._head} numbers of a head, scaled by "
                f"{scaling!r}; all numbers are read, scaled by 'linear' or not"
            )
        # An older key is read where the other is missing, as llama-model.cpp does.
        older = file.value(f"{own}.rope.scale_linear", float, 0.0)
        factor = file.value(f"{own}.rope.scaling.factor", float, older)
        self._stretch = (scaling == "linear" and factor) or 1.0
        width, self._vocabulary = self._tensor("token_embd.weight").shape.tolist()
        queries = self._tensor("blk.0.attn_q.weight").shape.tolist()
        if (wanted := [self._hidden, self._heads * self._head]) != queries or width != wanted[0]:
            raise file.refusal(
                f"its tables are {width} wide, and its queries {queries}; sizes ask for {wanted}"
            )
        self._nodes: list[onnx.NodeProto] = []
        self._small: dict[str, onnx.TensorProto] = {}
        self._sums: dict[str, str] = {}

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
        model = {"type": self._file.architecture, "decoder": decoder}
        return {**model, "context_length": self._context, "vocab_size": self._vocabulary}

    def write(self, path: Path) -> None:
        """Write the model to ``path`` and its weights to ``.data``; raises as `import_gguf`."""
        import onnx
        from onnx import helper

        def value(name: str, *shape: int | str, dtype: int = _INT64) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype, ["batch_size", *shape])

        def cache(name: str, length: str) -> list[onnx.ValueInfoProto]:
            names = [name % layer + part for layer in range(self._layers) for part in _PARTS]
            shape = self._keys, length, self._head
            return [value(name, *shape, dtype=_FLOAT) for name in names]

        data = path.with_name(f"{path.name}.data")
        with data.open("wb") as stored:
            self._weights = Weights(stored, data.name)
            self._write_operators()
        if self._unused:
            raise self._file.refusal(
                f"it has tensors that are not known of a {self._file.architecture}: "
                f"{', '.join(sorted(self._unused)[:3])}"
            )
        count, total = "sequence_length", "total_sequence_length"
        logits = value(_LOGITS, count, self._vocabulary, dtype=_FLOAT)
        graph = helper.make_graph(
            self._nodes,
            self._file.path.stem,
            [value(_IDS, count), value(_MASK, total), *cache(_PAST, "past_sequence_length")],
            [logits, *cache(_PRESENT, total)],
            [*self._small.values(), *self._weights.tensors],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)

    def _write_operators(self) -> None:
        write, norm = self._write, {"axis": -1, "stash_type": 1, **self._norm}
        hidden, shared = self._rows(), [*self._lengths(), *self._angles()]
        given = [hidden, self._vector("blk.0.attn_norm.weight")]
        normed = write("SimplifiedLayerNormalization", given, "normed", **norm)
        for layer in range(self._layers):
            name = f"blk.{layer}"
            heads = [self._product(normed, f"{name}.attn_{part}") for part in "qkv"]
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
            added = self._product(mixed, f"{name}.attn_output")
            normed, hidden = self._norm_of_sum(hidden, added, f"{name}.ffn_norm")
            gate, up = (self._product(normed, f"{name}.ffn_{part}") for part in ("gate", "up"))
            opened = write(
                "Mul", [gate, write("Sigmoid", [gate], f"{name}.open")], f"{name}.opened"
            )
            added = self._product(write("Mul", [opened, up], f"{name}.gated"), f"{name}.ffn_down")
            following = f"blk.{layer + 1}.attn_norm" if layer + 1 < self._layers else "output_norm"
            normed, hidden = self._norm_of_sum(hidden, added, following)
        is_tied = "output.weight" not in self._unused
        self._product(normed, "token_embd" if is_tied else "output", _LOGITS)

    def _rows(self) -> str:
        """Embeddings of the tokens: rows of the table."""
        table = self._tensor("token_embd.weight")
        kind, name = BLOCK_TYPES.get(table.tensor_type.name), table.name
        if kind is not None and kind.has_offsets:
            kind, name = None, self._weights.floats(table, f"{name}.rows")
        else:
            self._weights.matrix(table)
        if kind is None:
            return self._write("Gather", [name, _IDS], "embeddings", axis=0)
        size = self._constant("row", np.array([-1, self._hidden * kind.bits // 8]))
        given = [self._write("Reshape", [name, size], "rows"), _IDS, f"{name}.scales"]
        sizes = {"bits": kind.bits, "block_size": kind.block_size, "gather_axis": 0}
        return self._write(
            "GatherBlockQuantized", given, "embeddings", quantize_axis=1, **sizes, **_MICROSOFT
        )

    def _lengths(self) -> tuple[str, str]:
        """Number of the last token of each row, and of all tokens, as the attention takes them."""
        one = self._constant("one", np.array([1]))
        count = self._write("ReduceSum", [_MASK, one], "tokens", keepdims=0)
        last = self._write("Sub", [count, one], "last")
        size = self._write("Shape", [_MASK], "mask_shape")
        total = self._write("Gather", [size, self._constant("second", np.array(1))], "total")
        last = self._write("Cast", [last], "last_int32", to=_INT32)
        return last, self._write("Cast", [total], "total_int32", to=_INT32)

    def _angles(self) -> Sequence[str]:
        """Cosines and sines of the angles by which positions turn pairs of numbers."""
        exponents, own = np.arange(0, self._head, 2) / self._head, self._file.architecture
        steps = self._file.value(f"{own}.rope.freq_base", float, 1e4) ** -exponents
        if "rope_freqs.weight" in self._unused:
            steps = steps / self._numbers("rope_freqs.weight")
        shape, steps = (self._context, len(steps)), steps / self._stretch

        def rows(turn: Callable[..., Any]) -> Iterator[npt.NDArray[np.float32]]:
            for part in parts(*shape):
                yield turn(np.outer(np.arange(part.start, part.stop), steps)).astype("f4")

        turns = ("cos", np.cos), ("sin", np.sin)
        return [self._weights.add(name, "float32", shape, rows(turn)) for name, turn in turns]

    def _product(self, value: str, name: str, output: str = "") -> str:
        """Product with a weight, and the bias that it may have."""
        weight, output = self._tensor(f"{name}.weight"), output or name
        added, kind = [], self._weights.matrix(weight)
        if kind is not None and kind.has_offsets:
            # Zero points of floats would do it in one, but ONNX Runtime packs no such weights.
            sums = [self._block_sums(value, kind.block_size), f"{weight.name}.offsets"]
            added = [self._write("MatMul", sums, f"{output}.offset")]
        if f"{name}.bias" in self._unused:
            added.append(self._vector(f"{name}.bias"))
        made = self._scaled(value, weight, f"{output}.product" if added else output)
        for number, addend in enumerate(added, 1):
            total = output if number == len(added) else f"{output}.sum"
            made = self._write("Add", [made, addend], total)
        return made

    def _scaled(self, value: str, weight: ReaderTensor, output: str) -> str:
        """Product without offsets."""
        kind, name = BLOCK_TYPES.get(weight.tensor_type.name), weight.name
        if kind is None:
            columns = self._write("Transpose", [name], f"{name}.columns", perm=[1, 0])
            return self._write("MatMul", [value, columns], output)
        # An accuracy level of 4 rounds what is multiplied to 8 bits, in blocks.
        sizes = {"bits": kind.bits, "block_size": kind.block_size, "accuracy_level": 4}
        sizes |= dict(zip("KN", weight.shape.tolist(), strict=True))
        given = [value, name, f"{name}.scales"]
        return self._write("MatMulNBits", given, output, **sizes, **_MICROSOFT)

    def _block_sums(self, value: str, size: int) -> str:
        """Sum of each block of the last axis, once for all products of a value."""
        if value not in self._sums:
            shape = self._constant(f"blocks_of_{size}", np.array([0, 0, -1, size]))
            blocks = self._write("Reshape", [value, shape], f"{value}.blocks")
            given = [blocks, self._constant("last_axis", np.array([-1]))]
            self._sums[value] = self._write("ReduceSum", given, f"{value}.sums", keepdims=0)
        return self._sums[value]

    def _norm_of_sum(self, value: str, added: str, name: str) -> tuple[str, str]:
        """The sum normed, and the sum."""
        given, total = [value, added, self._vector(f"{name}.weight")], f"{name}.sum"
        outputs, kind = (f"{name}.normed", "", "", total), "SkipSimplifiedLayerNormalization"
        return self._write(kind, given, *outputs, **self._norm, **_MICROSOFT), total

    def _vector(self, name: str) -> str:
        return self._constant(name, self._numbers(name))

    def _numbers(self, name: str) -> npt.NDArray[np.float32]:
        tensor = self._tensor(name, axes=1)
        return floats(tensor.data, tensor.tensor_type.name)

    def _tensor(self, name: str, axes: int = 2) -> ReaderTensor:
        tensor = self._file.tensors.get(name)
        if tensor is None or len(tensor.shape) != axes:
            raise self._file.refusal(f"it has no {axes}-D tensor {name!r}")
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
