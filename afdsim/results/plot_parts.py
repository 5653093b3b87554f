"""Parts of pictures: axes, colours, legends, files.

Nothing here touches matplotlib's global state: a figure is made without pyplot, shown by a notebook or by
`axes.figure`, written by `save`, which gives the same bytes every time. One deployment has one colour in every picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from afdsim.results.whole import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; its black is kept for lines that are no data.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31")


def colours(names: Iterable[str]) -> dict[str, str]:
    """Give every name its colour: by the name itself, so that it is the same in every picture.

    Where two names of one picture would share a colour, the later one takes the next that is free.
    """
    found: dict[str, str] = {}
    for name in names:
        first = crc32(name.encode()) % len(COLOURS) if name else 0
        turns = [COLOURS[(first + turn) % len(COLOURS)] for turn in range(len(COLOURS))]
        found[name] = next((each for each in turns if each not in found.values()), turns[0])
    return found


def new_axes(ax: Axes | None, *, width: float = 7.2, height: float = 4.2) -> Axes:
    """Return the axes given, or those of a new figure."""
    if ax is not None:
        return ax
    from afdsim.results import plot_axes

    return plot_axes.new(width, height)


def save(picture: Axes | Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a picture as its file name's suffix says (.svg, .png, .pdf); the same picture gives the same bytes."""
    from afdsim.results import plot_axes

    path = Path(path)
    write_whole(path, lambda temporary: plot_axes.write(picture, temporary, path.suffix, dpi=dpi))
    return path


def legend_below(ax: Axes, *, title: str | None = None, **given: Any) -> None:
    """Put the legend under the axis label, where it hides no data; equal labels are shown once."""
    from matplotlib.transforms import ScaledTranslation

    handles, labels = (given["handles"], given["labels"]) if given else ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if not once:
        return
    room = ax.get_window_extent().width / ax.figure.dpi
    columns = max(1, int(room / (0.55 + 0.085 * max(map(len, once)))))
    place: dict[str, Any] = {
        "loc": "upper center",
        "bbox_to_anchor": (0.5, 0.0),
        "bbox_transform": ax.transAxes + ScaledTranslation(0, -40 / 72, ax.figure.dpi_scale_trans),
        "borderaxespad": 0.0,
    }
    ncols = min(columns, len(once))
    ax.legend(list(once.values()), list(once), ncols=ncols, title=title, frameon=False, **place)
