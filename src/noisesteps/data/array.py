"""The array of a data set, as every later stage reads it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noisesteps.errors import StageError
from noisesteps.files import read_json

MANIFEST_COLUMNS = ("index", "source", "sha256", "label", "split")


@dataclass(frozen=True)
class Images:
    """Both parts of a data set, as views of one read-only memory map.

    Attributes
    ----------
    train
        uint8 (N, 3, H, W), RGB, 0 to 255: the images that diffusion models see.
    held_out
        The same, for the images that no diffusion model sees; N may be 0.
    """

    train: np.ndarray
    held_out: np.ndarray


def load_images(folder: str | Path) -> Images:
    """Open `images.npy` of `folder`, split by the counts in `dataset.json`.

    Raises
    ------
    StageError
        If a file is missing, or the array is not what `dataset.json` says.
    """
    folder = Path(folder)
    path = folder / "images.npy"
    try:
        counts = read_json(folder / "dataset.json")
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        train, held_out, size = (
            counts[key] for key in ("train", "held_out", "image_size")
        )
    except FileNotFoundError as error:
        raise _unprepared(folder, f"{Path(error.filename).name} is missing") from error
    except (KeyError, TypeError, ValueError, EOFError, OSError) as error:
        raise _unprepared(folder, "its files cannot be read") from error
    if images.shape != (train + held_out, 3, size, size) or images.dtype != np.uint8:
        raise _unprepared(folder, "images.npy does not match dataset.json")
    return Images(train=images[:train], held_out=images[train:])


def manifest(folder: str | Path) -> list[dict[str, str]]:
    """Return the rows of `manifest.csv`, in the order of `images.npy`."""
    path = Path(folder) / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise _unprepared(path.parent, "manifest.csv cannot be read") from error


def labels(folder: str | Path) -> list[str]:
    """Return the label of every image, in the order of `images.npy`.

    An image without a label has the empty string.
    """
    return [row["label"] for row in manifest(folder)]


def _unprepared(folder: Path, problem: str) -> StageError:
    return StageError(
        f"{folder} holds no prepared data set ({problem}); run `noisesteps preprocess` "
        "for it."
    )
