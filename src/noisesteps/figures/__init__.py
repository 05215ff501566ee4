"""Figures: tables, samples and real images drawn for a reader.

`figure_names`, `figure_inputs` and `figure_records` say what exists and what it is
drawn from, without importing matplotlib; a workflow asks them while it plans. `draw`
writes one figure as PNG and SVG, `caption` returns the words that go with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from noisesteps.config import Study
from noisesteps.figures.inputs import (
    FigureInputs,
    figure_inputs,
    figure_names,
    figure_records,
)
from noisesteps.paths import StudyPaths

if TYPE_CHECKING:
    from noisesteps.figures.captions import Caption

__all__ = [
    "FigureInputs",
    "caption",
    "draw",
    "figure_inputs",
    "figure_names",
    "figure_records",
]


def draw(figure: str, study: Study, paths: StudyPaths) -> list[Path]:
    """Draw one figure; return the files written, PNG first.

    Parameters
    ----------
    figure
        One of `figure_names(study)`.

    Raises
    ------
    ConfigError
        If the study has no figure of that name.
    StageError
        If a table, a sample or a data set is missing; the message names it.
    """
    from noisesteps.figures.drawing import draw_figure

    return draw_figure(figure, study, paths)


def caption(figure: str, study: Study, paths: StudyPaths) -> Caption:
    """Return a figure's title, its caption and what it shows in words (alt text)."""
    from noisesteps.figures.captions import describe

    return describe(figure, study, paths)
