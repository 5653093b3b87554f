"""The axes that pictures are drawn on. This imports matplotlib, so it is imported where one is drawn or written."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter, LogFormatterMathtext

_STYLE: Final[dict[Any, Any]] = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "grid.color": "#E6E6E6",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "afdsim",
    "text.parse_math": False,
}


_RAISED: Final = str.maketrans("0123456789-.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")
"""Digits as powers."""


class Picture(Axes):
    """Axes that a notebook shows as the value of a cell: their whole figure, and nowhere a window."""

    def _repr_png_(self) -> bytes:
        page = BytesIO()
        write(self, page, ".png", dpi=100)
        return page.getvalue()


def new(width: float, height: float) -> Axes:
    """Return the axes of a new figure; its size is in inches."""
    with mpl.rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained").add_subplot(axes_class=Picture)


def drawing(figure: Figure) -> str:
    """Return a figure as SVG for a page: its texts stay text, and none is read as a formula."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    page = BytesIO()
    plain(figure)
    with mpl.rc_context(_STYLE | {"svg.fonttype": "none", "path.simplify_threshold": 0.3}):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(page, metadata={"Date": None})
    return page.getvalue().decode()


def plain(figure: Figure) -> None:
    """Let no text of a figure be read as a formula, and write the powers on axes without one."""
    for axis in figure.findobj(Axis):
        assert isinstance(axis, Axis)
        major, minor = axis.get_major_formatter(), axis.get_minor_formatter()
        if isinstance(major, LogFormatterMathtext):
            axis.set_major_formatter(Powers(major))
        if isinstance(minor, LogFormatterMathtext):
            axis.set_minor_formatter(Powers(minor))
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)


class Powers(Formatter):
    """What a formatter of a log axis writes as a formula, as text: 10⁻⁵, 2×10³."""

    def __init__(self, formulas: LogFormatterMathtext) -> None:
        self.formulas = formulas

    def set_axis(self, axis: Any) -> None:
        self.formulas.set_axis(axis)

    def set_locs(self, locs: Any) -> None:
        self.formulas.set_locs(locs)

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of a place."""
        formula = self.formulas(x, pos).removeprefix("$\\mathdefault{").removesuffix("}$")
        power = re.sub(r"\^\{(.*)\}", lambda found: found[1].translate(_RAISED), formula)
        return power.replace("\\times", "\N{MULTIPLICATION SIGN}")


def write(picture: Axes | Figure, file: Path | IO[bytes], suffix: str, *, dpi: int) -> None:
    """Write a picture in the format of a file name's suffix, without the date."""
    figure = picture.get_figure(root=True) if isinstance(picture, Axes) else picture
    assert figure is not None
    plain(figure)
    undated = {".svg": {"Date": None}, ".png": {"Software": None}, ".pdf": {"CreationDate": None}}
    kind = suffix.removeprefix(".") or None
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format=kind, dpi=dpi, metadata=undated.get(suffix, {}))
