"""A graph that is being rewritten."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any

import onnx
from onnx import helper

from swapnet.builder.importing.graph import Graph, Value
from swapnet.tensors import ONNX_TYPES

__all__ = ["GraphWriter"]


class GraphWriter:
    """Operators written so far, and the names that they may use.

    Attributes
    ----------
    source
        The graph that is rewritten; it stays as it is.
    nodes
        Operators of the new graph, in the order in which they are appended.
    constants, inline, values
        At first those of ``source``.
    """

    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants = dict(graph.constants)
        self.inline = dict(graph.inline)
        self.values = dict(graph.values)
        self._written: dict[Hashable, str] = {}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return next(o.version for o in self.source.opset_imports if o.domain in ("", "ai.onnx"))

    def graph(self) -> Graph:
        """The new graph, with inputs, outputs and operator sets of ``source``."""
        return replace(
            self.source,
            nodes=self.nodes,
            constants=self.constants,
            inline=self.inline,
            values=self.values,
        )

    def fresh(self, name: str) -> str:
        """``name``, or where it is taken, ``name`` and a number."""
        taken = (self.values, self.constants, self.inline)
        names = chain([name], (f"{name}.{i}" for i in count()))
        return next(new for new in names if not any(new in held for held in taken))

    def write(
        self,
        kind: str,
        inputs: Sequence[str],
        output: Value,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Append an operator of one output, which is called after it."""
        self.values[output.name] = output
        name = f"{output.name}/{kind.lower()}"
        self.nodes.append(
            helper.make_node(kind, inputs, [output.name], name, domain=domain, **attributes)
        )

    def integers(self, name: str, numbers: Sequence[int], key: Hashable = None) -> str:
        """A constant of 64-bit integers, shape ``(len(numbers),)``; returns the name that it got.

        Parameters
        ----------
        name
            Name of the constant, if it is free.
        key
            Constants of the same key are written once; None for one that nothing shares.
        """
        if key is not None and key in self._written:
            return self._written[key]
        new = self.fresh(name)
        self.inline[new] = helper.make_tensor(new, ONNX_TYPES["int64"], [len(numbers)], numbers)
        if key is not None:
            self._written[key] = new
        return new
