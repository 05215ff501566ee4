"""The dissertation's tables beside this study's, and what keeps them apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.report.cells import Table, make_table
from noisesteps.report.records import joined
from noisesteps.tables import dissertation, published

TablesByName = Mapping[str, DataFrame]
# Columns that need this study's numbers.
OURS = "^(this_study|times|difference)"


@dataclass(frozen=True)
class Condition:
    """One condition of the experiment, in the dissertation and in this study."""

    theirs: str
    ours: str
    # Whether the two agree; where None, whether the words are the same.
    agrees: bool | None = None

    @property
    def same(self) -> bool:
        return self.theirs == self.ours if self.agrees is None else self.agrees


@dataclass(frozen=True)
class Published:
    """One table of the dissertation.

    Attributes
    ----------
    name
        What `tables.dissertation` calls it.
    needs
        Conditions that must be the same, or the numbers measure different things.
    minds
        Conditions that can explain why comparable numbers differ.
    beside
        Returns the dissertation's numbers with this study's beside them.
    """

    number: str
    name: str
    title: str
    needs: tuple[str, ...]
    minds: tuple[str, ...]
    beside: Callable[[TablesByName], DataFrame]


@dataclass(frozen=True)
class Comparison:
    """One table of the dissertation with this study's numbers, and a verdict."""

    table: Table
    comparable: bool
    verdict: str


def conditions(
    study: Study, tables: TablesByName, train_images: Mapping[str, int]
) -> dict[str, Condition]:
    """Say under which conditions the dissertation and this study worked.

    Parameters
    ----------
    train_images
        Number of training images of each data set of this study.
    """
    return (
        _data_conditions(study, tables["models"], train_images)
        | _model_conditions(study, tables["models"])
        | (_classifier_conditions(study) if study.classification else {})
    )


def _data_conditions(
    study: Study, models: DataFrame, train_images: Mapping[str, int]
) -> dict[str, Condition]:
    theirs = published.TRAIN_IMAGES
    shared = [name for name in theirs if name in study.datasets]
    there, here = shared or list(theirs), shared or list(study.datasets)
    updates = {
        name: published.EPOCHS * math.ceil(theirs[name] / published.BATCH_SIZE)
        for name in there
    }
    return {
        "data sets": Condition(
            ", ".join(theirs), ", ".join(study.datasets), agrees=bool(shared)
        ),
        "training images": Condition(_each(theirs, there), _each(train_images, here)),
        "image size": Condition(
            _pixels(published.IMAGE_SIZE), _pixels(study.preprocess.image_size)
        ),
        "updates of a model": Condition(
            _each(updates, there),
            _each(models.groupby("dataset")["optimizer_steps"].max(), here),
        ),
    }


def _model_conditions(study: Study, models: DataFrame) -> dict[str, Condition]:
    training, sampling = study.training, study.sampling
    schedules = study.diffusion.schedules
    return {
        "parameters of the network": Condition(
            f"{published.PARAMETERS:,}", f"{models['parameters'].iloc[0]:,}"
        ),
        "schedule": Condition(
            published.SCHEDULE,
            ", ".join(schedules),
            agrees=published.SCHEDULE in schedules,
        ),
        "training batch": Condition(
            f"{published.BATCH_SIZE}", f"{training.batch_size}"
        ),
        "training precision": Condition(published.PRECISION, training.precision),
        "sampler": Condition(
            f"{published.METHOD}, all T steps",
            f"{sampling.method}, {sampling.sampling_steps or 'all T'} steps",
        ),
        "images scored (N)": Condition(f"{published.IMAGES}", f"{sampling.images:,}"),
        "extractor": Condition(published.EXTRACTOR, study.evaluation.extractor),
        "device": Condition(published.DEVICE, joined(models["device"])),
    }


def _classifier_conditions(study: Study) -> dict[str, Condition]:
    chosen, unsaid = study.classification, "not stated"
    return {
        "classes": Condition(
            " against ".join(sorted(published.CLASSES)),
            " against ".join(sorted(chosen.datasets)),
        ),
        "images a class": Condition(
            f"{published.IMAGES_PER_CLASS}", f"{chosen.images_per_class:,}"
        ),
        "models that generate": Condition(
            f"{published.SCHEDULE}, T {unsaid}",
            f"{chosen.schedule}, T = {chosen.steps:,}",
        ),
        "repetitions of a classifier": Condition(unsaid, f"{chosen.seeds:,}"),
        "epochs of a classifier": Condition(unsaid, f"{chosen.epochs:,}"),
    }


def _pixels(size: int) -> str:
    return f"{size} × {size} pixels"


def _each(values: Mapping[str, int], names: list[str]) -> str:
    return ", ".join(f"{values[name]:,} ({name})" for name in names)


