"""Let ONNX Runtime pack the constants of a block, and lay out what it saves: blobs on own pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import onnx

from swapnet.builder.importing.graph import Constant, copied
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.errors import ModelError
from swapnet.executor.backends.windows import addresses_of
from swapnet.executor.swapping.arena import can_lend
from swapnet.machine import mappings_of
from swapnet.manifest import WEIGHTS, WINDOW_ALIGNMENT, Window
from swapnet.tensors import external_tensor
from swapnet.units import align_up

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Packed", "is_compared", "pack", "unpacked_copies"]

_PREPACKED = "prepacked_"
"""Begin of the keys of external data that name packed blobs: ``KEY|offset;length;flags|…``."""

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Packed:
    """A block's model with external data, and the file that holds it.

    Attributes
    ----------
    model
        Constants lie at the file's offsets, the packed blobs beside them.
    file
        Originals and blobs, each from a multiple of `WINDOW_ALIGNMENT` on.
    windows
        Places in the file that kernels read, in order.
    originals
        Place of each constant in the file.
    """

    model: onnx.ModelProto
    file: Path
    windows: tuple[Window, ...]
    originals: Mapping[str, Window]

    @property
    def in_place(self) -> frozenset[str]:
        """Constants that kernels read as they are."""
        places = {window.offset for window in self.windows}
        return frozenset(n for n, place in self.originals.items() if place.offset in places)

    def placed(self, offsets: Mapping[int, int], originals: Mapping[str, int]) -> bytes:
        """The model with its external data in ``weights.bin``.

        Parameters
        ----------
        offsets
            Place of each window by its offset in the file.
        originals
            Place of each constant that is not read in place.
        """
        model = copied(self.model)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = WEIGHTS
                elif entry.key == "offset":
                    here = int(entry.value)
                    entry.value = str(offsets[here] if here in offsets else originals[tensor.name])
                elif entry.key.startswith(_PREPACKED):
                    entry.value = _moved(entry.value, offsets)
        encoded: bytes = model.SerializeToString(deterministic=True)
        return encoded


def pack(model: onnx.ModelProto, constants: Sequence[Constant], file: Path) -> Packed:
    """Pack the constants of a block.

    Parameters
    ----------
    model
        The block without these constants.
    constants
        Those that its kernels read packed, or in place.
    file
        File to write.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the block.
    """
    model = copied(model)
    originals: dict[str, Window] = {}
    with file.open("wb") as out:
        for constant in constants:
            place = _append(out, constant.name, constant.bytes().data)
            originals[constant.name] = place
            model.graph.initializer.append(
                external_tensor(
                    constant.name,
                    constant.dtype,
                    constant.shape,
                    *(file.name, place.offset, constant.nbytes),
                )
            )
    saved, data = file.with_suffix(".saved.onnx"), file.with_suffix(".saved.data")
    options = _options(file.parent)
    for key, value in {
        "session.save_external_prepacked_constant_initializers": "1",
        "session.optimized_model_external_initializers_file_name": data.name,
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    }.items():
        options.add_session_config_entry(key, value)
    options.optimized_model_filepath = str(saved)
    open_session(model.SerializeToString(), options, name=model.graph.name)
    entries = {
        tensor.name: [e for e in tensor.external_data if e.key.startswith(_PREPACKED)]
        for tensor in onnx.load_model(saved, load_external_data=False).graph.initializer
        if tensor.name in originals
    }
    blobs = {b: w for w, found in entries.items() for e in found for b in _blobs(e.value)}
    windows: dict[int, Window] = {}
    with file.open("ab") as out, data.open("rb") as source:
        for (start, nbytes), name in blobs.items():
            windows[start] = _append(out, name, b"")
            source.seek(start)
            for piece in range(0, nbytes, _PIECE_BYTES):
                out.write(source.read(min(_PIECE_BYTES, nbytes - piece)))
            windows[start] = Window(name, windows[start].offset, nbytes)
        _append(out, "", b"")  # whole pages can be mapped
    saved.unlink()
    data.unlink()
    places = {start: window.offset for start, window in windows.items()}
    for tensor in model.graph.initializer:
        for entry in entries.get(tensor.name, ()):
            tensor.external_data.add(key=entry.key, value=_moved(entry.value, places))
    kept = _kept(model, [*originals.values(), *windows.values()], originals, file)
    return Packed(model, file, kept, originals)


def unpacked_copies(packed: Packed, constants: Sequence[Constant]) -> list[str]:
    """Large constants that kernels keep copies of: they read neither them nor what was packed."""
    windows = {window.name for window in packed.windows}
    if not can_lend():
        return [constant.name for constant in constants]
    read = windows | _unread(packed.model, packed.windows, packed.originals)
    return [c.name for c in constants if c.nbytes >= WINDOW_ALIGNMENT and c.name not in read]


def is_compared(packed: Packed) -> bool:
    """Whether a session notices blobs that other kernels packed; changes the file of ``packed``."""
    with packed.file.open("r+b") as file:
        for window in packed.windows:
            if window not in packed.originals.values():
                file.seek(window.offset)
                start = file.read(64)
                file.seek(window.offset)
                file.write(bytes(byte ^ 0xFF for byte in start))
    encoded = packed.model.SerializeToString()
    try:
        open_session(encoded, _options(packed.file.parent), name=packed.model.graph.name)
    except ModelError:
        return True
    return False


def _kept(
    model: onnx.ModelProto,
    places: Sequence[Window],
    originals: Mapping[str, Window],
    file: Path,
) -> tuple[Window, ...]:
    """Places that a session of the model maps and reads."""
    encoded = model.SerializeToString()
    session = open_session(encoded, _options(file.parent), name=model.graph.name)
    mapped = mappings_of(file)
    found = [place for place in places if addresses_of(place, mapped)]
    del session
    unread = _unread(model, found, originals)
    return tuple(w for w in found if w not in originals.values() or w.name not in unread)


def _unread(
    model: onnx.ModelProto, windows: Sequence[Window], originals: Mapping[str, Window]
) -> set[str]:
    """Scales and zero points that MatMulNBits has packed with its weight: the blob holds them."""
    unread: set[str] = set()
    used: set[str] = set()
    packed = [window for window in windows if window not in originals.values()]
    for node in model.graph.node:
        names = {name for name in node.input if name in originals}
        if node.op_type == "MatMulNBits":
            parameters = names & set(node.input[2:4])
            held = sum(originals[name].nbytes for name in node.input[1:3] if name in originals)
            if any(w.name == node.input[1] and w.nbytes >= held for w in packed):
                unread |= parameters
                names -= parameters
        used |= names
    return unread - used


def _options(folder: Path) -> ort.SessionOptions:
    options = quiet_options(optimise=False, packs=True, threads=1)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    return options


def _append(out: BinaryIO, name: str, data: bytes | memoryview) -> Window:
    offset = align_up(out.tell(), WINDOW_ALIGNMENT)
    out.write(bytes(offset - out.tell()))
    out.write(data)
    return Window(name, offset, len(data))


def _blobs(value: str) -> list[tuple[int, int]]:
    """Offset and length of each blob of an entry."""
    blobs = (blob.split(";") for blob in value.split("|")[1:])
    return [(int(offset), int(length)) for offset, length, *_ in blobs if int(length)]


def _moved(value: str, offsets: Mapping[int, int]) -> str:
    key, *blobs = value.split("|")
    fields = [blob.split(";") for blob in blobs]
    moved = [";".join([str(offsets.get(int(f[0]), f[0])), *f[1:]]) for f in fields]
    return "|".join([key, *moved])
