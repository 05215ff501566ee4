"""What a T costs: time to generate, and the loss on the way."""

from __future__ import annotations

from itertools import cycle

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from noisesteps.config import Study
from noisesteps.figures import sources, style
from noisesteps.figures.inputs import evenly, figure_inputs
from noisesteps.paths import StudyPaths
from noisesteps.tables import dissertation, read_table

# Data sets that share a network take the same time: their points lie on each other.
POINTS = list(zip(style.SEQUENCE, "os^Dvp", strict=True))
LEGEND_ENTRIES = 6  # shades between them are read from the order


def draw_generation_time(study: Study, paths: StudyPaths, _: str | None) -> Figure:
    """Draw the time for `sampling.images` images over T, ours and the dissertation's.

    A point is a model; the line is the mean over data sets, schedules and trainings.
    Runs that generated more images, for the classifiers, are scaled by their time an
    image. The two panels have axes of their own: the work and the machine differ.
    """
    table = read_table("generation_time", paths)
    table["shown"] = table["seconds_per_image"] * study.sampling.images
    figure = style.new_figure(style.WIDTH, 4.1)
    ours, theirs = figure.subplots(1, 2, width_ratios=[1.5, 1])
    unit, name = style.time_unit(table["shown"].max())
    means = table.groupby("steps")["shown"].mean() / unit
    ours.plot(means.index, means, color=style.INK, label="mean of all models")
    for look, (dataset, rows) in zip(
        cycle(POINTS), table.groupby("dataset", sort=False), strict=False
    ):
        colour, marker = look
        ours.plot(
            rows["steps"], rows["shown"] / unit, color=colour, marker=marker,
            linestyle="", markerfacecolor="none", markersize=5.5,
            label=f"a model of {dataset}",
        )  # fmt: skip
    ours.set_ylabel(f"time for {study.sampling.images:,} images, {name}")
    ours.set_title("this study")
    _from_zero(ours)
    _draw_published_time(theirs)
    style.legend_below(figure, ours, columns=2)
    return figure


def _draw_published_time(axes: Axes) -> None:
    published = dissertation("generation_time")
    unit, name = style.time_unit(published["seconds"].max())
    axes.plot(
        published["steps"], published["seconds"] / unit, color=style.QUIET,
        linestyle="--", marker=".",
    )  # fmt: skip
    axes.set_ylabel(f"time for 128 images, {name}")
    axes.set_title("dissertation", color=style.QUIET)
    _from_zero(axes)


def _from_zero(axes: Axes) -> None:
    """Start both axes at zero, so that a proportional cost is a line through it."""
    axes.set_xlim(left=0)
    style.from_zero(axes)
    axes.set_xlabel("number of noise steps T")
    style.round_ticks(axes, 5)


def draw_training_loss(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw the loss over the updates: a panel a schedule, a line a T.

    The lightest shade of viridis is left out: it would be lost on white.
    """
    schedules = study.diffusion.schedules
    steps = sorted(study.diffusion.steps)
    palette = mpl.colormaps["viridis"]
    shades = [0.8 * place / max(len(steps) - 1, 1) for place in range(len(steps))]
    colours = dict(zip(steps, map(palette, shades), strict=True))
    figure = style.new_figure(style.WIDTH, 4.1)
    panels = figure.subplots(1, len(schedules), sharey=True, squeeze=False)[0]
    lines = {}
    for run in figure_inputs(f"training_loss_{dataset}", study).histories:
        rows = sources.history(run, paths)
        axes = panels[schedules.index(run.schedule)]
        (lines[run.steps],) = axes.plot(
            rows["optimizer_step"], rows["loss"], color=colours[run.steps],
            linewidth=1.1, marker="." if len(rows) < 10 else "",
        )  # fmt: skip
    for axes, schedule in zip(panels, schedules, strict=True):
        axes.set_title(schedule)
        axes.set_xlabel("updates")
        axes.set_xlim(left=0)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        style.round_ticks(axes, 6 // len(schedules) + 1)
    panels[0].set_ylabel("loss: squared error of the noise")
    named = [steps[place] for place in evenly(LEGEND_ENTRIES, len(steps))]
    labels = [f"T = {value:,}" for value in named]
    handles = [lines[value] for value in named]
    figure.legend(handles, labels, loc="outside lower left", ncols=LEGEND_ENTRIES)
    return figure
