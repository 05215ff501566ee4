"""How every figure looks: colours, type, axes, and files without a date in them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from noisesteps.files import atomic

WIDTH = 7.2  # inches: 1080 pixels at the default 150 dots an inch
INK, QUIET, FAINT = "#222222", "#666666", "#d9d9d9"
# Okabe & Ito's colours, which colour-blind readers tell apart.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9",
)  # fmt: skip
SCHEDULES = {
    "linear": (BLUE, "o"),
    "linear_scaled": (VERMILION, "s"),
    "cosine": (GREEN, "^"),
}
# Lines that meet: the marker below is the larger one, so that its edge is seen.
MARKER_SIZES = {"linear": 8, "linear_scaled": 6, "cosine": 4.5}
SEQUENCE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
# How images are made: with every step that was trained, or with fewer of them.
TRAINED, ANCESTRAL, DDIM = (INK, "o"), (PURPLE, "D"), (SKY, "v")
SETTINGS = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "noisesteps",
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style to figures made inside, and leave no trace outside."""
    with mpl.rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, rendered by Agg."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, png: Path, svg: Path, dpi: int) -> list[Path]:
    """Write a figure as PNG and SVG, equal bytes for equal figures."""
    _freeze(figure)
    for path, metadata in ((png, {"Software": None}), (svg, {"Date": None})):
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=dpi, metadata=metadata)
    return [png, svg]


def _freeze(figure: Figure) -> None:
    """Settle the layout once, rounded.

    The solver's last digits differ from run to run, and an SVG file repeats them.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(value, 6) for value in axes.get_position().bounds])


def headline(figure: Figure, title: str, details: str) -> None:
    """Put a bold title above smaller print, wrapped to the figure's width.

    The space is taken from the figure's constrained layout, so nothing overlaps; a
    figure without one, which is drawn up to its upper edge, grows by it.
    """
    width, _ = figure.get_size_inches()
    bold = textwrap.wrap(title, int(width * 10.5))
    small = textwrap.wrap(details, int(width * 15))
    parts = ((bold, 11, "bold", INK), (small, 8.5, "normal", QUIET))
    needed = 0.1 + sum(_inches(lines, size) for lines, size, *_ in parts) + 0.04
    engine = figure.get_layout_engine()
    if engine is None:
        _grow(figure, needed + 0.04)
    height = figure.get_size_inches()[1]
    top = 0.1
    for lines, size, weight, colour in parts:
        figure.text(
            0.1 / width, 1 - top / height, "\n".join(lines), fontsize=size,
            fontweight=weight, color=colour, va="top", linespacing=1.3,
        )  # fmt: skip
        top += _inches(lines, size)
    if engine is not None:
        edge = 0.06 / width
        engine.set(rect=(edge, 0.01, 1 - 2 * edge, 0.99 - needed / height))


def _inches(lines: list[str], size: float) -> float:
    """Return the height of some lines of a headline, with the space below them."""
    return len(lines) * size * 1.45 / 72 + 0.04


def _grow(figure: Figure, inches: float) -> None:
    """Add space at the top of a figure; what is drawn keeps its size and its place."""
    width, height = figure.get_size_inches()
    share = height / (height + inches)
    figure.set_size_inches(width, height + inches)
    for axes in figure.axes:
        left, bottom, across, upwards = axes.get_position().bounds
        axes.set_position((left, bottom * share, across, upwards * share))
    for text in figure.texts:
        text.set_y(text.get_position()[1] * share)
    for frame in figure.artists:
        frame.set_y(frame.get_y() * share)
        frame.set_height(frame.get_height() * share)


def steps_axis(
    axes: Axes,
    steps: Sequence[int],
    *,
    inches: float = 5.5,
    label: str = "number of noise steps T",
    logarithmic: bool | None = None,
) -> None:
    """Lay out the horizontal axis for the values of T.

    Values whose gaps differ tenfold, such as 10, 20, 1000, get a logarithmic axis.

    Parameters
    ----------
    axes
        Whose horizontal axis is laid out.
    steps
        The values of T that are drawn.
    inches
        About how long the axis is: labels that have no room are left out.
    label
        What the values are.
    logarithmic
        None: as the gaps between the values suggest.
    """
    axes.set_xlabel(label)
    values = sorted({int(value) for value in steps})
    gaps = [right - left for left, right in pairwise(values)]
    if logarithmic is None:
        logarithmic = bool(gaps) and max(gaps) > 10 * min(gaps)
    if logarithmic:
        axes.set_xscale("log")
        margin = (values[-1] / values[0]) ** 0.04
        axes.set_xlim(values[0] / margin, values[-1] * margin)
    else:
        margin = 0.04 * (values[-1] - values[0]) or 0.5 * values[0]
        axes.set_xlim(values[0] - margin, values[-1] + margin)
    if len(values) <= 6 or logarithmic:
        ticks = _apart(values, inches, math.log if logarithmic else float)
        axes.set_xticks(ticks, [f"{value:,}" for value in ticks])
        axes.minorticks_off()
    else:
        round_ticks(axes, 6 if inches > 3 else 4 if inches > 2.2 else 3)


def _apart(values: list[int], inches: float, scale: object) -> list[int]:
    """Choose the ends, and from the left those between whose labels do not collide."""
    if len(values) < 2:
        return values
    first, last = values[0], values[-1]
    length = inches / (scale(last) - scale(first))

    def collide(left: int, right: int) -> bool:
        letters = (len(f"{left:,}") + len(f"{right:,}")) / 2
        return (scale(right) - scale(left)) * length < 0.085 * letters + 0.1

    kept = [first]
    for value in values[1:-1]:
        if not collide(kept[-1], value) and not collide(value, last):
            kept.append(value)
    return [*kept, last]


def round_ticks(axes: Axes, ticks: int) -> None:
    """Put about `ticks` round whole numbers on the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def from_zero(*panels: Axes) -> None:
    """Start the one vertical axis of panels at zero, with room above the highest value.

    Below zero it starts where a line does. A band is cut at half as much again as the
    highest line, so that a wide one does not flatten the rest.
    """
    lowest, highest = _ends(panels)
    reached = max(axes.dataLim.ymax for axes in panels)
    top = min(reached, 1.5 * highest) if highest > 0 else 0
    for axes in panels:
        axes.set_ylim(1.08 * min(lowest, 0), 1.08 * top or 1)


