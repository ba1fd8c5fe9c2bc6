"""``polygraphy run MODEL.onnx --onnxrt --swapnet``: the runner's options, found by entry point."""

from __future__ import annotations

import argparse
from typing import Any

from polygraphy.logger import G_LOGGER
from polygraphy.tools.args import ModelArgs
from polygraphy.tools.args.base import BaseArgs, BaseRunnerArgs
from polygraphy.tools.script import make_invocable

from swapnet.calibration.accuracy.runner import SwapRunner
from swapnet.errors import SwapnetError

__all__ = ["CommandRunner", "SwapnetRunnerArgs", "argument_groups"]


class CommandRunner(SwapRunner):
    """A `SwapRunner` whose errors the command prints without a traceback."""

    def activate_impl(self) -> None:
        try:
            super().activate_impl()
        except SwapnetError as error:
            G_LOGGER.critical(str(error))


class SwapnetRunnerArgs(BaseRunnerArgs):  # type: ignore[misc]
    """SwapNet Inference: running inference with SwapNet inside a memory budget.

    Depends on:

        - ModelArgs
    """

    def add_parser_args_impl(self) -> None:
        self.group.add_argument(
            "--swapnet-engine",
            metavar="DIR",
            help="Engine directory to run. By default the model is built into a temporary one, at "
            "the shapes of --input-shapes.",
        )
        self.group.add_argument(
            "--swapnet-budget",
            metavar="SIZE",
            default="weights:0%",
            help="Memory of the model: 64MiB, 25%% of its demand, or weights:25%%. [default: "
            "weights:0%%, the smallest that works]",
        )

    def parse_impl(self, args: argparse.Namespace) -> None:
        """Take the options.

        Attributes
        ----------
        engine : str or None
            Engine directory.
        budget : str
            Memory of the model.
        """
        self.engine = args.swapnet_engine
        self.budget = args.swapnet_budget

    def get_name_opt_impl(self) -> tuple[str, str]:
        return "SwapNet", "swapnet"

    def add_to_script_impl(self, script: Any) -> None:
        engine = self.engine
        if engine is None:
            model = self.arg_groups[ModelArgs]
            shapes = {name: tuple(meta.shape) for name, meta in model.input_shapes.items()}
            loader = make_invocable("SwapEngineFromOnnx", model.path, shapes=shapes or None)
            script.add_import(imports=["SwapEngineFromOnnx"], frm="swapnet")
            engine = script.add_loader(loader, "build_swapnet")
        script.add_import(imports=["CommandRunner"], frm=__name__)
        script.add_runner(make_invocable("CommandRunner", engine, self.budget))


def argument_groups() -> list[BaseArgs]:
    """Argument groups for the entry point of ``polygraphy.run.plugins``."""
    return [SwapnetRunnerArgs()]
