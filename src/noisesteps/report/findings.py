"""What the tables say, in sentences: every number is computed here, none is typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pandas import DataFrame, Series

from noisesteps.config import Study
from noisesteps.figures import figure_names
from noisesteps.figures.style import time_unit
from noisesteps.tables import dissertation
from noisesteps.tables.published import IMAGE_SIZE, IMAGES

PLATEAU = 0.1  # scores within this share of the best count as level with it


def about_scores(table: DataFrame) -> list[str]:
    """Say what T does to the score of one data set; `table` is `fid_{dataset}`."""
    sentences = [
        _best(schedule, rows.sort_values("steps"))
        for schedule, rows in table.groupby("schedule", sort=False)
    ]
    return sentences + _matched(table) + _floor(table)


def _best(schedule: str, rows: DataFrame) -> str:
    best = rows.loc[rows["value"].idxmin()]
    sentence = (
        f"{schedule}: the best {best['metric']} is {best['value']:.1f}, at "
        f"T = {best['steps']:,}."
    )
    level = plateau(rows)
    if level is not None and level < rows["steps"].max():
        sentence += f" From T = {level:,} on, it stays within {PLATEAU:.0%} of that."
    return sentence


def plateau(rows: DataFrame) -> int | None:
    """Return the T from which every score is within `PLATEAU` of the best.

    `rows` are of one schedule, in ascending order of T; None if the last T is not.
    """
    limit = rows["value"].min() * (1 + PLATEAU)
    start = None
    for steps, value in zip(rows["steps"][::-1], rows["value"][::-1], strict=True):
        if value > limit:
            break
        start = int(steps)
    return start


def _matched(table: DataFrame) -> list[str]:
    """Compare linear with the schedules that do reach noise, at the smallest T."""
    rows = table[table["steps"] == table["steps"].min()].set_index("schedule")
    if "linear" not in rows.index:
        return []
    linear = rows.loc["linear"]
    return [
        f"At T = {linear['steps']:,}, linear leaves {_signal(linear)} of the image's "
        f"amplitude in x_T and scores {linear['value']:.1f}; {schedule} leaves "
        f"{_signal(row)} and scores {row['value']:.1f} "
        f"({_signed(100 * (row['value'] / linear['value'] - 1))}%)."
        for schedule, row in rows.drop(index="linear").iterrows()
    ]


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−")


def _signal(row: Series) -> str:
    value = row["terminal_signal"]
    return f"{value:.1%}" if value >= 0.0005 else "less than 0.1%"


def _floor(table: DataFrame) -> list[str]:
    floor, metric = table["real_floor"].iloc[0], table["metric"].iloc[0]
    if math.isnan(floor):
        return ["No floor is known: too few real images are held out."]
    return [
        f"As many real held-out images have {metric} {floor:.1f} against the training "
        "images: what images from the same source that nobody trained on score."
    ]


def about_time(table: DataFrame, study: Study) -> list[str]:
    """Say what T costs at generation; `table` is `generation_time`."""
    mean = table.groupby("steps")["seconds_per_image"].mean()
    first, last = mean.index[0], mean.index[-1]
    sentences = [
        f"Generating an image takes {_seconds(mean[last])} at T = {last:,}"
        + (f" and {_seconds(mean[first])} at T = {first:,}" if first < last else "")
        + "."
    ]
    if first < last:
        sentences.append(
            f"T grows {last / first:.3g}-fold, the time "
            f"{mean[last] / mean[first]:.3g}-fold."
        )
    same_steps = (table["sampling_steps"] == table["steps"]).all()
    if study.preprocess.image_size == IMAGE_SIZE and same_steps:
        sentences += _against_dissertation(mean)
    return sentences


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def _against_dissertation(mean: Series) -> list[str]:
    published = dissertation("generation_time").set_index("steps")["seconds"] / IMAGES
    shared = [steps for steps in mean.index if steps in published.index]
    if not shared:
        return []
    ratio = published[shared[-1]] / mean[shared[-1]]
    return [
        f"At T = {shared[-1]:,} the dissertation reports "
        f"{_seconds(published[shared[-1]])} for an image of the same size on a Tesla "
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


def about_classifiers(table: DataFrame) -> list[str]:
    """Say whether generated images helped; `table` is `classification`."""
    sentences = []
    for architecture, rows in table.groupby("architecture", sort=False):
        sets = rows.set_index("set")
        shown = ", ".join(f"{name} {_accuracy(row)}" for name, row in sets.iterrows())
        sentences.append(
            f"{architecture}: {shown} (mean over {rows['runs'].iloc[0]} seeds"
            + (" ± standard deviation)." if rows["runs"].iloc[0] > 1 else ").")
        )
        if {"origin", "mix"} <= set(sets.index):
            sentences.append(_gain(architecture, sets))
    return sentences


def _accuracy(row: Series) -> str:
    mean, deviation = 100 * row["accuracy_mean"], 100 * row["accuracy_std"]
    return f"{mean:.1f}%" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")


def _gain(architecture: str, sets: DataFrame) -> str:
    origin, mix = sets.loc["origin"], sets.loc["mix"]
    gain = 100 * (mix["accuracy_mean"] - origin["accuracy_mean"])
    spread = 100 * (mix["accuracy_std"] + origin["accuracy_std"])
    side = "above" if gain >= 0 else "below"
    sentence = f"{architecture} on mix is {abs(gain):.1f} points {side} origin"
    if math.isnan(spread):
        sentence += "; one seed cannot say whether that is chance"
    elif abs(gain) <= spread:
        sentence += ", which is within the spread of the seeds"
    published = 100 * (mix["dissertation_accuracy"] - origin["dissertation_accuracy"])
    if not math.isnan(published):
        sentence += f"; the dissertation reports {_signed(published)} points"
    return sentence + "."


@dataclass(frozen=True)
class Section:
    """A part of the findings.

    Attributes
    ----------
    title
        Its heading; `{dataset}` is filled in.
    tables
        The tables that it reads. Where the study lacks one, the section is left out.
    tell
        Called with the study and those tables; returns sentences.
    see
        Figures to look at; those that the study lacks are left out.
    each_dataset
        Tell one data set at a time, with the rows of that data set.
    """

    title: str
    tables: tuple[str, ...]
    tell: Callable[..., list[str]]
    see: tuple[str, ...] = ()
    each_dataset: bool = False


# In reading order; a new section is one entry.
SECTIONS = (
    Section(
        "{dataset}: what T does to the score",
        ("fid",),
        lambda study, table: about_scores(table),
        see=("fid_{dataset}", "samples_{dataset}"),
        each_dataset=True,
    ),
    Section(
        "What a step costs",
        ("generation_time",),
        lambda study, table: about_time(table, study),
        see=("generation_time",),
    ),
    Section(
        "What training costs",
        ("training_time",),
        lambda study, table: about_training(table),
    ),
    Section(
        "Do generated images help a classifier?",
        ("classification",),
        lambda study, table: about_classifiers(table),
        see=("classification",),
    ),
)


@dataclass(frozen=True)
class Told:
    """A section as the reader sees it."""

    title: str
    sentences: list[str]
    see: list[str]


def tell(study: Study, tables: Mapping[str, DataFrame]) -> list[Told]:
    """Tell every section whose tables the study has."""
    told = []
    for section in SECTIONS:
        if not set(section.tables) <= tables.keys():
            continue
        read = [tables[name] for name in section.tables]
        if not section.each_dataset:
            told.append(_told(section, study, read))
            continue
        for name in study.datasets:
            rows = [frame[frame["dataset"] == name] for frame in read]
            told.append(_told(section, study, rows, name))
    return told


def _told(
    section: Section, study: Study, read: list[DataFrame], dataset: str = ""
) -> Told:
    names = [name.format(dataset=dataset) for name in section.see]
    return Told(
        section.title.format(dataset=dataset),
        section.tell(study, *read),
        [name for name in names if name in figure_names(study)],
    )


def cautions(study: Study) -> list[str]:
    """Say what the numbers of this study cannot show."""
    told = [
        f"A Fréchet distance of {study.sampling.images:,} images is biased upwards: "
        "compare scores only where the extractor and the number of images are the "
        "same."
    ]
    if study.training.seeds == 1:
        told.append(
            "Each model was trained once, so a difference between neighbouring values "
            "of T can be the luck of one training."
        )
    return told
