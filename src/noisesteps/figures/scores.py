"""The score over T, beside the floor of real images and the dissertation's curve."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.paths import StudyPaths
from noisesteps.tables import dissertation, read_table
from noisesteps.tables.published import IMAGE_SIZE, IMAGES

NOT_NOISE = 0.05  # share of x_0 in x_T above which sampling from noise is a mismatch
HALO = {"color": style.ORANGE, "alpha": 0.45, "markersize": 19, "markeredgewidth": 0}


def draw_scores(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw one data set's score over T, a line a schedule.

    The dissertation's FID shares the axis only with an FID of as many images; beside
    any other score it gets a panel and an axis of its own.
    """
    table = read_table(f"fid_{dataset}", paths)
    alike = candidates(table)
    published = dissertation("fid").query("dataset == @dataset")
    same_axis = comparable(table, study.preprocess.image_size)
    panels = 1 if same_axis or published.empty else 2
    figure = style.new_figure(style.WIDTH, 4.6)
    axes = figure.subplots(
        1, panels, width_ratios=[2.1, 1][:panels], squeeze=False
    ).flat
    main = axes[0]
    keys = _draw_lines(main, table, alike)
    steps = table["steps"].tolist()
    if same_axis and not published.empty:
        _draw_published(main, published)
        steps += published["steps"].tolist()
    _draw_floor(main, table)
    main.set_ylabel(f"{table['metric'].iloc[0]},\nlower is better")
    style.steps_axis(main, steps, inches=5.8 if panels == 1 else 3.7)
    style.from_zero(main)
    style.legend_below(figure, main, columns=2, keys=keys)
    if panels == 2:
        _draw_beside(axes[1], published)
    return figure


def comparable(table: DataFrame, image_size: int) -> bool:
    """Say whether scores can stand on one axis with the dissertation's FID."""
    metrics, counts = set(table["metric"]), set(table["images"])
    return metrics == {"FID"} and counts == {IMAGES} and image_size == IMAGE_SIZE


def candidates(table: DataFrame) -> dict[str, list[int]]:
    """Map each schedule to the T that cannot be told from its best.

    Empty where no test was made because the repeats give no interval.
    """
    rows = table[table["candidate"] & table["low"].notna()]
    return {
        schedule: sorted(int(steps) for steps in found["steps"])
        for schedule, found in rows.groupby("schedule", sort=False)
    }


def mismatched(table: DataFrame) -> DataFrame:
    """Return the rows whose x_T still shows x_0, while sampling starts from noise."""
    return table[table["terminal_signal"] > NOT_NOISE]


def _draw_lines(
    axes: Axes, table: DataFrame, alike: dict[str, list[int]]
) -> list[Line2D]:
    """Draw a line a schedule; return what explains its markers."""
    keys = []
    not_noise = mismatched(table)
    if not not_noise.empty:
        axes.plot(not_noise["steps"], not_noise["value"], "o", zorder=1, **HALO)
        names = ", ".join(not_noise["schedule"].unique())
        label = rf"{names}: $x_T$ is not noise ($\sqrt{{\bar\alpha_T}}$ > {NOT_NOISE})"
        keys.append(style.key(label, **HALO))
    ruled_out = 0
    for schedule, rows in table.groupby("schedule", sort=False):
        rows = rows.sort_values("steps")
        known = alike.get(schedule, rows["steps"].tolist())
        worse = rows[~rows["steps"].isin(known)]
        ruled_out += len(worse)
        _draw_line(axes, schedule, rows, worse)
    if table["steps"].nunique() > 1:
        ring = {"markerfacecolor": "none", "markersize": 12, "markeredgewidth": 1.2}
        keys.append(style.key("ring: the lowest score of its line", **ring))
    if alike:
        keys.append(style.key("filled: cannot be told from its line's best T"))
    if ruled_out:
        label = "hollow: worse than its line's best T (95%)"
        keys.append(style.key(label, markerfacecolor="white"))
    return keys


def _draw_line(axes: Axes, schedule: str, rows: DataFrame, worse: DataFrame) -> None:
    colour, marker = style.SCHEDULES[schedule]
    size = style.MARKER_SIZES[schedule]
    best = rows.loc[rows["value"].idxmin()]
    label = f"{schedule} (best: {best['value']:.1f} at T = {best['steps']:,})"
    style.draw_band(axes, rows, colour)
    axes.plot(
        rows["steps"], rows["value"], color=colour, marker=marker, label=label,
        markersize=size,
    )  # fmt: skip
    axes.plot(
        worse["steps"], worse["value"], color=colour, marker=marker, linestyle="",
        markersize=size, markerfacecolor="white",
    )  # fmt: skip
    if len(rows) == 1:
        return
    axes.plot(
        best["steps"], best["value"], marker="o", markersize=12, color=colour,
        markerfacecolor="none", markeredgewidth=1.2,
    )  # fmt: skip


def _draw_published(axes: Axes, published: DataFrame) -> None:
    axes.plot(
        published["steps"], published["fid"], color=style.QUIET, linestyle="--",
        marker=".", label="dissertation, linear",
    )  # fmt: skip


def _draw_beside(axes: Axes, published: DataFrame) -> None:
    _draw_published(axes, published)
    axes.set_title("dissertation", color=style.QUIET, fontsize=9)
    axes.set_ylabel("FID, not comparable")
    style.steps_axis(axes, published["steps"].tolist(), inches=1.8)
    style.from_zero(axes)


def _draw_floor(axes: Axes, table: DataFrame) -> None:
    floor = table.iloc[0]
    value, low, high = (floor[f"real_floor{end}"] for end in ("", "_low", "_high"))
    label = f"real held-out images: {value:.1f}"
    style.draw_floor(axes, value, low, high, label)
