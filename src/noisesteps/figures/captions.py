"""The words that go with a figure: title, caption, and what it shows (alt text)."""

from __future__ import annotations

import math

from pandas import DataFrame, Series

from noisesteps.config import Classification, Study
from noisesteps.figures import sources
from noisesteps.figures.copies import SPACES, Neighbours, neighbours, shown_distance
from noisesteps.figures.effects import LEVEL, outcome, points
from noisesteps.figures.grids import DATASET_ROWS, columns_shown
from noisesteps.figures.inputs import (
    classifier_tables,
    figure_inputs,
    figure_kind,
    rows_shown,
)
from noisesteps.figures.score_captions import (
    fewer_steps,
    measures,
    quality_vs_cost,
    schedule,
    scores,
)
from noisesteps.figures.words import Caption, listed
from noisesteps.paths import StudyPaths
from noisesteps.tables import dissertation, read_table

__all__ = ["Caption", "describe"]


def describe(figure: str, study: Study, paths: StudyPaths) -> Caption:
    """Return the words of one figure; see `noisesteps.figures.caption`."""
    kind, dataset = figure_kind(figure, study)
    return DESCRIBE[kind](study, paths, dataset)


def _dataset(study: Study, paths: StudyPaths, dataset: str) -> Caption:
    images, held_out = sources.real_images(dataset, paths)
    shown = min(DATASET_ROWS * study.figures.grid_columns, len(images))
    size = f"{images.shape[3]} × {images.shape[2]} pixels"
    return Caption(
        f"{dataset}: {shown} of {len(images):,} training images",
        f"Real images, {size}, RGB, spread evenly over the set; {held_out:,} further "
        "images are held out of training.",
        f"A grid of {shown} real training images of {dataset}, {size}.",
    )


def _samples(study: Study, paths: StudyPaths, dataset: str) -> Caption:
    runs = figure_inputs(f"samples_{dataset}", study).samples
    arrays = [sources.generated_images(run, paths) for run in runs]
    schedules = study.diffusion.schedules
    columns = columns_shown(study, len(schedules), min(map(len, arrays)))
    rows = rows_shown(study)
    total = len(study.diffusion.steps)
    fewer = (
        f" {len(rows)} of {total} values of T are shown." if len(rows) < total else ""
    )
    return Caption(
        f"{dataset}: samples, one row for each T",
        f"Columns: the first {columns} images of each model{_first(study)}, "
        "unselected. Small print: "
        "the amplitude of the image that is left in x_T after T steps; sampling "
        "assumes that none is." + fewer,
        f"A grid of images generated for {dataset}: rows for T = "
        f"{listed(rows)}; one panel for each schedule: {', '.join(schedules)}.",
    )


def _copies(study: Study, paths: StudyPaths, dataset: str) -> Caption:
    table = read_table("copies", paths)
    table = table[table["dataset"] == dataset]
    found = {space: neighbours(space, study, paths, dataset) for space in SPACES}
    closest = [f"{SPACES[space]} {_closest(chosen)}" for space, chosen in found.items()]
    shares = _near_copies(table)
    return Caption(
        f"{dataset}: the generated images that come closest to a training image",
        f"Left an image of a model{_first(study)}, right its nearest training image "
        "(mirrored where that is nearer), by features of "
        f"{study.evaluation.extractor} or by pixels. The number is their distance over "
        f"the mean distance of the next nearest training images. {shares}",
        f"Pairs of a generated image and its nearest training image of {dataset}. "
        f"Smallest relative distance: {'; '.join(closest)}. {shares}",
    )


def _closest(found: Neighbours) -> str:
    pair = found.generated[0]
    beside = ""
    if found.real:
        beside = f", real images {shown_distance(found.real[0].relative)}"
    return f"{shown_distance(pair.relative)} ({pair.name}){beside}"


def _first(study: Study) -> str:
    """Name the training that is shown, where there are several."""
    return "'s first training" if study.training.seeds > 1 else ""


def _near_copies(table: DataFrame) -> str:
    """Say which share of a data set's generated images are near-copies."""
    parts = [
        f"{rows['copies'].sum() / rows['images'].sum():.1%} {SPACES[space]} (real "
        f"held-out images: {_share(rows['real_share'].iloc[0])})"
        for space, rows in table.groupby("space", sort=False)
    ]
    return (
        f"Near-copies among {table['images'].sum() // len(parts):,} generated images: "
        f"{', '.join(parts)}. Real images that equal a training image pixel for "
        "pixel are left out."
    )


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1%}"


