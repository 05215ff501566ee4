"""What the tables say about the cost of T, in sentences."""

from __future__ import annotations

from pandas import DataFrame, Series

from noisesteps.config import Study
from noisesteps.figures.style import time_unit
from noisesteps.report.score_findings import seconds
from noisesteps.tables import dissertation
from noisesteps.tables.published import IMAGE_SIZE, IMAGES


def about_time(table: DataFrame, study: Study) -> list[str]:
    """Say what T costs at generation; `table` is `generation_time`."""
    took = table.groupby("steps")["seconds_per_image"].median()
    first, last = took.index[0], took.index[-1]
    sentences = [
        f"Generating an image takes {seconds(took[last])} at T = {last:,}"
        + (f" and {seconds(took[first])} at T = {first:,}" if first < last else "")
        + " (medians over the models)."
    ]
    if first < last:
        sentences.append(
            f"T grows {last / first:.3g}-fold, the time "
            f"{took[last] / took[first]:.3g}-fold."
        )
    same_steps = (table["sampling_steps"] == table["steps"]).all()
    if study.preprocess.image_size == IMAGE_SIZE and same_steps:
        sentences += _against_dissertation(took)
    return sentences


def _against_dissertation(took: Series) -> list[str]:
    published = dissertation("generation_time").set_index("steps")["seconds"] / IMAGES
    shared = [steps for steps in took.index if steps in published.index]
    if not shared:
        return []
    ratio = published[shared[-1]] / took[shared[-1]]
    return [
        f"At T = {shared[-1]:,} the dissertation reports "
        f"{seconds(published[shared[-1]])} for an image of the same size on a Tesla "
        f"P40: {ratio:.2g} times this study's time."
    ]


def about_training(table: DataFrame) -> list[str]:
    """Say what training costs; `table` is `training_time`."""
    unit, name = time_unit(table["total_seconds"].sum())
    total = table["total_seconds"].sum() / unit
    devices = "; ".join(dict.fromkeys(table["device"]))
    published = 20 * dissertation("training_time")["hours"].sum()
    return [
        f"Training the {table['models'].sum():,} models took {total:,.1f} {name} on "
        f"{devices}; the dissertation reports {published:,} hours for its 60."
    ]
