"""Grids of pictures: real training images, and samples with a row for each T."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from noisesteps.config import Study
from noisesteps.figures import sources
from noisesteps.figures.inputs import evenly, figure_inputs, rows_shown
from noisesteps.figures.style import QUIET, WIDTH
from noisesteps.paths import Run, StudyPaths

DATASET_ROWS = 2
MAX_ACROSS = 16  # pictures side by side, over all panels
GAP = 0.03  # inches between pictures
MARGIN = 0.1  # inches


@dataclass(frozen=True)
class Panel:
    """Rows of pictures under one title.

    `images` is uint8 (rows, columns, 3, H, W); each row has a label and small print.
    """

    title: str
    images: np.ndarray
    labels: list[str]
    small_print: list[str]


def columns_shown(study: Study, panels: int, images: int) -> int:
    """Count the pictures in a row of one panel."""
    return min(study.figures.grid_columns, MAX_ACROSS // panels, images)


def draw_dataset(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw real training images, spread evenly over the set."""
    images, _ = sources.real_images(dataset, paths)
    columns = min(study.figures.grid_columns, len(images))
    chosen = images[evenly(DATASET_ROWS * columns, len(images))]
    rows = len(chosen) // columns
    grid = chosen[: rows * columns].reshape(rows, columns, *images.shape[1:])
    return draw_panels([Panel("", grid, [""] * rows, [""] * rows)], study.figures.dpi)


def draw_samples(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw the first samples of every model: a panel a schedule, a row a T."""
    runs = figure_inputs(f"samples_{dataset}", study).samples
    arrays = {run: sources.generated_images(run, paths) for run in runs}
    schedules = study.diffusion.schedules
    fewest = min(len(images) for images in arrays.values())
    columns = columns_shown(study, len(schedules), fewest)
    panels = []
    for schedule in schedules:
        rows = [Run(dataset, schedule, steps) for steps in rows_shown(study)]
        signals = [sources.terminal_signal(run) for run in rows]
        panels.append(
            Panel(
                schedule,
                np.stack([arrays[run][:columns] for run in rows]),
                [f"T = {run.steps:,}" for run in rows],
                [_small_print(signal) for signal in signals],
            )
        )
    return draw_panels(panels, study.figures.dpi)


def _small_print(signal: float) -> str:
    shown = f"= {signal:.3f}" if signal >= 0.0005 else "< 0.001"
    return rf"$\sqrt{{\bar\alpha_T}}$ {shown}"


def draw_panels(panels: list[Panel], dpi: int) -> Figure:
    """Place panels side by side, up to the upper edge, where the headline goes."""
    rows, columns = panels[0].images.shape[:2]
    labels = 0.78 if any(panels[0].labels) else 0.0
    titles = 0.28 if panels[0].title else 0.0
    across = (WIDTH - 2 * MARGIN) / len(panels) - labels
    side = min(max(across / columns - GAP, 0.42), 0.85, max(11 / rows, 0.42))
    panel_width = labels + columns * (side + GAP) + (MARGIN if len(panels) > 1 else 0)
    # A narrow grid still needs room for its title.
    width = max(2 * MARGIN + len(panels) * panel_width, 0.8 * WIDTH)
    height = titles + rows * (side + GAP) + MARGIN
    figure = Figure(figsize=(width, height))
    for number, panel in enumerate(panels):
        left = MARGIN + number * panel_width + labels
        _draw_panel(figure, panel, left, titles, side, dpi)
    return figure


def _draw_panel(
    figure: Figure, panel: Panel, left: float, top: float, side: float, dpi: int
) -> None:
    """Draw one panel whose pictures start at `left` and `top`, in inches."""
    width, height = figure.get_size_inches()
    rows, columns = panel.images.shape[:2]
    canvas = compose(panel.images, round(side * dpi), round(GAP * dpi))
    axes = figure.add_axes(
        (
            left / width,
            1 - (top + rows * (side + GAP)) / height,
            columns * (side + GAP) / width,
            rows * (side + GAP) / height,
        )
    )
    axes.imshow(canvas, interpolation="none", aspect="auto")
    axes.set_axis_off()
    if panel.title:
        figure.text(
            left / width, 1 - (top - 0.07) / height, panel.title,
            fontsize=10, fontweight="bold",
        )  # fmt: skip
    for row, (label, small) in enumerate(
        zip(panel.labels, panel.small_print, strict=True)
    ):
        middle = top + row * (side + GAP) + side / 2
        at = (left - 0.07) / width
        figure.text(at, 1 - (middle - 0.02) / height, label, ha="right", va="bottom")
        figure.text(
            at, 1 - (middle + 0.02) / height, small,
            ha="right", va="top", fontsize=7, color=QUIET,
        )  # fmt: skip


def compose(images: np.ndarray, side: int, gap: int) -> np.ndarray:
    """Lay pictures out on white, each `side` pixels wide, `gap` pixels apart.

    Parameters
    ----------
    images
        uint8 (rows, columns, 3, H, W).

    Returns
    -------
    numpy.ndarray
        uint8 (rows * (side + gap), columns * (side + gap), 3).
    """
    rows, columns = images.shape[:2]
    pitch = side + gap
    canvas = np.full((rows * pitch, columns * pitch, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            tile = scale(images[row, column].transpose(1, 2, 0), side)
            y, x = row * pitch, column * pitch
            canvas[y : y + side, x : x + side] = tile
    return canvas


def scale(image: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture, uint8 (H, W, 3): pixels stay square when it grows."""
    larger = side >= image.shape[0]
    method = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((side, side), method))
