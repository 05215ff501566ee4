"""The score over T, beside the floor of real images and the dissertation's curve."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.paths import StudyPaths
from noisesteps.tables import dissertation, read_table
from noisesteps.tables.published import IMAGE_SIZE, IMAGES

NOT_NOISE = 0.05  # share of x_0 in x_T above which sampling from noise is a mismatch


def draw_scores(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw one data set's score over T, a line a schedule.

    The dissertation's FID shares the axis only with an FID of as many images; beside
    any other score it gets a panel and an axis of its own.
    """
    table = read_table(f"fid_{dataset}", paths)
    published = dissertation("fid").query("dataset == @dataset")
    same_axis = comparable(table, study.preprocess.image_size)
    panels = 1 if same_axis or published.empty else 2
    figure = style.new_figure(style.WIDTH, 4.4)
    axes = figure.subplots(
        1, panels, width_ratios=[2.1, 1][:panels], squeeze=False
    ).flat
    main = axes[0]
    for schedule, rows in table.groupby("schedule", sort=False):
        _draw_line(main, schedule, rows.sort_values("steps"))
    steps = table["steps"].tolist()
    if same_axis and not published.empty:
        _draw_published(main, published)
        steps += published["steps"].tolist()
    main.set_ylabel(f"{table['metric'].iloc[0]}, lower is better")
    _finish(main, steps)
    _draw_floor(main, table)
    _mark_mismatch(main, table)
    style.legend_below(figure, main, columns=2)
    if panels == 2:
        _draw_published(axes[1], published)
        axes[1].set_title("dissertation", color=style.QUIET, fontsize=9)
        axes[1].set_ylabel("FID, not comparable")
        _finish(axes[1], published["steps"].tolist())
        style.round_ticks(axes[1], 4)
    return figure


def comparable(table: DataFrame, image_size: int) -> bool:
    """Say whether scores can stand on one axis with the dissertation's FID."""
    metrics, counts = set(table["metric"]), set(table["images"])
    return metrics == {"FID"} and counts == {IMAGES} and image_size == IMAGE_SIZE


def mismatch_ends(table: DataFrame) -> float | None:
    """Return the T up to which linear's x_T still shows x_0, or None if nowhere.

    Between two values of T the terminal signal falls about exponentially, so its
    logarithm is interpolated; infinity means that it never gets small enough.
    """
    rows = table[table["schedule"] == "linear"].sort_values("steps")
    above = rows[rows["terminal_signal"] > NOT_NOISE]
    below = rows[rows["terminal_signal"] <= NOT_NOISE]
    if above.empty:
        return None
    if below.empty:
        return math.inf
    left, right = above.iloc[-1], below.iloc[0]
    fall = math.log(left["terminal_signal"] / right["terminal_signal"])
    share = math.log(left["terminal_signal"] / NOT_NOISE) / fall
    return float(left["steps"] + share * (right["steps"] - left["steps"]))


def _draw_line(axes: Axes, schedule: str, rows: DataFrame) -> None:
    colour, marker = style.SCHEDULES[schedule]
    best = rows.loc[rows["value"].idxmin()]
    label = f"{schedule} (best: {best['value']:.1f} at T = {best['steps']:,})"
    axes.plot(rows["steps"], rows["value"], color=colour, marker=marker, label=label)
    axes.plot(
        best["steps"], best["value"], marker="o", markersize=11, color=colour,
        markerfacecolor="none", markeredgewidth=1.2,
    )  # fmt: skip


def _draw_published(axes: Axes, published: DataFrame) -> None:
    axes.plot(
        published["steps"], published["fid"], color=style.QUIET, linestyle="--",
        marker=".", label="dissertation, linear",
    )  # fmt: skip


def _finish(axes: Axes, steps: list[int]) -> None:
    style.steps_axis(axes, steps)
    style.from_zero(axes)


def _draw_floor(axes: Axes, table: DataFrame) -> None:
    floor = table["real_floor"].iloc[0]
    if math.isnan(floor):
        return
    label = f"real held-out images: {floor:.1f}"
    axes.axhline(floor, color=style.INK, linewidth=1, linestyle=":", label=label)


def _mark_mismatch(axes: Axes, table: DataFrame) -> None:
    end = mismatch_ends(table)
    if end is None:
        return
    left, right = axes.get_xlim()
    axes.axvspan(left, min(end, right), color=style.ORANGE, alpha=0.13, linewidth=0)
    axes.set_xlim(left, right)
    axes.text(
        0, 1.015, "shaded: with linear, $x_T$ is not noise "
        rf"($\sqrt{{\bar\alpha_T}}$ > {NOT_NOISE})",
        transform=axes.transAxes, fontsize=8, color="#8a5a00",
    )  # fmt: skip
