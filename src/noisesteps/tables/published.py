"""The dissertation's tables 4.1 to 4.4, as printed, and where they may stand.

The files lie in `dissertation/`, whose README names the contradictions of the source.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pandas import DataFrame

FOLDER = Path(__file__).parent / "dissertation"
# The only schedule it used, and what it compared its classifiers on.
SCHEDULE = "linear"
CLASSES = {"oxford_flowers", "smithsonian_butterflies"}
# What its scores and times were measured on.
IMAGES = 128
IMAGE_SIZE = 128
DEVICE = "NVIDIA Tesla P40"
EXTRACTOR = "inception-v3"
METHOD = "ancestral"
# What its models were (sections 3.4.3 and 3.4.4) and learned from.
PARAMETERS = 113_673_219
EPOCHS = 50
BATCH_SIZE = 16
PRECISION = "fp16"
TRAIN_IMAGES = {
    "oxford_flowers": 7169,
    "smithsonian_butterflies": 1000,
    "anime_faces": 14_000,
}
# Real, and generated, images a class for its classifiers (section 3.4.6).
IMAGES_PER_CLASS = 150


def dissertation(table: str) -> DataFrame:
    """Return one of the dissertation's tables in long form.

    Parameters
    ----------
    table
        `training_time` (dataset, hours, note), `fid` (dataset, steps, fid),
        `generation_time` (steps, duration, seconds) or `classification`
        (architecture, set, accuracy as a fraction).
    """
    frame = pd.read_csv(FOLDER / f"{table}.csv")
    if table == "training_time":
        frame["note"] = frame["note"].fillna("")
    if table == "fid":
        frame = frame.melt("steps", var_name="dataset", value_name="fid")
        frame = frame[["dataset", "steps", "fid"]]
    if table == "generation_time":
        frame["seconds"] = pd.to_timedelta(frame["duration"]).dt.total_seconds()
    if table == "classification":
        frame["accuracy"] = frame.pop("accuracy_percent") / 100
    return frame


def published(table: str, value: str, keys: list[str]) -> dict:
    """Map the key columns of a dissertation's table to one of its values."""
    frame = dissertation(table)
    index = zip(*(frame[key].tolist() for key in keys), strict=True)
    return dict(zip(index, frame[value].tolist(), strict=True))
