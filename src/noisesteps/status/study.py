"""How far a whole study is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from noisesteps.config import Study
from noisesteps.paths import StudyPaths
from noisesteps.status.jobs import (
    Attempt,
    Failure,
    Job,
    data_jobs,
    last_jobs,
    latest_attempt,
    respaced_jobs,
)
from noisesteps.status.models import (
    STATES,
    ModelStatus,
    model_status,
    read_record,
)
from noisesteps.tables.inputs import classifier_runs


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is.

    Attributes
    ----------
    name, root
        The study and the folder with its results.
    time
        When it was looked at.
    models
        In the order of the config.
    classifiers, classifiers_done
        How many the study asks for, and how many are trained and tested.
    failures
        Every job that ended in an error.
    begun
        Jobs that have begun and have no result: they run, or were killed.
    """

    name: str
    root: Path
    time: datetime
    models: list[ModelStatus]
    classifiers: int
    classifiers_done: int
    failures: list[Failure]
    begun: list[Attempt]

    @property
    def counts(self) -> dict[str, int]:
        """How many models are in each state, the furthest first; none are left out."""
        found = Counter(model.state for model in self.models)
        return {state: found[state] for state in STATES if found[state]}


def study_status(study: Study, now: datetime | None = None) -> StudyStatus:
    """Find out how far a study is, by default at this moment.

    Raises
    ------
    StageError
        If a record is damaged; the message names it.
    """
    paths, now = StudyPaths(study.study), now or datetime.now().astimezone()
    images = {name: _train_images(paths, name) for name in study.datasets}
    models = [
        model_status(study, paths, run, images[run.dataset], now) for run in study.runs
    ]
    classifiers = _classifiers(study, paths)
    before, after = data_jobs(study, paths), last_jobs(study, paths)
    begun = [
        *_attempts(before),
        *(model.begun for model in models if model.begun),
        *_attempts(respaced_jobs(study, paths)),
        *_attempts(after),
    ]
    return StudyStatus(
        name=study.study,
        root=paths.root,
        time=now,
        models=models,
        classifiers=len(classifiers),
        classifiers_done=sum(record.exists() for record in classifiers),
        failures=[model.failure for model in models if model.failure]
        + [attempt.failure for attempt in begun if attempt.failure],
        begun=[attempt for attempt in begun if not attempt.failure],
    )


def _classifiers(study: Study, paths: StudyPaths) -> list[Path]:
    """Name the record of every classifier."""
    if study.classification is None:
        return []
    return [paths.classifier(*one) for one in classifier_runs(study)]


def _train_images(paths: StudyPaths, dataset: str) -> int | None:
    record = read_record(paths.data(dataset) / "dataset.json", "preprocess")
    return record.get("train") if record else None


def _attempts(jobs: Iterable[Job]) -> list[Attempt]:
    return [attempt for job in jobs if (attempt := latest_attempt(job))]


def as_values(status: StudyStatus) -> dict[str, Any]:
    """Return a status as values that JSON can hold; times are ISO 8601."""
    return {
        "study": status.name,
        "results": status.root.as_posix(),
        "time": status.time.isoformat(timespec="seconds"),
        "counts": status.counts,
        "models": [_model_values(model) for model in status.models],
        "classifiers": {"done": status.classifiers_done, "all": status.classifiers},
        "failures": [
            dataclasses.asdict(failure) | {"log": failure.log.as_posix()}
            for failure in status.failures
        ],
        "begun": [
            {
                "rule": attempt.job.rule,
                "name": attempt.job.name,
                "time": attempt.time.isoformat(timespec="seconds"),
                "line": attempt.line,
                "log": attempt.job.log.as_posix(),
            }
            for attempt in status.begun
        ],
    }


def _model_values(model: ModelStatus) -> dict[str, Any]:
    values = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("run", "failure", "begun", "seen")
    }
    seen = model.seen.isoformat(timespec="seconds") if model.seen else None
    return {
        "dataset": model.run.dataset,
        "schedule": model.run.schedule,
        "steps": model.run.steps,
        "training_seed": model.run.seed,
        **values,
        "seen": seen,
    }
