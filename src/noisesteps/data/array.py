"""The arrays of a data set and of a run's samples, as later stages read them."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noisesteps.errors import StageError
from noisesteps.files import read_json
from noisesteps.records import verify

MANIFEST_COLUMNS = ("index", "source", "sha256", "label", "split")


@dataclass(frozen=True)
class Images:
    """Both parts of a data set, as views of one read-only memory map.

    Attributes
    ----------
    train
        uint8 (N, 3, H, W), RGB, 0 to 255: the images that diffusion models see.
    held_out
        The same, for the images that no diffusion model is trained on; N may be 0.
        Where the source has duplicates, some may equal a training image: see `unseen`.
    """

    train: np.ndarray
    held_out: np.ndarray


def load_images(folder: str | Path) -> Images:
    """Open `images.npy` of `folder`, split by the counts in `dataset.json`.

    The whole array is read once, to compare its checksum.

    Raises
    ------
    StageError
        If a file is missing, or the array is not the one that `dataset.json` was
        written for.
    """
    folder = Path(folder)
    try:
        counts = read_json(folder / "dataset.json")
        path = verify(folder, "images.npy", counts, "preprocess")
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        train, held_out, size = (
            counts[key] for key in ("train", "held_out", "image_size")
        )
    except FileNotFoundError as error:
        raise _unprepared(folder, f"{Path(error.filename).name} is missing") from error
    except (
        AttributeError, KeyError, TypeError, ValueError, EOFError, OSError
    ) as error:  # fmt: skip
        raise _unprepared(folder, "its files cannot be read") from error
    if images.shape != (train + held_out, 3, size, size) or images.dtype != np.uint8:
        raise _unprepared(folder, "images.npy does not match dataset.json")
    return Images(train=images[:train], held_out=images[train:])


def unseen(images: Images) -> np.ndarray:
    """Return which held-out images no model has seen, as ascending positions, int64.

    An official split, or duplicates that are kept, may put equal images on both sides.
    Such an image, or its mirror image, was trained on: it would lower what real images
    score, raise their share of near-copies and be known to a classifier. Images are
    compared pixel by pixel: one photograph encoded twice is two images.
    """
    trained = {_digest(image) for image in images.train}
    return np.array(
        [
            position
            for position, image in enumerate(images.held_out)
            if trained.isdisjoint((_digest(image), _digest(image[..., ::-1])))
        ],
        np.int64,
    )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def load_samples(folder: str | Path) -> np.ndarray:
    """Open the `images.npy` of a run's samples, uint8 (N, 3, H, W), RGB.

    Raises
    ------
    StageError
        If a file is missing, or the array is not the one that `sample.json` was
        written for.
    """
    folder = Path(folder)
    path = folder / "images.npy"
    try:
        record = read_json(folder / "sample.json")
        verify(folder, "images.npy", record, "sample")
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        count = record["images"]
    except FileNotFoundError as error:
        raise StageError(
            f"{error.filename} is missing; run `noisesteps sample` first."
        ) from error
    except (
        AttributeError, KeyError, TypeError, ValueError, EOFError, OSError
    ) as error:  # fmt: skip
        raise StageError(
            f"{folder} holds no samples (its files cannot be read); run `noisesteps "
            "sample` again."
        ) from error
    right_shape = images.ndim == 4 and images.shape[:2] == (count, 3)
    if images.dtype != np.uint8 or not right_shape:
        raise StageError(
            f"{path} holds {images.dtype} {images.shape}, not the {count} images of "
            "sample.json; remove it and run `noisesteps sample` again."
        )
    return images


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