def _training_time(tables: TablesByName) -> DataFrame:
    """Put hours and, since updates differ, seconds an update side by side."""
    theirs = dissertation("training_time").set_index("dataset")
    images = pd.Series(published.TRAIN_IMAGES)
    updates = published.EPOCHS * -(-images // published.BATCH_SIZE)
    models = _linear(tables["models"]).groupby("dataset")
    ours = models["seconds"].mean()
    frame = DataFrame(
        {
            "dissertation_mean_seconds": 3600 * theirs["hours"],
            "this_study_mean_seconds": ours,
            "dissertation_seconds_an_update": 3600 * theirs["hours"] / updates,
            "this_study_seconds_an_update": ours / models["optimizer_steps"].mean(),
        }
    ).reindex(theirs.index)
    frame["times_faster_an_update"] = frame.iloc[:, 2] / frame.iloc[:, 3]
    return frame.rename_axis("dataset").reset_index()


def _scores(tables: TablesByName) -> DataFrame:
    ours = _linear(tables["fid"]).groupby(["dataset", "steps"])["value"].mean()
    frame = dissertation("fid").rename(columns={"fid": "dissertation_fid"})
    frame = frame.join(ours.rename("this_study_fid"), on=["dataset", "steps"])
    frame["difference"] = frame["this_study_fid"] - frame["dissertation_fid"]
    return frame


def _generation_time(tables: TablesByName) -> DataFrame:
    """Put the seconds of 128 images side by side."""
    ours = tables["generation_time"].groupby("steps")["seconds_per_image"].mean()
    frame = dissertation("generation_time")[["steps", "seconds"]]
    frame = frame.rename(columns={"seconds": "dissertation_seconds"})
    frame = frame.join(
        (published.IMAGES * ours).rename("this_study_seconds"), on="steps"
    )
    frame["times_faster"] = frame["dissertation_seconds"] / frame["this_study_seconds"]
    return frame


def _classification(tables: TablesByName) -> DataFrame:
    frame = dissertation("classification").rename(
        columns={"accuracy": "dissertation_accuracy"}
    )
    if "classification" not in tables:
        return frame
    keys = ["architecture", "set"]
    ours = (
        tables["classification"]
        .set_index(keys)
        .rename(
            columns={
                "accuracy_mean": "this_study_accuracy",
                "accuracy_precise_bn_mean": "this_study_accuracy_precise_bn",
            }
        )
    )
    frame = frame.join(ours.filter(like="this_study"), on=keys)
    change = frame["this_study_accuracy"] - frame["dissertation_accuracy"]
    frame["difference_of_accuracy"] = change
    return frame


def _linear(table: DataFrame) -> DataFrame:
    return table[table["schedule"] == published.SCHEDULE]


PUBLISHED = (
    Published(
        "4.1",
        "training_time",
        "Mean training time of a model",
        ("data sets", "schedule", "image size", "parameters of the network",
         "training batch"),
        ("updates of a model", "training precision", "device"),
        _training_time,
    ),
    Published(
        "4.2",
        "fid",
        "FID of 128 generated images",
        ("data sets", "schedule", "image size", "images scored (N)", "extractor"),
        ("parameters of the network", "updates of a model", "training images",
         "training batch", "training precision", "sampler"),
        _scores,
    ),
    Published(
        "4.3",
        "generation_time",
        "Time to generate 128 images",
        ("image size", "parameters of the network", "sampler"),
        ("device",),
        _generation_time,
    ),
    Published(
        "4.4",
        "classification",
        "Accuracy, flowers against butterflies",
        ("classes",),
        ("image size", "images a class", "models that generate", "training images",
         "parameters of the network", "updates of a model",
         "repetitions of a classifier", "epochs of a classifier"),
        _classification,
    ),
)  # fmt: skip


def compare(found: Mapping[str, Condition], tables: TablesByName) -> list[Comparison]:
    """Put this study's numbers beside each of the dissertation's tables.

    Where a condition that the numbers need is another, they are left out, and the
    verdict says which.
    """
    return [_compare(table, found, tables) for table in PUBLISHED]


def _compare(
    chosen: Published, found: Mapping[str, Condition], tables: TablesByName
) -> Comparison:
    comparable = all(name in found and found[name].same for name in chosen.needs)
    frame = chosen.beside(tables)
    verdict = _verdict(chosen, found, frame)
    if not comparable:
        frame = frame.drop(columns=frame.filter(regex=OURS).columns)
    notes = " ".join(filter(None, dissertation(chosen.name).get("note", ())))
    table = make_table(
        f"dissertation-{chosen.number.replace('.', '-')}",
        f"Table {chosen.number}: {chosen.title}",
        frame,
        notes,
    )
    return Comparison(table, comparable, verdict)


def _verdict(
    chosen: Published, found: Mapping[str, Condition], frame: DataFrame
) -> str:
    """Say whether the two studies can be compared, and if not, why not."""
    if not set(chosen.needs) <= found.keys():
        return "This study has no classifiers to compare."
    apart = [
        f"{name} {found[name].ours} instead of {found[name].theirs}"
        for name in chosen.needs
        if not found[name].same
    ]
    if apart:
        return (
            f"Not comparable, so this study's numbers are left out: {'; '.join(apart)}."
        )
    if frame.filter(regex=OURS).isna().all(axis=None):
        return "Comparable, but this study has no model that belongs to a row of it."
    mind = [name for name in chosen.minds if name in found and not found[name].same]
    if mind:
        return f"Comparable, but not made alike: see above for {', '.join(mind)}."
    return "Comparable, and made under the same conditions."


def differences(found: Mapping[str, Condition]) -> Table:
    """List every condition that differs, and the tables that it bears on."""
    rows = [
        {
            "condition": name,
            "dissertation": condition.theirs,
            "this study": condition.ours,
            "rules out comparing tables": _numbers(name, "needs"),
            "can explain differences in": _numbers(name, "minds"),
        }
        for name, condition in found.items()
        if not condition.same
    ]
    title = "Where this study differs from the dissertation"
    return make_table("differences", title, DataFrame(rows))


def _numbers(condition: str, role: str) -> str | None:
    numbers = [table.number for table in PUBLISHED if condition in getattr(table, role)]
    return ", ".join(numbers) or None
