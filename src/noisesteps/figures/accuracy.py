"""Origin, Synthesis, Mix and the controls: accuracies, and what separates them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame, Series

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.figures.effects import LOOKS, draw_effects
from noisesteps.figures.inputs import classifier_tables
from noisesteps.paths import StudyPaths
from noisesteps.tables import read_table
from noisesteps.tables.inputs import comparisons

COLOURS = {
    "origin": style.BLUE,
    "synthesis": style.VERMILION,
    "mix": style.GREEN,
    "origin_repeated": style.SKY,
    "origin_augmented": style.PURPLE,
}
BREAK = "_\n"  # a name's lines below an axis; it stays the name of the config


def draw_classification(study: Study, paths: StudyPaths, _: str | None) -> Figure:
    """Draw a column an architecture: its accuracies, and below them the effects."""
    tables = {name: read_table(name, paths) for name in classifier_tables(study)}
    effects = tables.get("classification_effects")
    architectures = study.classification.architectures
    heights = [2.8] if effects is None else [2.8, 1 + 0.45 * len(comparisons(study))]
    figure = style.new_figure(style.WIDTH, 1.6 + sum(heights))  # words: 1.6 inches
    panels = figure.subplots(
        len(heights), len(architectures), sharey="row", squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    for column, architecture in zip(panels.T, architectures, strict=True):
        runs, means, *compared = (
            table[table["architecture"] == architecture]
            for table in (tables["classifiers"], tables["classification"], effects)
            if table is not None
        )
        _draw_architecture(column[0], study.classification.sets, runs, means)
        column[0].set_title(architecture)
        for rows_of in compared:
            draw_effects(column[1], rows_of)
    _scale(panels[0], tables["classifiers"], len(study.classification.datasets))
    _legend(figure, panels[0, 0], compared=effects is not None)
    return figure


def _scale(panels: np.ndarray, runs: DataFrame, classes: int) -> None:
    """Mark what guessing gives, and let the axis reach from there to 100 %."""
    guessing = 100 / classes
    for axes in panels:
        axes.axhline(
            guessing, color=style.QUIET, linewidth=1, linestyle=":",
            label=f"guessing ({guessing:.0f}%)",
        )  # fmt: skip
    low = min(100 * runs["accuracy"].min(), guessing)
    panels[0].set_ylim(max(low - 8, 0), 104)
    panels[0].set_ylabel("accuracy on test images, %")


def _draw_architecture(
    axes: Axes, sets: list[str], runs: DataFrame, means: DataFrame
) -> None:
    means = means.set_index("set")
    for place, name in enumerate(sets):
        accuracies = 100 * runs.loc[runs["set"] == name, "accuracy"].to_numpy()
        spread = np.linspace(-0.12, 0.12, len(accuracies)) if len(accuracies) > 1 else 0
        axes.plot(
            place - 0.1 + spread * np.ones(len(accuracies)), accuracies, linestyle="",
            marker="o", color=COLOURS[name], alpha=0.75,
            label="one classifier (a seed)" if place == 0 else None,
        )  # fmt: skip
        _draw_mean(axes, place, means.loc[name])
    shown = (100 * means.loc[sets, "accuracy_mean"]).tolist()
    labels = [
        f"{mean:.1f}\n{name.replace('_', BREAK)}"
        for name, mean in zip(sets, shown, strict=True)
    ]
    axes.set_xticks(range(len(sets)), labels, fontsize=6.8)
    axes.set_xlim(-0.6, len(sets) - 0.4)


def _draw_mean(axes: Axes, place: int, row: Series) -> None:
    """Draw the mean with its interval right of the dots, the dissertation left."""
    mean = 100 * row["accuracy_mean"]
    ends = 100 * np.array([row["accuracy_low"], row["accuracy_high"]])
    axes.plot([place + 0.22] * 2, ends, color=style.INK, linewidth=1.2)
    axes.plot(
        [place + 0.1, place + 0.34], [mean, mean], color=style.INK, linewidth=2,
        label="mean and 95% interval" if place == 0 else None,
    )  # fmt: skip
    if not np.isnan(row["dissertation_accuracy"]):
        axes.plot(
            place - 0.38, 100 * row["dissertation_accuracy"], marker="D", linestyle="",
            color=style.QUIET, markerfacecolor="none",
            label="dissertation" if place == 0 else None,
        )  # fmt: skip


def _legend(figure: Figure, axes: Axes, compared: bool) -> None:
    """Put what both rows mean under the figure, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    for told, (colour, filled) in LOOKS.items() if compared else ():
        labels.append(f"{'' if told else 'not '}distinguishable from zero")
        handles.append(
            Line2D([], [], color=colour, marker="o", markersize=7, linewidth=2,
                   markerfacecolor=colour if filled else "white")
        )  # fmt: skip
    figure.legend(handles, labels, loc="outside lower left", ncols=3)
