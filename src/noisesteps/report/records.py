"""What the stages left beside their results: time, provenance, skipped files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.errors import StageError
from noisesteps.paths import StudyPaths
from noisesteps.records import recorded
from noisesteps.tables.inputs import classifier_runs
from noisesteps.tables.records import read_record, record_path

STAGES = (
    "fetch", "preprocess", "train", "sample", "reference", "score", "sets", "classify",
)  # fmt: skip
NAMED = 8  # skipped files of a data set that the page names
SHORT = 12  # digits of a revision in a table; the page has all of them elsewhere
ALSO_READ = {"train": ["seconds"], "score": ["extractor_sha256"]}


@dataclass(frozen=True)
class Record:
    """One job's record: its stage, what it took and where it came from.

    `extractor_sha256` is the digest of the extractor's weights, where it used them.
    """

    stage: str
    seconds: float
    provenance: dict[str, Any]
    extractor_sha256: str | None = None

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.provenance["started"])

    @property
    def ended(self) -> datetime:
        return self.started + timedelta(seconds=self.provenance["wall_seconds"])


@dataclass(frozen=True)
class Skipped:
    """The files of a data set that were skipped, and where all are listed."""

    dataset: str
    count: int
    named: list[tuple[str, str]]
    path: str


def stage_records(study: Study, paths: StudyPaths) -> list[Record]:
    """Read the record of every job of a study.

    Raises
    ------
    StageError
        If a record is missing or damaged.
    """
    return [_read(stage, path) for stage, path in _places(study, paths)]


def _places(study: Study, paths: StudyPaths) -> Iterator[tuple[str, Path]]:
    """Yield every stage with the record of each of its jobs."""
    for source in (*study.datasets, study.evaluation.extractor):
        # Downloads are shared by all studies; someone may have cleared them since.
        if (
            study.distribution(source)
            and (path := study.resource_folder(source) / "fetched.json").is_file()
        ):
            yield "fetch", path
    for name in study.datasets:
        yield "preprocess", paths.data(name) / "dataset.json"
        yield "reference", paths.reference(name) / "reference.json"
    respaced = [run for name in study.datasets for run in study.respaced_runs_of(name)]
    for run in study.runs:
        yield "train", record_path("train", run, paths)
    for run in [*study.runs, *respaced]:
        yield "sample", record_path("sample", run, paths)
        yield "score", record_path("score", run, paths)
    if study.classification:
        for name in (*study.classification.sets, "test"):
            yield "sets", paths.set(name) / "set.json"
        for architecture, name, seed in classifier_runs(study):
            yield "classify", paths.classifier(architecture, name, seed)


def _read(stage: str, path: Path) -> Record:
    values = read_record(path, stage, ["provenance", *ALSO_READ.get(stage, ())])
    provenance = values["provenance"]
    # A training that was stopped adds up its time; its last attempt took less.
    seconds = max(provenance["wall_seconds"], values.get("seconds", 0.0))
    return Record(stage, seconds, provenance, values.get("extractor_sha256"))


def costs(records: list[Record]) -> DataFrame:
    """Add up the time of every stage: jobs, total_seconds, mean and longest."""
    return DataFrame(
        {
            "stage": stage,
            "jobs": len(found),
            "total_seconds": sum(record.seconds for record in found),
            "mean_seconds": sum(record.seconds for record in found) / len(found),
            "longest_seconds": max(record.seconds for record in found),
            "device": joined(
                record.provenance["device"] or "any CPU" for record in found
            ),
        }
        for stage, found in _by_stage(records)
    )


def origins(records: list[Record]) -> DataFrame:
    """Say for every stage when it ran, and with which code."""
    return DataFrame(
        {
            "stage": stage,
            "began (UTC)": f"{min(record.started for record in found):%Y-%m-%d %H:%M}",
            "ended (UTC)": f"{max(record.ended for record in found):%Y-%m-%d %H:%M}",
            "code revision": joined(
                (record.provenance["code"]["revision"] or "no commit")[:SHORT]
                for record in found
            ),
            "SHA-256 of the code": joined(
                record.provenance["code"]["sha256"][:SHORT] for record in found
            ),
        }
        for stage, found in _by_stage(records)
    )


def _by_stage(records: list[Record]) -> Iterator[tuple[str, list[Record]]]:
    for stage in STAGES:
        found = [record for record in records if record.stage == stage]
        if found:
            yield stage, found


def libraries(records: list[Record]) -> str:
    """List the libraries of every record, with each version that was used."""
    versions: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.provenance["libraries"].items():
            versions.setdefault(name, {})[version] = None
    return ", ".join(
        f"{name} {' and '.join(found)}" for name, found in versions.items()
    )


def joined(values: Iterable[str]) -> str:
    """Join distinct values in the order of their first appearance."""
    return "; ".join(dict.fromkeys(values))


def datasets(study: Study, paths: StudyPaths) -> DataFrame:
    """Count the files and images of every data set.

    Columns: dataset, files_found, skipped, training_images, held_out_images, classes,
    image_size in pixels, sha256 of the images.
    """
    names = ["found", "rejected", "train", "held_out", "classes", "image_size"]
    rows = [
        {"dataset": dataset}
        | read_record(
            paths.data(dataset) / "dataset.json", "preprocess", [*names, "sha256"]
        )
        for dataset in study.datasets
    ]
    return DataFrame(rows).rename(
        columns={
            "found": "files_found",
            "rejected": "skipped",
            "train": "training_images",
            "held_out": "held_out_images",
        }
    )


def skipped(study: Study, paths: StudyPaths) -> list[Skipped]:
    """Name the first files that were skipped, for each data set that has some.

    Raises
    ------
    StageError
        If a list of skipped files is missing, is no such list or has changed since.
    """
    return [
        found for name in study.datasets if (found := _skipped(name, paths)).count > 0
    ]


def _skipped(dataset: str, paths: StudyPaths) -> Skipped:
    path = paths.data(dataset) / "rejected.csv"
    recorded(path, "dataset.json", "preprocess")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows = list(zip(table["source"], table["reason"], strict=True))
    except (ValueError, KeyError) as error:
        raise StageError(
            f"{path} cannot be read ({error}); remove it and run `noisesteps "
            "preprocess` again."
        ) from error
    return Skipped(dataset, len(rows), rows[:NAMED], path.as_posix())
