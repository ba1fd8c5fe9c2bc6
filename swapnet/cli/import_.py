"""``swapnet import``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.cli.console import progress, say
from swapnet.cli.options import PATH
from swapnet.files import folder_bytes
from swapnet.units import format_size

__all__ = ["command"]


@click.command("import")
@click.argument("model", metavar="FILE.gguf", type=PATH)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=PATH,
    help="Folder to write. [default: the file's name]",
)
@click.option(
    "--context",
    type=int,
    metavar="N",
    help="Most tokens that the model takes. [default: as it learnt, at most 8192]",
)
def command(model: Path, output: Path | None, context: int | None) -> None:
    """Write FILE.gguf as the ONNX folder that onnxruntime-genai reads, with its tokenizer.

    Blocks of weights stay as they are. swapnet build takes the file itself as well.
    """
    from swapnet.builder.importing.gguf.importer import import_gguf

    folder = output or Path(model.stem)
    with progress(folder.name, lines=False) as report:
        report("import", 0, 1)
        import_gguf(model, folder, context=context)
    say(f"{folder}: {format_size(folder_bytes(folder))}")