def _generation_time(study: Study, paths: StudyPaths, _: str | None) -> Caption:
    table = read_table("generation_time", paths)
    means = table.groupby("steps", as_index=False)["seconds_per_image"].mean()
    published = dissertation("generation_time")
    size = study.preprocess.image_size
    method = table["method"].iloc[0]
    if study.sampling.sampling_steps:
        method += f", {study.sampling.sampling_steps} network evaluations an image"
    devices = "; ".join(dict.fromkeys(table["device"]))
    return Caption(
        "Time to generate images over the number of noise steps",
        f"This study: {len(table):,} models, {study.sampling.images:,} images of "
        f"{size} × {size} pixels, {study.network.preset}, {method}, on {devices}. "
        "Dissertation: 128 images of 128 × 128 pixels on an NVIDIA Tesla P40. The axes "
        "differ.",
        "Two line charts of generation time over T. This study: "
        f"{_ends(means['steps'], means['seconds_per_image'])}. Dissertation: "
        f"{_ends(published['steps'], published['seconds'] / 128)}.",
    )


def _ends(steps: Series, seconds: Series) -> str:
    return (
        f"{seconds.iloc[0]:.3g} seconds an image at T = {steps.iloc[0]}, "
        f"{seconds.iloc[-1]:.3g} at T = {steps.iloc[-1]}"
    )


def _training_loss(study: Study, paths: StudyPaths, dataset: str) -> Caption:
    return Caption(
        f"{dataset}: training loss over the updates",
        f"Mean squared error of the predicted noise of each model{_first(study)}, one "
        "line for each T. Models of different T see different amounts of noise, so a "
        "lower loss does not mean better images.",
        f"Line charts of the training loss of {dataset} over the updates, one line for "
        f"each of T = {listed(sorted(study.diffusion.steps))}; one panel for each "
        f"schedule: {', '.join(study.diffusion.schedules)}.",
    )


def _classification(study: Study, paths: StudyPaths, _: str | None) -> Caption:
    tables = {name: read_table(name, paths) for name in classifier_tables(study)}
    table, chosen = tables["classification"], study.classification
    effects = tables.get("classification_effects")
    means = [
        f"{row.architecture} {row.set}: {100 * row.accuracy_mean:.1f}%"
        for row in table.itertuples()
    ]
    known = table["dissertation_accuracy"].notna().any()
    return Caption(
        "Do generated images help a classifier?",
        f"{' against '.join(chosen.datasets)}; {_sets(chosen)}. "
        f"{table['test_images'].iloc[0]:,} real test images that no diffusion model "
        f"saw; {_counted(chosen.seeds, 'repetition')} from random weights."
        + ("" if effects is None else _below(effects))
        + (DISSERTATION if known else ""),
        f"Dot plot of classification accuracy. {'; '.join(means)}."
        + ("" if effects is None else _compared(effects)),
    )


DISSERTATION = (
    " The dissertation prints one accuracy a set: 128 × 128 pixels, linear schedule, "
    "neither T nor repetitions stated."
)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _below(effects: DataFrame) -> str:
    """Say how the differences in the lower row came about, and what they cover."""
    if effects["p_value"].isna().all():
        return " Below: differences; the repetitions are too few or too alike to tell."
    return (
        " Below: mean differences of paired repetitions with 95% intervals; black "
        f"where a paired t-test tells them from zero at {LEVEL:.0%}, after Holm's "
        f"correction for {_counted(effects['p_value'].count(), 'test')}. Intervals "
        "cover the seeds of training, not the choice of images."
    )


def _compared(effects: DataFrame) -> str:
    words = {"unknown": ", not distinguishable from zero"}
    shown = [
        f"{row['architecture']} {row['set']} minus {row['baseline']}: {points(row)}"
        + words.get(outcome(row), "")
        for _, row in effects.iterrows()
    ]
    return f" Differences in percentage points with 95% intervals. {'; '.join(shown)}."


def _sets(chosen: Classification) -> str:
    count = chosen.images_per_class
    words = {
        "origin": f"origin: {count} real images a class",
        "synthesis": f"synthesis: {count} generated images a class "
        f"({chosen.schedule}, T = {chosen.steps})",
        "mix": "mix: both",
        "origin_repeated": "origin_repeated: the real images twice",
        "origin_augmented": "origin_augmented: the real images and as many flipped, "
        "cropped and rotated versions",
    }
    return "; ".join(words[name] for name in chosen.sets)


DESCRIBE = {
    "dataset": _dataset,
    "samples": _samples,
    "schedule": schedule,
    "fid": scores,
    "scores": measures,
    "fewer_steps": fewer_steps,
    "quality_vs_cost": quality_vs_cost,
    "copies": _copies,
    "generation_time": _generation_time,
    "training_loss": _training_loss,
    "classification": _classification,
}
