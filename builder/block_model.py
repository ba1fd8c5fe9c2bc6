"""One block of an engine as an ONNX file with its weights, for tools that run or reduce models."""

from __future__ import annotations

from pathlib import Path

from swapnet.errors import InputError
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.engine import Engine
from swapnet.files import replacing
from swapnet.manifest import WEIGHTS
from swapnet.tensors import ONNX_TYPES

__all__ = ["save_block"]


def save_block(engine: Engine, index: int, target: Path) -> None:
    """Write a block to ``target``: the values that it reads are its inputs, weights are in it.

    Raises
    ------
    InputError
        There is no such block, or it is not ONNX.
    EngineError
        Its file is missing or was changed.
    StorageError
        The file can't be written.
    """
    import onnx

    manifest, folder = engine.manifest, engine.folder
    blocks, why = manifest.blocks, ""
    if not 0 <= index < len(blocks):
        why = f"the engine has the blocks 0 to {len(blocks) - 1}"
    elif manifest.is_tensorrt:
        why = f"{manifest.compiled.backend} has compiled it"
    elif not blocks[index].is_graph:
        why = "it looks up rows of a table, and has no operators"
    if why:
        raise InputError(
            f"block {index} of {folder} can't be written as ONNX",
            why=why,
            hint="give a block of operators, of an engine for onnxruntime",
        )
    model = onnx.load_model_from_string(Skeletons(folder, manifest).read(index))
    stored = {weight.name: weight for weight in manifest.weights_of(index)}
    external = [t for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    values = [value for value in model.graph.input if value.name not in stored]
    with (folder / WEIGHTS).open("rb") as file:
        for name in (value.name for value in model.graph.input if value.name in stored):
            weight = stored[name]
            file.seek(weight.offset)
            model.graph.initializer.add(
                name=name,
                data_type=ONNX_TYPES[weight.dtype],
                dims=weight.shape,
                raw_data=file.read(weight.nbytes),
            )
        for tensor in external:
            fields = {entry.key: entry.value for entry in tensor.external_data}
            file.seek(int(fields["offset"]))
            tensor.raw_data = file.read(int(fields["length"]))
            tensor.data_location = tensor.DEFAULT
            del tensor.external_data[:]
    del model.graph.input[:]
    model.graph.input.extend(values)
    with replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
