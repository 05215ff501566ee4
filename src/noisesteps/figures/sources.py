"""What figures are drawn from, opened with an error that names what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame

from noisesteps.errors import StageError
from noisesteps.paths import Run, StudyPaths


def _require(path: Path, stage: str) -> Path:
    if not path.is_file():
        raise StageError(f"{path} is missing; run the stage {stage} first.")
    return path


def real_images(dataset: str, paths: StudyPaths) -> tuple[np.ndarray, int]:
    """Return a data set's training images, uint8 (N, 3, H, W), and the held-out count.

    Raises
    ------
    StageError
        If the data set has not been preprocessed.
    """
    from noisesteps.data.array import load_images

    images = load_images(paths.data(dataset))
    return images.train, len(images.held_out)


def generated_images(run: Run, paths: StudyPaths) -> np.ndarray:
    """Return a run's samples, uint8 (N, 3, H, W), mapped and not read.

    Raises
    ------
    StageError
        If the run has not been sampled, or its samples are not such an array.
    """
    from noisesteps.data.array import load_samples

    return load_samples(_require(paths.samples(run) / "images.npy", "sample").parent)


def history(run: Run, paths: StudyPaths) -> DataFrame:
    """Return a run's training history: optimizer_step, loss and more, row by row.

    Raises
    ------
    StageError
        If the run has not been trained, or its history lacks a column.
    """
    path = _require(paths.model(run) / "history.csv", "train")
    try:
        return pd.read_csv(path, usecols=["optimizer_step", "loss"], dtype=float)
    except ValueError as error:
        raise StageError(
            f"{path} cannot be read ({error}); remove it and run the stage train again."
        ) from error


def terminal_signal(run: Run) -> float:
    """Return the share of x_0 left in x_T, the square root of alpha_bar_T."""
    from noisesteps.diffusion import Diffusion

    return float(Diffusion(run.steps, run.schedule).terminal_signal)
