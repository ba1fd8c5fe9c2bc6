"""A build in a process of its own: its memory returns to the system, and the kernel may end it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from swapnet.builder.importing.gguf.importer import imported
from swapnet.builder.importing.inputs import inputs_of
from swapnet.builder.importing.source import open_source
from swapnet.builder.needs import needed_bytes
from swapnet.builder.options import BuildOptions
from swapnet.builder.stages import build_into
from swapnet.builder.writing.directory import build_folders, filling, target_of
from swapnet.data.samples import samples_of
from swapnet.data.spool import spool
from swapnet.errors import BackendError
from swapnet.executor.probing.activations import MODULE as MEASURING
from swapnet.files import working_folder
from swapnet.machine import usable_memory_bytes
from swapnet.manifest import Manifest, load_manifest
from swapnet.process.child import Child, forked
from swapnet.process.failure import ProcessDied
from swapnet.process.serve import Parent, Reached, serve
from swapnet.progress import Progress
from swapnet.units import format_size

__all__ = ["MODULE", "build_in_child"]

_LOGGER = logging.getLogger("swapnet")

MODULE = "swapnet.builder.child"


class Job(msgspec.Struct, frozen=True):
    """Model to build, and what it was imported from; the engine is ``target``, for messages."""

    options: BuildOptions
    model: str
    origin: str
    target: str


class Folders(msgspec.Struct, frozen=True):
    """Folders of the parent, which removes them however this process ends."""

    staging: str
    work: str


class Read(msgspec.Struct, frozen=True, tag=True):
    """The model is read: the build needs about this much memory."""

    needed_bytes: int


class Warned(msgspec.Struct, frozen=True, tag=True):
    """A warning of SwapNet's logger, which the parent's says."""

    text: str


class Built(msgspec.Struct, frozen=True, tag=True):
    """The last answer."""


def build_in_child(
    options: BuildOptions,
    model: str | Path,
    folder: str | Path,
    *,
    progress: Progress,
    announce: Callable[[int], None] | None = None,
) -> Manifest:
    """Build in a child process; nothing stays behind if the kernel kills it.

    Parameters
    ----------
    options, model, folder, progress
        As for `swapnet.builder.build_with`.
    announce
        Called with the memory that the build needs, in bytes, before it starts.

    Raises
    ------
    SwapnetError
        As `swapnet.builder.build_with`.
    BackendError
        The process was killed, or died of another cause.
    """
    target = str(target_of(Path(folder)))
    progress("read", 0, 1)
    read = Read(0)
    with (
        imported(Path(model), Path(target).absolute().parent) as path,
        _sendable(options.checked(), path) as sendable,
        _explained(target, lambda: read.needed_bytes),
        Child(MODULE, "the process that builds") as child,
    ):
        child.tell(Job(sendable, str(path), str(model), target))
        read = msgspec.convert(child.hear(), Read)
        if announce is not None:
            announce(read.needed_bytes)
        # The child ends before its folders are removed: it would go on writing into them.
        with build_folders(Path(folder)) as (staging, work), closing(child):
            child.tell(Folders(str(staging), str(work)))
            while not isinstance(answer := _answer(child), Built):
                if isinstance(answer, Warned):
                    _LOGGER.warning("%s", answer.text)
                else:
                    progress(answer.stage, answer.done, answer.total)
    return load_manifest(target_of(Path(folder)))


@contextmanager
def _sendable(options: BuildOptions, model: Path) -> Iterator[BuildOptions]:
    """The options with the name of a folder in place of data that is in this process's memory."""
    if options.data is None or isinstance(options.data, (str, Path)):
        yield replace(options, data=options.data and str(options.data))
        return
    inputs = inputs_of(open_source(model).proto.graph)
    with working_folder("swapnet-data-") as folder:
        spool(samples_of(options.data, inputs, options.shapes), inputs, folder)
        yield replace(options, data=str(folder))


def _answer(child: Child) -> Reached | Warned | Built:
    return msgspec.convert(child.hear(), Reached | Warned | Built)


class _ToParent(logging.Handler):
    def __init__(self, parent: Parent) -> None:
        super().__init__(logging.WARNING)
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        self._parent.answer(Warned(record.getMessage()))


@contextmanager
def _explained(target: str, needed_bytes: Callable[[], int]) -> Iterator[None]:
    """Say what is known of memory where a child was killed; 0 where the model was not read."""
    try:
        yield
    except ProcessDied as error:
        if not error.was_killed:
            raise
        nbytes = needed_bytes()
        needed = f"it needs at most about {format_size(nbytes)}, " if nbytes else ""
        raise BackendError(
            f"{target} could not be built: {error.what}",
            why=f"{error.why}: {needed}{format_size(usable_memory_bytes())} is available",
            hint="free some memory, or build with --portable on a larger machine and copy the "
            "folder",
        ) from error


def work(parent: Parent) -> None:
    """Build what the parent asks for."""
    import onnxruntime  # noqa: F401 - before the fork, so that it is loaded once

    with forked(MEASURING):
        _build(parent)


def _build(parent: Parent) -> None:
    job = parent.job(Job)
    source = open_source(Path(job.model), Path(job.origin))
    read = Read(needed_bytes(source, job.options))
    parent.answer(read)
    handler = _ToParent(parent)
    _LOGGER.addHandler(handler)
    try:
        for folders in parent.commands(Folders):
            with filling(Path(job.target)), _explained(job.target, lambda: read.needed_bytes):
                build_into(
                    job.options,
                    source,
                    Path(folders.staging),
                    Path(folders.work),
                    parent.reached,
                )
            parent.answer(Built())
    finally:
        _LOGGER.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(serve(work))
