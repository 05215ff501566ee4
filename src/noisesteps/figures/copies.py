"""Does a model memorise? The generated images that come closest to a training image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from noisesteps.config import Study
from noisesteps.data.array import Images
from noisesteps.figures import grids, sources
from noisesteps.figures.inputs import figure_inputs
from noisesteps.figures.style import INK, QUIET, VERMILION, WIDTH
from noisesteps.figures.words import run_name
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.scores import COPY_RATIO, NEIGHBOURS

SPACES = {"feature": "by features", "pixel": "by pixels"}
GENERATED, REAL, ACROSS = 8, 4, 4  # pairs of a space, of each kind; pairs in a row
SIDE, GAP, BETWEEN = 0.8, 0.03, 0.13  # inches
WORDS, HEADING, SUBHEADING = 0.5, 0.3, 0.24  # inches under a pair, above pairs
MARGIN = 0.1


@dataclass(frozen=True)
class Pair:
    """An image and its nearest training image, uint8 (3, H, W).

    `relative` is their distance, divided by the mean distance of the next nearest ones.
    """

    image: np.ndarray
    nearest: np.ndarray
    relative: float
    name: str = ""


@dataclass(frozen=True)
class Neighbours:
    """The closest pairs in one space, closest first; of real ones there may be none."""

    generated: list[Pair]
    real: list[Pair]


def draw_copies(study: Study, paths: StudyPaths, dataset: str) -> Figure:
    """Draw pairs by features and by pixels: generated ones, and real ones for scale."""
    found = {space: neighbours(space, study, paths, dataset) for space in SPACES}
    height = MARGIN + sum(_height(space) for space in found.values())
    figure = Figure(figsize=(WIDTH, height))
    top = 0.0
    for space, chosen in found.items():
        heading = (
            f"nearest {SPACES[space]}, as a share of the distance to the next "
            f"{NEIGHBOURS}: a near-copy lies below {COPY_RATIO:g}"
        )
        _write(figure, MARGIN, top + 0.02, heading, weight="bold", size=9)
        top = _draw_pairs(figure, chosen.generated, top + HEADING, study.figures.dpi)
        if chosen.real:
            words = "for scale, the closest real held-out images:"
            _write(figure, MARGIN, top + 0.02, words, colour=QUIET, size=8.5)
            top = _draw_pairs(figure, chosen.real, top + SUBHEADING, study.figures.dpi)
    return figure


def neighbours(space: str, study: Study, paths: StudyPaths, dataset: str) -> Neighbours:
    """Find the closest pairs of a data set in one space.

    Generated images are those of every schedule, T and sampler, of the first
    training.

    Raises
    ------
    StageError
        If a record, a sample or the data set is missing, or they do not match.
    """
    images = sources.dataset_images(dataset, paths)
    rows = sources.real_neighbours(dataset, paths, images)
    closest = rows.nsmallest(REAL, f"{space}_relative").to_dict("records")
    real = [
        _pair(images.held_out[int(row["image"])], images.train, row, space)
        for row in closest
    ]
    runs = figure_inputs(f"copies_{dataset}", study).scores
    return Neighbours(_generated(space, runs, images, paths), real)


def _pair(
    image: np.ndarray,
    train: np.ndarray,
    row: dict[str, Any],
    space: str,
    name: str = "",
) -> Pair:
    nearest = _as_compared(image, train[int(row[f"{space}_index"])])
    return Pair(image, nearest, row[f"{space}_relative"], name)


def _generated(
    space: str, runs: tuple[Run, ...], images: Images, paths: StudyPaths
) -> list[Pair]:
    """Return the closest pairs of some runs, closest first."""
    found = [
        sources.neighbours(run, paths, len(images.train)).assign(place=place)
        for place, run in enumerate(runs)
    ]
    closest = pd.concat(found).sort_values([f"{space}_relative", "place", "image"])
    pairs = []
    for row in closest.head(GENERATED).to_dict("records"):
        run = runs[row["place"]]
        sample = sources.generated_images(run, paths)[int(row["image"])]
        name = run_name(run.schedule, run.steps, run.sampler)
        pairs.append(_pair(sample, images.train, row, space, name))
    return pairs


def _as_compared(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return `other`, or its mirror image (training shows both) where it is nearer."""
    mirrored = other[..., ::-1]
    either = [
        np.square(image.astype(np.int64) - shown).sum() for shown in (other, mirrored)
    ]
    return mirrored if either[1] < either[0] else other


def _rows(pairs: list[Pair]) -> int:
    return -(-len(pairs) // ACROSS)


def _height(found: Neighbours) -> float:
    rows = _rows(found.generated) + _rows(found.real)
    below = SUBHEADING if found.real else 0
    return HEADING + below + rows * (SIDE + WORDS)


def _draw_pairs(figure: Figure, pairs: list[Pair], top: float, dpi: int) -> float:
    """Draw rows of pairs from `top`, in inches; return where they end."""
    pitch = 2 * SIDE + GAP + BETWEEN
    for place, pair in enumerate(pairs):
        row, column = divmod(place, ACROSS)
        left, above = MARGIN + column * pitch, top + row * (SIDE + WORDS)
        _draw_pair(figure, pair, left, above, dpi, pair.relative < COPY_RATIO)
    return top + _rows(pairs) * (SIDE + WORDS)


def _draw_pair(
    figure: Figure, pair: Pair, left: float, top: float, dpi: int, copied: bool
) -> None:
    """Draw one pair, framed where it is a near-copy, with its distance."""
    width, height = figure.get_size_inches()
    both = np.stack([pair.image, pair.nearest])[None]
    canvas = grids.compose(both, round(SIDE * dpi), round(GAP * dpi))
    across, down = 2 * (SIDE + GAP), SIDE + GAP
    axes = figure.add_axes(
        (left / width, 1 - (top + down) / height, across / width, down / height)
    )
    axes.imshow(canvas, interpolation="none", aspect="auto")
    axes.set_axis_off()
    if copied:
        corner = (left / width, 1 - (top + SIDE) / height)
        figure.add_artist(
            Rectangle(
                corner, (across - GAP) / width, SIDE / height, linewidth=2.5,
                edgecolor=VERMILION, facecolor="none", transform=figure.transFigure,
            )
        )  # fmt: skip
    _write(
        figure, left, top + SIDE + 0.04,
        shown_distance(pair.relative) + (", near-copy" if copied else ""),
        size=8, colour=VERMILION if copied else INK,
    )  # fmt: skip
    name = pair.name.replace(", in ", ",\nin ")  # a pair is too narrow for one line
    _write(figure, left, top + SIDE + 0.17, name, size=7.5, colour=QUIET)


def shown_distance(relative: float) -> str:
    """Write a relative distance; what is no exact copy never reads as one."""
    return f"{relative:.2f}" if relative >= 0.005 or relative == 0 else "< 0.01"


def _write(
    figure: Figure, left: float, top: float, words: str, *, size: float,
    colour: str = INK, weight: str = "normal",
) -> None:  # fmt: skip
    width, height = figure.get_size_inches()
    figure.text(
        left / width, 1 - top / height, words, fontsize=size, color=colour,
        fontweight=weight, va="top",
    )  # fmt: skip
