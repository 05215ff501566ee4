"""The jobs of a study, and what the log of each says of its latest attempt."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from noisesteps.config import Study
from noisesteps.figures import figure_names
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables import table_names

ERROR = "noisesteps: error: "
TRACEBACK = "Traceback (most recent call last):"
TAIL_BYTES = 65_536


@dataclass(frozen=True)
class Job:
    """One job: its rule, its coordinates, its log, and the file that it ends with."""

    rule: str
    name: str
    log: Path
    result: Path


@dataclass(frozen=True)
class Failure:
    """A job that ended in an error."""

    rule: str
    name: str
    message: str
    log: Path


@dataclass(frozen=True)
class Attempt:
    """What the log of a job without a result says.

    Attributes
    ----------
    time
        When the log was last written to.
    line
        Its last line; empty in an empty log.
    error
        The message of the error that ended the job; None where the job still runs,
        or was killed before it could say so.
    """

    job: Job
    time: datetime
    line: str
    error: str | None

    @property
    def failure(self) -> Failure | None:
        """The failure that the log tells of, if it does."""
        if self.error is None:
            return None
        return Failure(self.job.rule, self.job.name, self.error, self.job.log)


def run_job(rule: str, run: Run, paths: StudyPaths) -> Job:
    """Return the job that trains, samples or scores one model."""
    result = {
        "train": paths.model(run) / "model.json",
        "sample": paths.samples(run) / "sample.json",
        "score": paths.score(run) / "score.json",
    }[rule]
    return Job(rule, run.path.as_posix(), paths.rule_log(rule, run.path), result)


def respaced_jobs(study: Study, paths: StudyPaths) -> list[Job]:
    """List the jobs that sample in fewer steps, and score what comes out."""
    return [
        run_job(rule, run, paths)
        for dataset in study.datasets
        for run in study.respaced_runs_of(dataset)
        for rule in ("sample", "score")
    ]


def data_jobs(study: Study, paths: StudyPaths) -> list[Job]:
    """List the jobs that come before the first model."""
    jobs = []
    for source in (*study.datasets, study.evaluation.extractor):
        if study.distribution(source):
            folder = study.resource_folder(source)
            result = folder / "fetched.json"
            jobs.append(Job("fetch", source, folder / "fetch.log", result))
    for dataset in study.datasets:
        for rule, result in (
            ("preprocess", paths.data(dataset) / "dataset.json"),
            ("reference", paths.reference(dataset) / "reference.json"),
        ):
            jobs.append(Job(rule, dataset, paths.rule_log(rule, dataset), result))
    return jobs


def last_jobs(study: Study, paths: StudyPaths) -> list[Job]:
    """List the jobs after the models: classifiers, tables, figures and the report."""
    jobs = _classification_jobs(study, paths) if study.classification else []
    for rule, names, place in (
        ("tabulate", table_names(study), paths.table),
        ("draw", figure_names(study), paths.figure),
    ):
        for name in names:
            log = paths.rule_log(rule, name)
            jobs.append(Job(rule, name, log, place(name, ".json")))
    report = Job("report", study.study, paths.rule_log("report"), paths.report)
    return [*jobs, report]


def latest_attempt(job: Job) -> Attempt | None:
    """Read the log of a job that has no result; None if it has, or never ran.

    Snakemake empties the log when it starts a job, and removes the old result.
    """
    if job.result.exists():
        return None
    try:
        with job.log.open("rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    time = datetime.fromtimestamp(status.st_mtime).astimezone()
    return Attempt(job, time, line.strip(), _error(line.strip(), text))


def _error(line: str, text: str) -> str | None:
    if line.startswith(ERROR):
        return line.removeprefix(ERROR)
    return line if TRACEBACK in text else None


def _classification_jobs(study: Study, paths: StudyPaths) -> list[Job]:
    """List the jobs that build the sets, and train all classifiers of one each."""
    chosen, jobs = study.classification, []
    for name in [*chosen.sets, "test"]:
        result = paths.set(name) / "set.json"
        jobs.append(Job("sets", name, paths.rule_log("sets", name), result))
    for architecture, name in itertools.product(chosen.architectures, chosen.sets):
        log = paths.rule_log("classify", architecture, name)
        last = paths.classifier(architecture, name, chosen.seeds - 1)
        jobs.append(Job("classify", f"{architecture}/{name}", log, last))
    return jobs
