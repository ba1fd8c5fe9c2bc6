"""``swapnet inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.cli.console import print_table, print_text, say, write_json
from swapnet.cli.engine import about_weights, open_engine
from swapnet.cli.options import PATH, engine_argument, shapes_option
from swapnet.executor.bench.exports import operators_in
from swapnet.executor.engine import Engine
from swapnet.executor.planning.layout import lifetimes
from swapnet.executor.planning.usage import usage
from swapnet.executor.report.trace import ways_to_save
from swapnet.manifest import Block, Manifest
from swapnet.shapes import as_title
from swapnet.units import format_size

__all__ = ["command"]


@click.command("inspect")
@engine_argument
@click.option("--json", "json_target", metavar="FILE", help="Write the manifest; - for stdout.")
@click.option(
    "--extract-block",
    "extracted",
    type=int,
    metavar="N",
    help="Write block N with its weights as an ONNX file, for Polygraphy and others.",
)
@click.option(
    "-o", "--output", metavar="FILE.onnx", type=PATH, help="That file. [default: block-N.onnx]"
)
@shapes_option
def command(
    engine: Path,
    json_target: str | None,
    extracted: int | None,
    output: Path | None,
    shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int],
) -> None:
    """Show the blocks of an engine: operators, weights, activations, live values at the cut."""
    opened = open_engine(engine, shapes, dims) if shapes or dims else Engine.open(engine).in_child()
    if extracted is not None:
        from swapnet.builder.block_model import save_block

        target = output or Path(f"block-{extracted}.onnx")
        save_block(opened, extracted, target)
        say(f"{target}: {format_size(target.stat().st_size)}")
        return
    manifest = opened.manifest
    if json_target:
        write_json(manifest, json_target)
        return
    spans = lifetimes(manifest)
    rows = []
    for block in manifest.blocks:
        live = [n for n, (first, last) in spans.items() if first <= block.index < last]
        weights = (
            block.lookup.count * block.lookup.row_nbytes
            if block.lookup
            else block.plan_nbytes
            or sum(weight.nbytes for weight in manifest.weights_of(block.index))
            + block.window_bytes
        )
        rows.append(
            (
                f"{block.index} {_style(manifest, block)}"
                if block.is_graph
                else f"{block.index} lookup",
                operators_in([block], 3),
                str(len(block.operators)),
                format_size(weights),
                format_size(block.activation_bytes),
                str(len(live)),
                format_size(sum(manifest.tensors[name].nbytes for name in live)),
            )
        )
    used = usage(manifest)
    compiled = manifest.compiled
    print_table(
        f"{manifest.source.name}{_precision(manifest)} for {compiled.backend} "
        f"{compiled.version} on {compiled.fingerprint}, planned for "
        f"{as_title(manifest.planned_shapes)}",
        ["block", "mostly", "operators", "weights", "activations", "live", "live bytes"],
        rows,
    )
    parts = {
        "values": used.values_bytes,
        "scratch": used.scratch_bytes,
        "inputs and outputs": used.io_bytes,
        "skeletons, kernels and readers": used.process_bytes,
        "staging": used.staging_bytes,
    }
    print_text(
        f"{len(manifest.blocks)} blocks, sliced operators: {len(manifest.sliced)}, "
        f"{format_size(manifest.swappable_bytes)} can be swapped, "
        f"{format_size(sum(each.extent.nbytes for each in manifest.shared))} of it used by several "
        "blocks; beside weights "
        f"{format_size(used.total_bytes)}: "
        + ", ".join(f"{name} {format_size(nbytes)}" for name, nbytes in parts.items())
    )
    for striping in manifest.stripings:
        saving, nbytes = "; ".join(ways_to_save(striping)), usage(manifest, striping).total_bytes
        print_text(f"With {saving}: beside weights {format_size(nbytes)}")
    for line in about_weights(manifest):
        print_text(line)


def _style(manifest: Manifest, block: Block) -> str:
    if manifest.is_tensorrt:
        return block.weight_style
    return "windows" if block.windows else block.kind


def _precision(manifest: Manifest) -> str:
    if manifest.precision == "fp32":
        return ""
    return f" in {manifest.precision}" + (" (weights only)" if manifest.weight_only else "")
