"""What the tables say, in sentences: every number is computed, none is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import figure_names
from noisesteps.report import short_findings
from noisesteps.report.classifier_findings import about_classifiers, about_effects
from noisesteps.report.cost_findings import about_time, about_training
from noisesteps.report.score_findings import (
    about_copies,
    about_fewer_steps,
    about_floor,
    about_kernel,
    about_schedules,
    about_steps,
    about_use,
    on_candidates,
    on_near_copies,
    on_plateau,
    on_tests,
)


@dataclass(frozen=True)
class Section:
    """A part of the findings.

    Attributes
    ----------
    title
        Its heading.
    tables
        The tables that it reads. Where the study lacks one, the section is left out.
    tell
        Called with the study and those tables; yields sentences.
    see
        Figures to look at, `{dataset}` filled in; those that the study lacks are left
        out.
    each_dataset
        Tell one data set after the other, each from its own rows.
    short
        Called with the tables; returns the answer over all data sets, line by line.
    note
        Called with the tables; returns what holds of all data sets: tests, intervals.
    subject
        What its comparisons of models are about. Those of single trainings are not, and
        the section says so at its head.
    """

    title: str
    tables: tuple[str, ...]
    tell: Callable[..., Iterable[str]]
    see: tuple[str, ...] = ()
    each_dataset: bool = False
    short: Callable[..., list[str]] | None = None
    note: Callable[..., str] | None = None
    subject: str = ""


def _classifiers(study: Study, effects: DataFrame, table: DataFrame) -> list[str]:
    return about_effects(effects) + about_classifiers(table)


# In reading order; a new section is one entry.
SECTIONS = (
    Section(
        "How many steps are enough?",
        ("fid", "plateau"),
        lambda study, scores, plateau: [*about_steps(plateau), *about_kernel(scores)],
        see=("fid_{dataset}", "samples_{dataset}", "scores_{dataset}"),
        each_dataset=True,
        short=lambda scores, plateau: short_findings.on_steps(plateau),
        note=on_plateau,
        subject="the values of T",
    ),
    Section(
        "Is it T, or the schedule?",
        ("schedules",),
        lambda study, table: about_schedules(table),
        see=("schedule", "fid_{dataset}"),
        each_dataset=True,
        short=short_findings.on_schedules,
        note=on_tests,
        subject="the schedules",
    ),
    Section(
        "Is a small T bad to train, or only bad to sample?",
        ("fewer_steps",),
        lambda study, table: about_fewer_steps(table),
        see=("fewer_steps",),
        each_dataset=True,
        short=short_findings.on_fewer_steps,
        note=on_tests,
        subject="the values of T",
    ),
    Section(
        "What should one use?",
        ("quality_vs_cost",),
        lambda study, table: about_use(table),
        see=("quality_vs_cost",),
        each_dataset=True,
        short=short_findings.on_use,
        note=lambda table: on_candidates(),
        subject="their schedules and values of T",
    ),
    Section(
        "What do real images score?",
        ("floor", "fid"),
        lambda study, floor, scores: about_floor(floor, scores),
        see=("fid_{dataset}",),
        each_dataset=True,
    ),
    Section(
        "Does a model copy its training images?",
        ("copies",),
        lambda study, table: about_copies(table),
        see=("copies_{dataset}",),
        each_dataset=True,
        short=short_findings.on_copies,
        note=lambda table: on_near_copies(),
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
        ("classification_effects", "classification"),
        _classifiers,
        see=("classification",),
        short=lambda effects, table: short_findings.on_classifiers(effects),
    ),
)


@dataclass(frozen=True)
class Part:
    """What a section says of one data set, or, where it has no name, of all."""

    dataset: str
    sentences: list[str]
    see: list[str]


@dataclass(frozen=True)
class Told:
    """A section as the reader sees it.

    `anchor` is its place on the page, `short` its answer in lines, `note` the small
    print and `warning` what both are read under, or nothing.
    """

    anchor: str
    title: str
    parts: list[Part]
    short: Sequence[str] = ()
    note: str = ""
    warning: str = ""


def tell(study: Study, tables: Mapping[str, DataFrame]) -> list[Told]:
    """Tell every section whose tables the study has."""
    return [
        Told(
            f"findings-{number}",
            section.title,
            _parts(section, study, tables),
            *(
                words(*(tables[name] for name in section.tables)) if words else ""
                for words in (section.short, section.note)
            ),
            _warning(study, section.subject),
        )
        for number, section in enumerate(SECTIONS, start=1)
        if set(section.tables) <= tables.keys()
    ]


def _warning(study: Study, subject: str) -> str:
    """Say what comparisons of single trainings are not about."""
    if not subject or study.training.seeds > 1:
        return ""
    if study.sampling.seeds == 1:
        return (
            "Nothing was repeated, so nothing is tested: there is one score of each, "
            "and any difference may be chance."
        )
    return (
        f"What follows holds for these very models, not for {subject}: each was "
        "trained once, and no test covers the luck of training."
    )


def _parts(
    section: Section, study: Study, tables: Mapping[str, DataFrame]
) -> list[Part]:
    read = [tables[name] for name in section.tables]
    if not section.each_dataset:
        return [_part(section, study, read)]
    return [
        _part(section, study, [rows[rows["dataset"] == name] for rows in read], name)
        for name in study.datasets
    ]


def _part(
    section: Section, study: Study, read: list[DataFrame], dataset: str = ""
) -> Part:
    names = [name.format(dataset=dataset) for name in section.see]
    return Part(
        dataset,
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
    if study.training.seeds == study.sampling.seeds == 1:
        told.append(
            "Each model was trained once and scored once, so any difference between "
            "two models may be chance."
        )
    elif study.training.seeds == 1:
        told.append(
            "Each model was trained once, so any difference between two models, be it "
            "of T or of the schedule, can be the luck of one training, however small "
            f"its p: the {study.sampling.seeds} scores of a model repeat its sampling "
            "alone."
        )
    else:
        told.append(
            f"“Cannot be told” is not “equal”: {study.training.seeds} trainings of "
            "each model show large differences only, and the intervals say how large."
        )
    return told
