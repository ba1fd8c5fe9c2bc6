"""Pages of HTML from parts: one file each, which asks for nothing from anywhere.

Plots are drawn by Bokeh, whose JavaScript is part of the file. It is imported with the first page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from swapnet.errors import InputError
from swapnet.files import replacing
from swapnet.version import VERSION

__all__ = ["Column", "Facts", "Figure", "Listing", "Page", "Table", "check_reportable", "save_page"]


@dataclass(frozen=True)
class Facts:
    """Important numbers side by side: a label, a value and a note each."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Listing:
    """Names and their values."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Column:
    """Column of a table: numbers where it has a format, as `str.format` takes it, else words."""

    title: str
    format: str = ""

    def shown(self, value: Any) -> str:
        """A value as text."""
        return "-" if value is None else (self.format or "{}").format(value)


@dataclass(frozen=True)
class Table:
    """A table that a click on a title sorts; None is a missing value."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """Plots of Bokeh below each other, and a caption.

    Their common legend has a label, a colour, and a shape each: area, line, dashed or dot.
    """

    plots: Sequence[Any]
    legend: Sequence[tuple[str, str, str]]
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """A page of parts, of which words are titles.

    Banners stand above everything else: their kind, which is note, good or warn, and a text.
    """

    title: str
    subtitle: str
    banners: Sequence[tuple[str, str]]
    parts: Sequence[str | Facts | Figure | Listing | Table]


def check_reportable() -> None:
    """Check that a page can be made, before the work is done.

    Raises
    ------
    InputError
        Bokeh is not installed.
    """
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise InputError(
            "reports need Bokeh", why=str(error), hint="pip install 'swapnet-trt[report]'"
        ) from error


def save_page(page: Page, path: Path) -> None:
    """Write a page with everything that it needs.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment

    figures = [part for part in page.parts if isinstance(part, Figure)]
    plots = {plot.id: plot for figure in figures for plot in figure.plots}
    script, divs = components(plots) if plots else ("", {})
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    text = template.render(
        page=page,
        kind=lambda part: type(part).__name__,
        library=Resources(mode="inline", components=["bokeh"]).js_raw[0] if plots else "",
        script=script,
        divs=divs,
        version=VERSION,
    )
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
