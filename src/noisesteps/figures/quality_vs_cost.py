"""What a person should use: score against seconds, and the ways nothing beats."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from pandas import DataFrame, Series

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.figures.fewer_steps import METHODS
from noisesteps.figures.inputs import evenly
from noisesteps.figures.words import method_name
from noisesteps.paths import StudyPaths
from noisesteps.tables import read_table
from noisesteps.tables.comparisons import TRAINED

NUMBERED = 9  # ways on a front that get a number and a line beside the panel
LOOKS = {TRAINED: style.TRAINED} | METHODS
# Columns of the list beside a panel, and where they start, as shares of its width.
COLUMNS = {"": 0.0, "schedule": 0.05, "T": 0.51, "sampling": 0.54, "score": 1.0}


def draw_quality_vs_cost(study: Study, paths: StudyPaths, _: str | None) -> Figure:
    """Draw a panel a data set, and beside it the ways that are on its Pareto front."""
    table = read_table("quality_vs_cost", paths)
    datasets = list(study.datasets)
    figure = style.new_figure(style.WIDTH, 1.7 + max(2.5 * len(datasets), 3.0))
    panels = figure.subplots(
        len(datasets), 2, width_ratios=[1.55, 1], sharex="col", squeeze=False
    )
    _time_axis(panels[-1, 0], table["seconds_per_image"])
    for dataset, (axes, beside) in zip(datasets, panels, strict=True):
        rows = table[table["dataset"] == dataset]
        _draw_ways(axes, rows)
        axes.set_title(dataset)
        axes.set_ylabel(f"{rows['metric'].iloc[0]},\nlower is better")
        front = numbered(rows)
        _draw_numbers(axes, front)
        _write_front(beside, front, int(rows["pareto"].sum()))
    for axes in panels[:-1, 0]:
        axes.tick_params(labelbottom=False)
    figure.legend(handles=_keys(table), loc="outside lower left", ncols=3)
    return figure


def _time_axis(axes: Axes, seconds: Series) -> None:
    """Lay out the logarithmic axis of seconds, with room for numbers at the left."""
    axes.set_xlabel("seconds an image")
    axes.set_xscale("log")
    spread = max(seconds.max() / seconds.min(), 1.5)
    axes.set_xlim(seconds.min() / spread**0.1, seconds.max() * spread**0.06)
    subs = (1, 1.5, 2, 3, 5, 7) if spread < 10 else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=subs if spread < 200 else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def numbered(rows: DataFrame) -> DataFrame:
    """Return the front of a data set, fastest first; of a long one, some ways evenly.

    The index is the number that a way gets.
    """
    front = _front(rows)
    front = front.iloc[evenly(NUMBERED, len(front))]
    return front.set_axis(range(1, len(front) + 1))


def _front(rows: DataFrame) -> DataFrame:
    front = rows[rows["pareto"].astype(bool)]
    return front.sort_values(["seconds_per_image", "value"])


def _draw_ways(axes: Axes, rows: DataFrame) -> None:
    front = _front(rows)
    axes.plot(
        front["seconds_per_image"], front["value"], color=style.INK, linewidth=1,
        drawstyle="steps-post", zorder=1,
    )  # fmt: skip
    for row in rows.assign(across=beside(rows)).itertuples():
        colour, _ = style.SCHEDULES[row.schedule]
        _, marker = LOOKS[row.way]
        axes.vlines(
            row.across, row.low, row.high, color=colour, alpha=0.5,
            linewidth=1,
        )  # fmt: skip
        axes.plot(
            row.across, row.value, color=colour, marker=marker,
            markersize=6, markerfacecolor=colour if row.pareto else "white",
        )  # fmt: skip
    style.around(axes)


def beside(rows: DataFrame) -> Series:
    """Return where ways stand on the axis of seconds, so that each one is seen.

    Of those that take equally long the best stands at its time, the others follow it
    on the right, in less than the space up to the next time.
    """
    seconds = rows["seconds_per_image"]
    rank = rows.groupby(seconds)["value"].rank(method="first") - 1
    times = np.log(np.unique(seconds))
    gaps = [*np.diff(times), np.log(1.5)]
    widest = max(times[-1] - times[0], np.log(1.5))
    step = min(0.02 * widest, 0.6 * min(gaps) / (1 + rank.max()))
    return seconds * np.exp(step * rank)


def _draw_numbers(axes: Axes, front: DataFrame) -> None:
    """Write numbers below and left of the front's points, where no way can be.

    Points that lie on each other share one label.
    """
    for first, last in groups(front, axes.get_xlim(), axes.get_ylim()):
        axes.annotate(
            f"{first}" if first == last else f"{first}–{last}",
            tuple(front.loc[last, ["seconds_per_image", "value"]]), (-5, -4),
            textcoords="offset points", ha="right", va="top", fontsize=8.5,
            fontweight="bold",
        )  # fmt: skip


def groups(
    front: DataFrame, across: tuple[float, float], upwards: tuple[float, float]
) -> list[tuple[int, int]]:
    """Return first and last number of neighbours whose labels would collide.

    `across` and `upwards` are the limits of a logarithmic and of a linear axis.
    """
    places = np.column_stack(
        [
            np.log(front["seconds_per_image"]) / np.log(across[1] / across[0]),
            front["value"] / (upwards[1] - upwards[0]),
        ]
    )
    close = (np.abs(np.diff(places, axis=0)) < (0.045, 0.09)).all(axis=1)
    first = [number for number in front.index if number == 1 or not close[number - 2]]
    return list(zip(first, [*(number - 1 for number in first[1:]), len(front)],
                    strict=True))  # fmt: skip


def _write_front(axes: Axes, front: DataFrame, ways: int) -> None:
    """List the numbered ways; `ways` counts those on the front."""
    axes.set_axis_off()
    of = "" if len(front) == ways else f" ({len(front)} of {ways})"
    axes.text(
        0, 1.02, f"none is both faster and better{of}:", fontsize=8,
        transform=axes.transAxes, color=style.QUIET,
    )  # fmt: skip
    lines = [list(COLUMNS)] + [
        [f"{number}", *cells(row)] for number, row in front.iterrows()
    ]
    for place, line in enumerate(lines):
        for text, at in zip(line, COLUMNS.values(), strict=True):
            axes.text(
                at, 0.95 - 0.095 * place, text, fontsize=7.5, va="top",
                transform=axes.transAxes, ha="right" if at in (0.51, 1) else "left",
                color=style.INK if place else style.QUIET,
            )  # fmt: skip


def cells(row: Series) -> list[str]:
    """Write a way's schedule, T, sampling and score."""
    return [
        row["schedule"],
        f"{row['trained_steps']:,}",
        "all T steps" if row["way"] == TRAINED
        else f"{method_name(row['way'])} {row['sampling_steps']:,}",
        f"{row['value']:.1f}" if row["value"] < 1000 else f"{row['value']:,.0f}",
    ]  # fmt: skip


def _keys(table: DataFrame) -> list[Line2D]:
    keys = [
        style.key(schedule, color=style.SCHEDULES[schedule][0], marker="s")
        for schedule in dict.fromkeys(table["schedule"])
    ]
    ways = {TRAINED: "all T steps"} | {
        method: f"fewer steps, {method_name(method)}" for method in METHODS
    }
    keys += [
        style.key(words, marker=LOOKS[way][1])
        for way, words in ways.items()
        if way in set(table["way"])
    ]
    keys.append(style.key("filled: on the Pareto front", linestyle="-", linewidth=1))
    if not table["pareto"].all():
        hollow = "hollow: another is better and no slower"
        keys.append(style.key(hollow, markerfacecolor="white"))
    return keys
