"""Draw one figure: its picture, its headline, its files."""

from __future__ import annotations

from pathlib import Path

from noisesteps.config import Study
from noisesteps.figures import (
    accuracy,
    copies,
    costs,
    fewer_steps,
    grids,
    measures,
    quality_vs_cost,
    schedule,
    scores,
    style,
)
from noisesteps.figures.captions import describe
from noisesteps.figures.inputs import figure_kind
from noisesteps.paths import StudyPaths

DRAW = {
    "dataset": grids.draw_dataset,
    "samples": grids.draw_samples,
    "schedule": schedule.draw_schedule,
    "fid": scores.draw_scores,
    "scores": measures.draw_measures,
    "fewer_steps": fewer_steps.draw_fewer_steps,
    "quality_vs_cost": quality_vs_cost.draw_quality_vs_cost,
    "copies": copies.draw_copies,
    "generation_time": costs.draw_generation_time,
    "training_loss": costs.draw_training_loss,
    "classification": accuracy.draw_classification,
}


def draw_figure(figure: str, study: Study, paths: StudyPaths) -> list[Path]:
    """Draw one figure and write it; see `noisesteps.figures.draw`."""
    kind, dataset = figure_kind(figure, study)
    caption = describe(figure, study, paths)
    with style.styled():
        picture = DRAW[kind](study, paths, dataset)
        style.headline(picture, caption.title, caption.text)
        files = [paths.figure(figure, suffix) for suffix in (".png", ".svg")]
        return style.save(picture, *files, dpi=study.figures.dpi)
