"""Read the JSON records that stages leave, with an error that names what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noisesteps.errors import StageError
from noisesteps.files import read_json
from noisesteps.paths import Run, StudyPaths
from noisesteps.records import verify


def read_record(path: Path, stage: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the named keys of the JSON record that `stage` wrote.

    Raises
    ------
    StageError
        If the record is missing, is not JSON or lacks a key.
    """
    values = _read(path, stage)
    try:
        return {name: values[name] for name in names}
    except KeyError as error:
        raise _unusable(path, f"lacks the key {error}", stage) from error


def recorded(path: Path, record: str, stage: str) -> Path:
    """Return the path of a file that is the one its record was written for.

    Parameters
    ----------
    path
        The file.
    record
        Name of the JSON record beside it.
    stage
        The sub-command that writes both, for the message.

    Raises
    ------
    StageError
        If one of them is missing or damaged.
    """
    if not path.is_file():
        raise StageError(f"{path} is missing; run `noisesteps {stage}` first.")
    values = _read(path.with_name(record), stage)
    return verify(path.parent, path.name, values, stage)


def _read(path: Path, stage: str) -> dict[str, Any]:
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; run `noisesteps {stage}` first."
        ) from None
    except (OSError, ValueError) as error:
        raise _unusable(path, f"cannot be read ({error})", stage) from error
    if not isinstance(values, dict):
        raise _unusable(path, "cannot be read (it is no record)", stage)
    return values


def _unusable(path: Path, problem: str, stage: str) -> StageError:
    return StageError(
        f"{path} {problem}; remove it and run `noisesteps {stage}` again."
    )


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
