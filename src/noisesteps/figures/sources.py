"""What figures are drawn from, opened with an error that names what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas import DataFrame

from noisesteps.errors import StageError
from noisesteps.paths import Run, StudyPaths
from noisesteps.records import recorded
from noisesteps.tables.records import read_record

if TYPE_CHECKING:
    from noisesteps.data.array import Images

NEIGHBOURS = {
    "image": int,
    "feature_index": int,
    "feature_relative": float,
    "pixel_index": int,
    "pixel_distance": float,
    "pixel_relative": float,
}


def dataset_images(dataset: str, paths: StudyPaths) -> Images:
    """Open a data set's training and held-out images.

    Raises
    ------
    StageError
        If the data set has not been preprocessed.
    """
    from noisesteps.data.array import load_images

    return load_images(paths.data(dataset))


def real_images(dataset: str, paths: StudyPaths) -> tuple[np.ndarray, int]:
    """Return a data set's training images, uint8 (N, 3, H, W), and the held-out count.

    Raises
    ------
    StageError
        If the data set has not been preprocessed.
    """
    found = dataset_images(dataset, paths)
    return found.train, len(found.held_out)


def mean_square(dataset: str, paths: StudyPaths) -> float:
    """Return E[x_0²] over all values of the training images, which lie in [-1, 1].

    Raises
    ------
    StageError
        If the data set has not been preprocessed.
    """
    path = paths.data(dataset) / "dataset.json"
    return read_record(path, "preprocess", ["mean_square"])["mean_square"]


def real_neighbours(dataset: str, paths: StudyPaths, images: Images) -> DataFrame:
    """Return the nearest training image of every held-out image; see `NEIGHBOURS`.

    Images that are in the training set too, pixel by pixel, are left out.

    Raises
    ------
    StageError
        If the data set has not been described, the file has changed since, or images
        are named that the data set lacks.
    """
    path = paths.reference(dataset) / "nearest.csv"
    recorded(path, "reference.json", "reference")
    rows = _neighbours(path, "reference", len(images.held_out), len(images.train))
    return rows[rows["pixel_distance"] > 0]


def neighbours(run: Run, paths: StudyPaths, train_images: int) -> DataFrame:
    """Return the nearest training image of each of a run's images; see `NEIGHBOURS`.

    Raises
    ------
    StageError
        If the run has not been scored, the file has changed since, or names images
        that are not there.
    """
    path = recorded(paths.score(run) / "nearest.csv", "score.json", "score")
    return _neighbours(path, "score", len(generated_images(run, paths)), train_images)


def _neighbours(path: Path, stage: str, images: int, train_images: int) -> DataFrame:
    again = f"remove it and run `noisesteps {stage}` again."
    if not path.read_text(encoding="utf-8").strip():  # no image, no column
        return DataFrame(columns=list(NEIGHBOURS)).astype(NEIGHBOURS)
    try:
        rows = pd.read_csv(path, usecols=list(NEIGHBOURS), dtype=NEIGHBOURS)
    except ValueError as error:
        raise StageError(f"{path} cannot be read ({error}); {again}") from error
    nearest = rows[["feature_index", "pixel_index"]].to_numpy()
    if (rows["image"] >= images).any() or (nearest >= train_images).any():
        raise StageError(
            f"{path} names images that the {images} samples or {train_images} "
            f"training images lack; {again}"
        )
    return rows


def generated_images(run: Run, paths: StudyPaths) -> np.ndarray:
    """Return a run's samples, uint8 (N, 3, H, W), mapped and not read.

    Raises
    ------
    StageError
        If the run has not been sampled, or its samples are not such an array.
    """
    from noisesteps.data.array import load_samples

    return load_samples(paths.samples(run))


def history(run: Run, paths: StudyPaths) -> DataFrame:
    """Return a run's training history: optimizer_step, loss and more, row by row.

    Raises
    ------
    StageError
        If the run has not been trained, or its history has changed since, or lacks
        a column.
    """
    path = recorded(paths.model(run) / "history.csv", "model.json", "train")
    try:
        return pd.read_csv(path, usecols=["optimizer_step", "loss"], dtype=float)
    except ValueError as error:
        raise StageError(
            f"{path} cannot be read ({error}); remove it and run `noisesteps train` "
            "again."
        ) from error


def terminal_signal(run: Run) -> float:
    """Return the share of x_0 left in x_T, the square root of alpha_bar_T."""
    from noisesteps.diffusion import Diffusion

    return float(Diffusion(run.steps, run.schedule).terminal_signal)
