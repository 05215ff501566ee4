"""Origin, Synthesis and Mix: accuracy of every classifier."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.paths import StudyPaths
from noisesteps.tables import read_table

COLOURS = {
    "origin": style.BLUE,
    "synthesis": style.VERMILION,
    "mix": style.GREEN,
}


def draw_classification(study: Study, paths: StudyPaths, _: str | None) -> Figure:
    """Draw a panel an architecture: a dot a seed, a bar at the mean of each set."""
    runs = read_table("classifiers", paths)
    means = read_table("classification", paths)
    architectures = study.classification.architectures
    figure = style.new_figure(style.WIDTH, 4.1)
    panels = figure.subplots(1, len(architectures), sharey=True, squeeze=False)[0]
    for axes, architecture in zip(panels, architectures, strict=True):
        _draw_architecture(
            axes,
            study.classification.sets,
            runs[runs["architecture"] == architecture],
            means[means["architecture"] == architecture].set_index("set"),
        )
        axes.set_title(architecture)
    guessing = 100 / len(study.classification.datasets)
    for axes in panels:
        axes.axhline(
            guessing, color=style.QUIET, linewidth=1, linestyle=":",
            label=f"guessing ({guessing:.0f}%)",
        )  # fmt: skip
    low = min(100 * runs["accuracy"].min(), guessing)
    panels[0].set_ylim(max(low - 8, 0), 104)
    panels[0].set_ylabel("accuracy on test images, %")
    style.legend_below(figure, panels[0], columns=4)
    return figure


def _draw_architecture(
    axes: Axes, sets: list[str], runs: DataFrame, means: DataFrame
) -> None:
    for place, name in enumerate(sets):
        accuracies = 100 * runs.loc[runs["set"] == name, "accuracy"].to_numpy()
        spread = np.linspace(-0.16, 0.16, len(accuracies)) if len(accuracies) > 1 else 0
        mean = 100 * means.loc[name, "accuracy_mean"]
        axes.plot(
            place + spread * np.ones(len(accuracies)), accuracies, linestyle="",
            marker="o", color=COLOURS[name], alpha=0.75,
            label="one classifier (a seed)" if place == 0 else None,
        )  # fmt: skip
        axes.plot(
            [place - 0.26, place + 0.26], [mean, mean], color=style.INK, linewidth=2,
            label="mean" if place == 0 else None,
        )  # fmt: skip
        axes.annotate(
            f"{mean:.1f}", (place + 0.26, mean), (3, 0), va="center", fontsize=8.5,
            textcoords="offset points", fontweight="bold",
        )  # fmt: skip
        _draw_published(axes, place, means.loc[name, "dissertation_accuracy"])
    axes.set_xticks(range(len(sets)), sets)
    axes.set_xlim(-0.5, len(sets) - 0.15)


def _draw_published(axes: Axes, place: int, accuracy: float) -> None:
    if np.isnan(accuracy):
        return
    axes.plot(
        place - 0.36, 100 * accuracy, marker="D", color=style.QUIET, linestyle="",
        markerfacecolor="none", label="dissertation" if place == 0 else None,
    )  # fmt: skip
