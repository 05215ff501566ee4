"""Generated images as an image folder with labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from noisesteps.export.folder import new_folder
from noisesteps.files import atomic, write_json

COLUMNS = ("file_name", "label", "schedule", "steps")
DIGITS = 5


def write_images(
    output: str | Path, images: np.ndarray, *, sample: dict, provenance: dict
) -> None:
    """Write the images of a run as `output/{data set}/00000.png` and so on.

    The label is the data set's name: of the folder, as
    `torchvision.datasets.ImageFolder` reads it, and in `metadata.csv`, as Hugging
    Face's `imagefolder` does. `provenance.json` says where the images come from.

    Parameters
    ----------
    output
        A folder that does not exist or is empty.
    images
        uint8 (N,3,H,W), RGB.
    sample
        The run's `sample.json`.
    provenance
        The record of this export.

    Raises
    ------
    StageError
        If something is in `output`.
    """
    label = sample["dataset"]
    digits = max(DIGITS, len(str(len(images) - 1)))
    names = [f"{label}/{index:0{digits}d}.png" for index in range(len(images))]
    with new_folder(output) as folder:
        for name, image in zip(names, images, strict=True):
            _write_png(folder / name, image)
        _write_metadata(folder / "metadata.csv", names, sample)
        record = {"sample": sample, "provenance": provenance}
        write_json(folder / "provenance.json", record)


def _write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(temporary)


def _write_metadata(path: Path, names: list[str], sample: dict[str, Any]) -> None:
    # Beside metadata.csv, and where there is but one folder, `imagefolder` takes no
    # label from folders' names: the label has to be a column.
    run = [sample["dataset"], sample["schedule"], sample["steps"]]
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows([name, *run] for name in names)
