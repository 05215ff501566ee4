"""Four more scores over T: how near, without the bias of few images, and what is amiss.

Precision and recall tell the two ways to fail apart: pictures that look like no real
one, and real ones that no picture looks like.
"""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.paths import StudyPaths
from noisesteps.tables import read_table

LETTERS = 36  # of a panel's title
# In reading order, with what is better.
MEASURES = {
    "kid": "lower is better",
    "fid_infinity": "lower is better",
    "precision": "share, higher is better",
    "recall": "share, higher is better",
}


def draw_measures(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw a panel a score over T, a line a schedule, beside that of real images."""
    table = read_table(f"fid_{dataset}", paths)
    floor = read_table("floor", paths).set_index("dataset").loc[dataset]
    figure = style.new_figure(style.WIDTH, 5.8)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (measure, better) in zip(panels.flat, MEASURES.items(), strict=True):
        for schedule, rows in table.groupby("schedule", sort=False):
            _draw_line(axes, measure, schedule, rows.sort_values("steps"))
        ends = style.interval_columns(measure)
        style.draw_floor(
            axes, floor[measure], *(floor[end] for end in ends), "real held-out images"
        )
        name = measure_name(measure, table["metric"].iloc[0])
        axes.set_title(textwrap.fill(name, LETTERS), fontsize=9)
        axes.set_ylabel(better)
        style.steps_axis(axes, table["steps"].tolist(), inches=2.7)
        style.from_zero(axes)
    for axes in panels[0]:
        axes.set_xlabel("")
    style.legend_below(figure, panels[0, 0], columns=4)
    return figure


def measure_name(measure: str, metric: str) -> str:
    """Name a score after the network whose features it compares, as `metric` does."""
    match measure:
        case "kid":
            return metric.replace("FID", "KID").replace("FD", "KD")
        case "fid_infinity":
            return f"{metric}, N → ∞"
    return measure


def _draw_line(axes: Axes, measure: str, schedule: str, rows: DataFrame) -> None:
    colour, marker = style.SCHEDULES[schedule]
    style.draw_band(axes, rows, colour, measure)
    axes.plot(
        rows["steps"], rows[measure], color=colour, marker=marker, label=schedule,
        markersize=style.MARKER_SIZES[schedule] - 1,
    )  # fmt: skip
