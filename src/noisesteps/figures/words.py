"""What captions are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pandas import DataFrame

ONE_SCORE = "One score a model, so there is no interval."


@dataclass(frozen=True)
class Caption:
    """A title, the conditions under it, and the content in words."""

    title: str
    text: str
    alt: str


def listed(values: Iterable[object]) -> str:
    """Write values with commas between them."""
    return ", ".join(map(str, values))


def method_name(method: str) -> str:
    """Write a sampling method as a reader knows it."""
    return "DDIM" if method == "ddim" else method


def run_name(schedule: str, steps: int, sampler: str | None = None) -> str:
    """Name a model and how it is sampled: `linear, T = 900, in 30 steps (DDIM)`.

    Parameters
    ----------
    schedule, steps
        Of the model.
    sampler
        Such as `ddim-30`; None: the study's own, in all T steps.
    """
    name = f"{schedule}, T = {steps:,}"
    if sampler is None:
        return name
    method, count = sampler.split("-")
    return f"{name}, in {int(count):,} steps ({method_name(method)})"


def conditions(table: DataFrame, against: bool = False) -> str:
    """Say how many images a score is of, and what computed its features.

    Parameters
    ----------
    table
        `fid` or `fid_{dataset}`.
    against
        Whether to say what they are compared with, which differs by data set.
    """
    row = table.iloc[0]
    reference = f" against {row['reference_images']:,} training images"
    return (
        f"N = {row['images']:,} generated images a score"
        f"{reference if against else ''}; extractor {row['extractor']}."
    )


def intervals(table: DataFrame, mark: str = "Bands") -> str:
    """Say what the intervals of `fid` or `fid_{dataset}` cover, and what not."""
    row = table.iloc[0]
    trainings, samplings = row["training_seeds"], row["sampling_seeds"]
    if trainings == 1 and samplings == 1:
        return ONE_SCORE
    if table["low"].isna().all():
        return "The repeats are all the same, so there is no interval."
    if trainings == 1:
        return (
            f"{mark}: 95% intervals over {samplings} sets of images from one training; "
            "the luck of training is not in them."
        )
    each = f", each scored {samplings} times" if samplings > 1 else ""
    return f"{mark}: 95% intervals over {trainings} trainings{each}."


def with_interval(value: float, low: float, high: float, form: str = ".1f") -> str:
    """Write a value with its interval where there is one: `110.1 [104.2, 116.0]`."""
    ends = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}".replace("-", "−")


def course(rows: DataFrame, column: str, form: str, best: str = "lowest") -> str:
    """Say where a line starts, where it is best and where it ends.

    Parameters
    ----------
    rows
        With the columns `steps` and `column`.
    best
        `lowest` or `highest`.
    """
    rows = rows.sort_values("steps")
    first, last = rows.iloc[0], rows.iloc[-1]
    values = rows[column]
    top = rows.loc[values.idxmin() if best == "lowest" else values.idxmax()]
    words = [
        f"{first[column]:{form}} at T = {first['steps']:,}",
        f"{best} {top[column]:{form}} at T = {top['steps']:,}",
        f"{last[column]:{form}} at T = {last['steps']:,}",
    ]
    if top["steps"] == last["steps"]:
        words.pop()
    return listed(words).replace("-", "−")
