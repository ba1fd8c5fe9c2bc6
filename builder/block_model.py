"""One block of an engine as an ONNX file with its weights, for tools that run or reduce models."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import onnx

from swapnet.errors import InputError
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.engine import Engine
from swapnet.executor.planning.plan import Read
from swapnet.executor.swapping.loading import fill
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.files import replacing
from swapnet.manifest import WEIGHTS, Extent
from swapnet.tensors import ONNX_TYPES

__all__ = ["save_block", "stored_bytes"]


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
    stored = {w.name: (e, w) for e, weights in manifest.stored_for(index) for w in weights}
    external = [t for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    values = [value for value in model.graph.input if value.name not in stored]
    with closing(WeightFile(folder / WEIGHTS, LoadMode.BUFFERED)) as file:
        for name in (value.name for value in model.graph.input if value.name in stored):
            extent, weight = stored[name]
            model.graph.initializer.add(
                name=name,
                data_type=ONNX_TYPES[weight.dtype],
                dims=weight.shape,
                raw_data=stored_bytes(file, extent, weight.offset, weight.nbytes),
            )
        for tensor in external:
            fields = {entry.key: entry.value for entry in tensor.external_data}
            place = int(fields["offset"]), int(fields["length"])
            tensor.raw_data = stored_bytes(file, Extent(0, manifest.weights_nbytes), *place)
            tensor.data_location = tensor.DEFAULT
            del tensor.external_data[:]
    del model.graph.input[:]
    model.graph.input.extend(values)
    with replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())


def stored_bytes(file: WeightFile, extent: Extent, offset: int, nbytes: int) -> bytes:
    """Bytes of a tensor in an extent, as in memory."""
    start, place = offset - extent.offset, bytearray(nbytes)
    source = extent.file_offset(start)
    stored = extent.file_offset(start + nbytes) - source
    fill(file, memoryview(place), Read(0, source, 0, nbytes, 0, stored, extent.codec))
    return bytes(place)
