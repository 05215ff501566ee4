"""Read the JSON records that stages leave, with an error that names what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noisesteps.paths import Run, StudyPaths
from noisesteps.records import load_record


def read_record(path: Path, stage: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the named keys of the JSON record that `stage` wrote.

    Raises
    ------
    StageError
        If the record is missing, is not JSON or lacks a key.
    """
    values = load_record(path, stage, *names)
    return {name: values[name] for name in names}


def record_path(stage: str, run: Run, paths: StudyPaths) -> Path:
    """Name the JSON file that train, sample or score leaves for a run."""
    match stage:
        case "train":
            return paths.model(run) / "model.json"
        case "sample":
            return paths.samples(run) / "sample.json"
    return paths.score(run) / "score.json"


def with_records(
    stage: str, runs: list[Run], paths: StudyPaths, names: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield each run's coordinates with the named keys of its record."""
    for run in runs:
        where = {
            "dataset": run.dataset,
            "schedule": run.schedule,
            "steps": run.steps,
            "training_seed": run.seed,
            "sampler": run.sampler,
        }
        yield where | read_record(record_path(stage, run, paths), stage, names)
