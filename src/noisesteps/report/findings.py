"""What the tables say, in sentences: every number is computed, none is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import figure_names
from noisesteps.report.classifier_findings import about_classifiers, about_effects
from noisesteps.report.cost_findings import about_time, about_training
from noisesteps.report.score_findings import (
    about_copies,
    about_fewer_steps,
    about_floor,
    about_schedules,
    about_steps,
)


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
        Called with the study and those tables; yields sentences.
    see
        Figures to look at; those that the study lacks are left out.
    each_dataset
        Tell one data set at a time, with the rows of that data set.
    """

    title: str
    tables: tuple[str, ...]
    tell: Callable[..., Iterable[str]]
    see: tuple[str, ...] = ()
    each_dataset: bool = False


def _classifiers(study: Study, effects: DataFrame, table: DataFrame) -> list[str]:
    return about_effects(effects) + about_classifiers(table)


# In reading order; a new section is one entry.
SECTIONS = (
    Section(
        "{dataset}: how many steps are enough?",
        ("fid", "plateau"),
        lambda study, scores, plateau: about_steps(scores, plateau),
        see=("fid_{dataset}", "samples_{dataset}", "scores_{dataset}"),
        each_dataset=True,
    ),
    Section(
        "{dataset}: is it T, or the schedule?",
        ("schedules",),
        lambda study, table: about_schedules(table),
        see=("schedule", "fid_{dataset}"),
        each_dataset=True,
    ),
    Section(
        "{dataset}: is a small T bad to train, or only bad to sample?",
        ("fewer_steps",),
        lambda study, table: about_fewer_steps(table),
        see=("fewer_steps", "quality_vs_cost"),
        each_dataset=True,
    ),
    Section(
        "{dataset}: what do real images score?",
        ("floor", "fid"),
        lambda study, floor, scores: about_floor(floor, scores),
        see=("fid_{dataset}",),
        each_dataset=True,
    ),
    Section(
        "{dataset}: does a model copy its training images?",
        ("copies",),
        lambda study, table: about_copies(table),
        see=("copies_{dataset}",),
        each_dataset=True,
    ),
    Section(
        "What a step costs",
        ("generation_time",),
        lambda study, table: about_time(table, study),
        see=("generation_time", "quality_vs_cost"),
    ),
    Section(
        "What training costs",
        ("training_time",),
        lambda study, table: about_training(table),
    ),
    Section(
        "Do generated images help a classifier?",
        ("classification_effects", "classification"),
        _classifiers,
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
        list(section.tell(study, *read)),
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
