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
    what = f"block {index} of {folder} can't be written as ONNX"
    if not 0 <= index < len(manifest.blocks):
        raise InputError(
            what,
            why=f"the engine has {len(manifest.blocks)} blocks",
            hint=f"give a number from 0 to {len(manifest.blocks) - 1}",
        )
    block = manifest.blocks[index]
    if manifest.is_tensorrt or not block.is_graph:
        raise InputError(
            what,
            why=f"it is for {manifest.compiled.backend}"
            if manifest.is_tensorrt
            else "it looks up rows of a table, which has no operators",
            hint="give a block of operators of an engine for onnxruntime",
        )
    model = onnx.load_model_from_string(Skeletons(folder, manifest).read(index))
    stored = {weight.name: weight for weight in (*block.weights, *manifest.shared)}
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
    del model.graph.input[:]
    model.graph.input.extend(values)
    with replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