def around(*panels: Axes) -> None:
    """Fit the one vertical axis of panels to their lines, for a look at differences.

    A band is cut at half the lines' height above and below them.
    """
    lowest, highest = _ends(panels)
    height = highest - lowest or 0.5 * abs(highest)
    bottom = max(min(axes.dataLim.ymin for axes in panels), lowest - 0.5 * height)
    top = min(max(axes.dataLim.ymax for axes in panels), highest + 0.5 * height)
    for axes in panels:
        axes.set_ylim(
            min(bottom - 0.05 * height, lowest - 0.15 * height),
            max(top + 0.05 * height, highest + 0.15 * height),
        )


def _ends(panels: Sequence[Axes]) -> tuple[float, float]:
    """Return the lowest and the highest value of the lines in some panels."""
    lines = [line.get_ydata() for axes in panels for line in axes.get_lines()]
    drawn = np.concatenate([np.asarray(line, float) for line in lines])
    return float(np.nanmin(drawn)), float(np.nanmax(drawn))


def interval_columns(name: str) -> tuple[str, str]:
    """Name the columns of a table that hold the ends of a value's interval."""
    return ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")


def draw_band(
    axes: Axes, rows: DataFrame, colour: str, name: str = "value", over: str = "steps"
) -> None:
    """Draw the intervals of a line as a band, with a stroke at every point.

    Where the repeats give no interval, nothing is drawn.
    """
    low, high = (rows[column].to_numpy(float) for column in interval_columns(name))
    places = rows[over].to_numpy(float)
    known = ~np.isnan(low)
    if not known.any():
        return
    axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.vlines(
        places[known], low[known], high[known], color=colour, alpha=0.6, linewidth=1
    )


def draw_floor(axes: Axes, value: float, low: float, high: float, label: str) -> None:
    """Draw what real images score, with its interval, across the axes."""
    if math.isnan(value):
        return
    axes.axhline(value, color=INK, linewidth=1, linestyle=":", label=label)
    if not math.isnan(low):
        axes.axhspan(low, high, color=INK, alpha=0.08, linewidth=0)


def key(label: str, **look: object) -> Line2D:
    """Return a legend entry for a mark, which is drawn in many colours."""
    settings = {"color": QUIET, "marker": "o", "linestyle": "", "markersize": 6}
    return Line2D([], [], label=label, **(settings | look))


def time_unit(seconds: float) -> tuple[float, str]:
    """Choose the unit that keeps a longest time readable: its seconds, its name."""
    if seconds >= 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds >= 180 else (1.0, "seconds")


def legend_below(
    figure: Figure, axes: Axes, columns: int, keys: Sequence[Line2D] = ()
) -> None:
    """Put the legend of one axes, and `keys`, where they cover no data: below."""
    handles, labels = axes.get_legend_handles_labels()
    handles += keys
    labels += [key.get_label() for key in keys]
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)
