"""What a schedule leaves of an image in x_T, while sampling starts from noise."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noisesteps.config import Study
from noisesteps.figures import sources, style
from noisesteps.figures.scores import NOT_NOISE
from noisesteps.paths import StudyPaths
from noisesteps.tables import read_table

if TYPE_CHECKING:
    from noisesteps.diffusion import Diffusion

REACH = 1000  # curves go on to here, so that linear's end of the mismatch is seen
POINTS = 120  # of a curve
# Columns of models.csv, in reading order, with what they are.
QUANTITIES = {
    "terminal_signal": "terminal signal\n" r"$\sqrt{\bar\alpha_T}$, share of $x_0$",
    "terminal_snr": "terminal SNR\n" r"$\bar\alpha_T\,/\,(1-\bar\alpha_T)$",
    "prior_divergence": "KL($q(x_T|x_0)$ ‖ N(0, I))\nnats a dimension",
}


@dataclass(frozen=True)
class Curve:
    """A quantity over T: its mean over the data sets, and its range."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def noise_from() -> Diffusion:
    """Return linear's process with the fewest steps whose x_T counts as noise."""
    from noisesteps.diffusion import Diffusion

    def gain(steps: int) -> float:
        return -Diffusion(steps, "linear").terminal_signal

    candidates = range(1, REACH + 1)
    return Diffusion(candidates[bisect_left(candidates, -NOT_NOISE, key=gain)])


def curve(
    quantity: str, schedule: str, steps: np.ndarray, mean_squares: list[float]
) -> Curve:
    """Compute one of `QUANTITIES` at some T; no model is needed for it.

    Parameters
    ----------
    quantity
        A key of `QUANTITIES`.
    schedule
        `linear`, `linear_scaled` or `cosine`.
    steps
        Values of T.
    mean_squares
        E[x_0²] of every data set, for the divergence.
    """
    from noisesteps.diffusion import Diffusion

    processes = [Diffusion(int(value), schedule) for value in steps]
    values = np.array(
        [_of_data_sets(quantity, process, mean_squares) for process in processes]
    )
    return Curve(steps, values.mean(axis=1), values.min(axis=1), values.max(axis=1))


def _of_data_sets(
    quantity: str, process: Diffusion, mean_squares: list[float]
) -> list[float]:
    if quantity == "prior_divergence":
        return [process.prior_divergence(value) for value in mean_squares]
    return [getattr(process, quantity)] * len(mean_squares)


def draw_schedule(study: Study, paths: StudyPaths, _: str | None) -> Figure:
    """Draw signal, signal-to-noise ratio and divergence over T, a line a schedule."""
    table = read_table("models", paths)
    mean_squares = [sources.mean_square(dataset, paths) for dataset in study.datasets]
    edge = noise_from()
    shown = [*table["steps"].tolist(), REACH]
    steps = np.geomspace(min(shown), max(shown), POINTS).round().astype(int)
    figure = style.new_figure(style.WIDTH, 7.4)
    panels = figure.subplots(len(QUANTITIES), 1, sharex=True)
    for axes, (quantity, label) in zip(panels, QUANTITIES.items(), strict=True):
        for schedule in study.diffusion.schedules:
            found = curve(quantity, schedule, np.unique(steps), mean_squares)
            _draw_curve(axes, schedule, found)
            rows = table[table["schedule"] == schedule].groupby("steps")[quantity]
            _draw_models(axes, schedule, rows.agg(["mean", "min", "max"]))
        axes.set_ylabel(label)
        axes.set_yscale("linear" if quantity == "terminal_signal" else "log")
        _mark_mismatch(axes, np.mean(_of_data_sets(quantity, edge, mean_squares)))
        style.steps_axis(axes, shown)
    if "linear" in study.diffusion.schedules:
        _mark_edge(panels, edge.steps)
    for axes in panels[:-1]:
        axes.set_xlabel("")
    marks = style.key("the models of this study")
    shade = style.key(
        rf"$x_T$ is not noise ($\sqrt{{\bar\alpha_T}}$ > {NOT_NOISE})",
        marker="s", color=style.ORANGE, alpha=0.3, markersize=10,
    )  # fmt: skip
    style.legend_below(figure, panels[0], columns=3, keys=[marks, shade])
    return figure


def _draw_curve(axes: Axes, schedule: str, found: Curve) -> None:
    colour, _ = style.SCHEDULES[schedule]
    axes.plot(found.steps, found.mean, color=colour, label=schedule)
    axes.fill_between(
        found.steps, found.low, found.high, color=colour, alpha=0.16, linewidth=0
    )


def _draw_models(axes: Axes, schedule: str, rows: object) -> None:
    colour, marker = style.SCHEDULES[schedule]
    axes.plot(
        rows.index, rows["mean"], color=colour, marker=marker, linestyle="",
        markersize=style.MARKER_SIZES[schedule],
    )  # fmt: skip
    axes.vlines(rows.index, rows["min"], rows["max"], color=colour, linewidth=1)


def _mark_mismatch(axes: Axes, threshold: float) -> None:
    """Shade where x_T is not noise, up to the upper end of the axis."""
    bottom, top = axes.get_ylim()
    if axes.get_yscale() == "linear":
        top = max(1.02 * top, 2 * threshold)
        bottom = -0.05 * top  # room for markers that lie on zero
    else:
        top = max(top, 10 * threshold)
    axes.axhspan(threshold, top, color=style.ORANGE, alpha=0.13, linewidth=0)
    axes.set_ylim(bottom, top)


def _mark_edge(panels: np.ndarray, steps: int) -> None:
    """Mark the T from which linear's x_T counts as noise."""
    for axes in panels:
        axes.axvline(steps, color=style.BLUE, linewidth=1, linestyle=":")
    first = panels[0]
    at, _ = first.transAxes.inverted().transform(first.transData.transform((steps, 0)))
    first.annotate(
        f"linear: noise from T = {steps} on", (steps, 1), (4 if at < 0.6 else -4, -4),
        ha="left" if at < 0.6 else "right", va="top", fontsize=8.5, color=style.BLUE,
        xycoords=("data", "axes fraction"), textcoords="offset points",
    )  # fmt: skip
