"""A picture as SVG inside a page: ids that clash with no other's, colours that follow the theme, values on hover.

Colours that are no data (ink, paper, grid) become CSS variables of the page, `THEME`. Texts stay text, in the font of
the page, and are never read as formulas. What a reader may point at are transparent rectangles over the drawing, each
with its values as `<title>`; the same picture gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THEME: Final = {
    "#000000": "--ink",
    "#404040": "--dark",
    "#ffffff": "--paper",
    "#444444": "--soft",
    "#666666": "--soft",
    "#999999": "--faint",
    "#e6e6e6": "--grid",
    "#f2f2f2": "--shade",
    "#efefef": "--shade",
    "#b00020": "--limit",
}
"""Colours of the light theme, with the variables that take their place."""

MOST: Final = 900
"""Rectangles of a picture that have values on hover; of more only the largest."""

BINS: Final = 200
"""Bins of a picture that have values on hover; of more every so many."""

COLUMNS: Final = 48
"""Places across the axes at which curves are read."""

Names = Mapping[tuple[float, float], str]
"""What the points of a picture are called, by their place in the units of the axes."""


class Spot(NamedTuple):
    """A rectangle in display units, x before y, and what it says."""

    box: tuple[float, float, float, float]
    text: str

    @property
    def area(self) -> float:
        """Of the rectangle."""
        left, low, right, high = self.box
        return (right - left) * (high - low)


def inline(axes: Axes, name: str, label: str, names: Names | None = None) -> str:
    """Return the figure of `axes` as an SVG element.

    `name` is unique on the page, `label` is what a screen reader says of it, `names` are those of its points.
    """
    from afdsim.results import plot_axes

    figure = axes.get_figure(root=True)
    assert figure is not None
    plot_axes.plain(figure)
    _settle(figure)
    drawing = plot_axes.drawing(figure)
    spots = [spot for each in _all_axes(figure) for spot in _spots(each, names or {})]
    width, height = (72 * inches for inches in figure.get_size_inches())
    body = _tidy(drawing, name)
    over = "".join(_rectangle(spot, 72 / figure.dpi, height) for spot in _largest(spots))
    start = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{_escaped(label)}">'
    return f'{start}{body}<g class="spots" fill="transparent" stroke="none">{over}</g></svg>'


def _all_axes(figure: Figure) -> list[Any]:
    return [each for axes in figure.axes for each in (axes, *axes.child_axes) if each.get_label() != "<colorbar>"]


def _largest(spots: list[Spot]) -> list[Spot]:
    """Keep the rectangles that a reader is most likely to point at, in the order of drawing."""
    if len(spots) <= MOST:
        return spots
    least = sorted((spot.area for spot in spots), reverse=True)[MOST - 1]
    return [spot for spot in spots if spot.area >= least][:MOST]


# drawing ------------------------------------------------------------------------------------------------------------


def _settle(figure: Figure) -> None:
    """Leave out titles, write numbers of log axes in digits, keep the colour of texts on bars and cells."""
    for axes in _all_axes(figure):
        axes.set_title("" if axes in figure.axes else axes.get_title(), fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter("{x:,g}")
        for text in axes.texts:
            inside, plate = (text.get_ha(), text.get_va()) == ("center", "center"), text.get_bbox_patch()
            coloured = plate is not None and plate.get_facecolor() != (1.0, 1.0, 1.0, 1.0)
            if inside or coloured or axes.images or text.get_color() == "white":
                text.set_color({"black": "#010101", "white": "#fefefe"}.get(str(text.get_color()), text.get_color()))


_DROPPED: Final = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.S)
_PLACED: Final = re.compile(r'\b(d|x|y|width|height|transform)="([^"]*)"')
_LONG: Final = re.compile(r"(-?\d+\.\d\d)\d+")
_COLOUR: Final = re.compile(r"(?<=: )#[0-9a-f]{6}")
_FONT: Final = re.compile(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*")


def _tidy(drawing: str, name: str) -> str:
    """Return what is inside the SVG element, in the colours and the font of the page."""
    text = _DROPPED.sub("", drawing)
    text = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    used = set(re.findall(r"""(?:href="|url\()#([^")]+)""", text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = _PLACED.sub(lambda found: f'{found[1]}="{_shorter(found[2])}"', text)
    text = re.sub(r'style="[^"]*"', lambda found: _styled(found[0]), text)
    text = re.sub(r'\bfill="(#[0-9a-f]{6})"', lambda found: _styled(f'style="fill: {found[1]}"'), text)
    return re.sub(r">\s+<", "><", text).strip()


def _shorter(numbers: str) -> str:
    return " ".join(_LONG.sub(r"\1", numbers).split())


def _styled(style: str) -> str:
    themed = _COLOUR.sub(lambda found: f"var({THEME[found[0]]})" if found[0] in THEME else found[0], style)
    return _FONT.sub(r"font-size: \2px", themed)


def _rectangle(spot: Spot, scale: float, height: float) -> str:
    left, low, right, high = (scale * each for each in spot.box)
    at = f'x="{left:.1f}" y="{height - high:.1f}" width="{right - left:.1f}" height="{high - low:.1f}"'
    return f"<rect {at}><title>{_escaped(spot.text)}</title></rect>"


def _escaped(text: str) -> str:
    from html import escape

    return escape("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))


# values -------------------------------------------------------------------------------------------------------------


def _spots(axes: Axes, names: Names) -> Iterator[Spot]:
    """Yield what can be read off the artists of axes; whatever lies on top comes last."""
    yield from _cells(axes)
    yield from _curves(axes)
    yield from _bins(axes)
    yield from _bars(axes)
    yield from _marks(axes, names)


def _label(axes: Axes, which: str) -> str:
    """Label of an axis; an inset has that of the axes that it lies in."""
    inside = [each for each in axes.figure.axes if axes in each.child_axes]
    return next((text for each in (axes, *inside) if (text := str(getattr(each, f"get_{which}label")()))), "")


def _quantity(label: str) -> tuple[str, str]:
    """Name and unit of an axis label such as "GPU time (%)"; what follows a semicolon is a remark."""
    found = re.match(r"(.*) \((.*)\)$", label.partition(";")[0])
    return (found[1], f" {found[2]}") if found else (label.partition(";")[0], "")


def _valued(value: float, label: str) -> str:
    name, unit = _quantity(label)
    return f"{name} {value:,.4g}{unit}"


def _series(label: object) -> str:
    """What a legend calls a series, less its percentiles; nothing where matplotlib named it."""
    text = str(label or "")
    return "" if text.startswith("_") else text.partition(": p50")[0]


def _boxed(axes: Axes, x: tuple[float, float], y: tuple[float, float] | None = None) -> tuple[float, ...]:
    """Return a rectangle in display units, cut at the axes; as high as these where no y is given."""
    whole = axes.get_window_extent()
    (left, low), (right, high) = axes.transData.transform([(x[0], (y or (1, 1))[0]), (x[1], (y or (1, 1))[1])]).tolist()
    left, right = sorted((left, right))
    low, high = sorted((low, high)) if y else (whole.y0, whole.y1)
    return max(left, whole.x0), max(low, whole.y0), min(right, whole.x1), min(high, whole.y1)


def _spot(box: tuple[float, ...], text: str) -> Iterator[Spot]:
    """Yield a rectangle if it is inside its axes."""
    left, low, right, high = box
    if right > left and high > low:
        yield Spot((left, low, right, high), text)


def _bins(axes: Axes) -> Iterator[Spot]:
    """Every bin of histograms and stairs, all series that have it together."""
    bins: dict[tuple[float, float], dict[str, float]] = {}
    for values, edges, name in stairs(axes):
        for value, ends in zip(values, pairwise(edges), strict=True):
            bins.setdefault(ends, {})[name] = value
    name, unit = _quantity(_label(axes, "x"))
    stride = -(-len(bins) // BINS)
    for ends, found in list(bins.items())[stride // 2 :: stride] if stride > 1 else bins.items():
        told = ", ".join(f"{each} {_valued(value, _label(axes, 'y'))}".strip() for each, value in found.items())
        where = f"{name} {ends[0]:,.5g} to {ends[1]:,.5g}{unit}"
        yield from _spot(_boxed(axes, ends), f"{where}: {told}")


def stairs(axes: Axes) -> Iterator[tuple[list[float], list[float], str]]:
    """Yield values, edges and name of all series of stairs of axes; a series drawn twice comes once."""
    from matplotlib.patches import StepPatch

    found: dict[str, tuple[list[float], list[float], str]] = {}
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            name = _series(patch.get_label())
            found[name] = (np.asarray(values, float).tolist(), np.asarray(edges, float).tolist(), name)
    yield from (each for name, each in found.items() if name or len(found) == 1)


def _bars(axes: Axes) -> Iterator[Spot]:
    """Every bar: its row, its series, its length; of one of several in a row its ends too."""
    from matplotlib.container import BarContainer

    rows = dict(zip(axes.get_yticks(), (text.get_text() for text in axes.get_yticklabels()), strict=False))
    looks = _looks(axes)
    for bars in axes.containers:
        drawn = bars.patches if isinstance(bars, BarContainer) else []
        spans = len({bar.get_y() for bar in drawn}) < len(drawn)
        for bar in drawn:
            left, low, right, high = *bar.get_xy(), bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height()
            row = rows.get(round((low + high) / 2, 6), "").replace("\n", " ")
            series = _series(bars.get_label()) or looks.get((bar.get_facecolor()[:3], bool(bar.get_hatch())), "")
            who = ", ".join(filter(None, (row, series)))
            ends = f"{left:,.4g} to {right:,.4g}, " if spans else ""
            told = f"{f'{who}: ' if who else ''}{ends}{_valued(bar.get_width(), _label(axes, 'x'))}"
            yield from _spot(_boxed(axes, (left, right), (low, high)), told)


def _looks(axes: Axes) -> dict[tuple[Any, bool], str]:
    """What a legend of swatches calls a colour, hatched or not."""
    from matplotlib.patches import Patch

    legend = axes.get_legend()
    swatches = (
        []
        if legend is None
        else [(each, text) for each, text in zip(legend.legend_handles, legend.texts, strict=False)]
    )
    return {
        (each.get_facecolor()[:3], bool(each.get_hatch())): text.get_text()
        for each, text in swatches
        if isinstance(each, Patch)
    }


def _cells(axes: Axes) -> Iterator[Spot]:
    """Cells of a heat map, several columns together where there are many."""
    for image in axes.images:
        grid: Any = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
        if grid.ndim != 2:
            continue
        left, right, low, high = image.get_extent()
        rows, columns = grid.shape
        stride = max(1, -(-rows * columns // MOST))
        ticks = list(zip(axes.get_yticks().tolist(), axes.get_yticklabels(), strict=False))
        wide, tall = (right - left) / columns, (high - low) / rows
        for row, first in np.ndindex(rows, -(-columns // stride)):
            part = grid[rows - 1 - row if low > high else row, first * stride : (first + 1) * stride]
            if np.isnan(part).all():
                continue
            x = (left + first * stride * wide, min(left + (first + 1) * stride * wide, max(left, right)))
            y = (low + row * tall, low + (row + 1) * tall)
            _, who = min(ticks, key=lambda tick: abs(tick[0] - (y[0] + y[1]) / 2))
            told = f"{who.get_text()}, {_valued(sum(x) / 2, _label(axes, 'x'))}: {np.nanmean(part):.3g} %"
            yield from _spot(_boxed(axes, x, y), told)


def _curves(axes: Axes) -> Iterator[Spot]:
    """Curves at places across the axes, all of them together."""
    curves = [line for line in axes.lines if _length(line) > 2 and line.get_marker() in {"None", "", None}]
    if not curves:
        return
    name, unit = _quantity(_label(axes, "x"))
    left, right = axes.get_xlim()
    log = axes.get_xscale() == "log"
    edges = np.geomspace(left, right, COLUMNS + 1) if log else np.linspace(left, right, COLUMNS + 1)
    for low, high in pairwise(edges.tolist()):
        middle = (low * high) ** 0.5 if log else (low + high) / 2
        read = {_series(line.get_label()): _at(line, middle) for line in curves}
        told = ", ".join(
            f"{each} {_valued(value, _label(axes, 'y'))}".strip() for each, value in read.items() if value is not None
        )
        if told:
            yield from _spot(_boxed(axes, (low, high)), f"{name} {middle:,.4g}{unit}: {told}")


def _length(line: Any) -> int:
    return len(line.get_xdata())


def _at(line: Any, x: float) -> float | None:
    """The value of a curve at x; nothing beyond its ends."""
    across, up = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    if not across[0] <= x <= across[-1]:
        return None
    if line.get_drawstyle() == "steps-post":
        value = float(up[np.searchsorted(across, x, side="right") - 1])
    else:
        value = float(np.interp(x, across, up))
    return None if np.isnan(value) else value


def _marks(axes: Axes, names: Names) -> Iterator[Spot]:
    """Every mark of a scatter or of a line with markers: its name, x and y."""
    from matplotlib.collections import PathCollection

    groups = [
        (np.column_stack([line.get_xdata(), line.get_ydata()]), _series(line.get_label()), axes.transData)
        for line in axes.lines
        if line.get_marker() not in {"None", "", None} and _length(line)
    ]
    groups += [
        (np.asarray(each.get_offsets(), float), _series(each.get_label()), axes.transData)
        for each in axes.collections
        if isinstance(each, PathCollection)
    ]
    seen = set()
    for places, series, transform in groups:
        for (x, y), (across, up) in zip(places.tolist(), transform.transform(places).tolist(), strict=True):
            who = names.get((x, y), series)
            told = f"{_valued(x, _label(axes, 'x'))}, {_valued(y, _label(axes, 'y'))}"
            told = told if _label(axes, "y") else _valued(x, _label(axes, "x"))
            if np.isfinite([across, up]).all() and (across, up) not in seen:
                seen.add((across, up))
                yield Spot((across - 4, up - 4, across + 4, up + 4), f"{who}: {told}" if who else told)
