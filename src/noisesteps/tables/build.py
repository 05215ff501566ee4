"""One function for each table: records in, rows out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.errors import StageError
from noisesteps.files import atomic, read_json
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables import inputs
from noisesteps.tables.classifiers import accuracy_rows, effect_rows
from noisesteps.tables.published import SCHEDULE, published

TEXT, COUNT, NUMBER = "str", "Int64", "float64"
RUN = {"dataset": TEXT, "schedule": TEXT, "steps": COUNT}

# The columns of every table, in order, with their types. Times are in seconds unless
# the name says hours; accuracies are fractions.
COLUMNS = {
    "models": RUN
    | {
        "terminal_signal": NUMBER,
        "parameters": COUNT,
        "optimizer_steps": COUNT,
        "final_loss": NUMBER,
        "seconds": NUMBER,
        "device": TEXT,
    },
    "training_time": {
        "dataset": TEXT,
        "schedule": TEXT,
        "models": COUNT,
        "mean_seconds": NUMBER,
        "total_seconds": NUMBER,
        "mean_hours": NUMBER,
        "dissertation_hours": NUMBER,
        "device": TEXT,
    },
    "fid": RUN
    | {
        "metric": TEXT,
        "value": NUMBER,
        "images": COUNT,
        "reference_images": COUNT,
        "extractor": TEXT,
        "terminal_signal": NUMBER,
        "real_floor": NUMBER,
        "dissertation_fid": NUMBER,
    },
    "generation_time": RUN
    | {
        "images": COUNT,
        "seconds": NUMBER,
        "seconds_per_image": NUMBER,
        "batch_size": COUNT,
        "method": TEXT,
        "sampling_steps": COUNT,
        "device": TEXT,
        "dissertation_seconds": NUMBER,
    },
    "classifiers": {
        "architecture": TEXT,
        "set": TEXT,
        "seed": COUNT,
        "accuracy": NUMBER,
        "train_images": COUNT,
        "test_images": COUNT,
        "epochs": COUNT,
        "seconds": NUMBER,
        "device": TEXT,
    },
    "classification": {
        "architecture": TEXT,
        "set": TEXT,
        "schedule": TEXT,
        "steps": COUNT,
        "runs": COUNT,
        "accuracy_mean": NUMBER,
        "accuracy_low": NUMBER,
        "accuracy_high": NUMBER,
        "accuracy_std": NUMBER,
        "train_images": COUNT,
        "test_images": COUNT,
        "dissertation_accuracy": NUMBER,
    },
    "classification_effects": {
        "architecture": TEXT,
        "set": TEXT,
        "baseline": TEXT,
        "repetitions": COUNT,
        "difference": NUMBER,
        "difference_low": NUMBER,
        "difference_high": NUMBER,
        "p_value": NUMBER,
        "p_holm": NUMBER,
        "dissertation_difference": NUMBER,
    },
}


def columns(table: str) -> dict[str, str]:
    """Return the column types of a table; `fid_{dataset}` has those of `fid`."""
    return COLUMNS["fid" if table.startswith("fid_") else table]


def build(table: str, study: Study, paths: StudyPaths) -> DataFrame:
    """Gather one table; see `noisesteps.tables.tabulate`."""
    runs = inputs.table_runs(table, study)
    match table:
        case "models":
            rows = _models(runs, paths)
        case "training_time":
            rows = _training_time(runs, paths)
        case "generation_time":
            rows = _generation_time(runs, paths)
        case "classifiers":
            rows = _classifiers(study, paths)
        case "classification":
            rows = accuracy_rows(_classifiers(study, paths), study)
        case "classification_effects":
            rows = effect_rows(_classifiers(study, paths), study)
        case _:
            rows = _scores(runs, paths)
    types = columns(table)
    return DataFrame(rows, columns=list(types)).astype(types)


def write(path: Path, frame: DataFrame) -> None:
    """Write a table as CSV; see `noisesteps.tables.write_csv`."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")


def read(table: str, paths: StudyPaths) -> DataFrame:
    """Read a table back; see `noisesteps.tables.read_table`."""
    path = paths.table(table)
    try:
        return pd.read_csv(path, dtype=columns(table), usecols=list(columns(table)))
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; run the stage tabulate for table {table} first."
        ) from None
    except ValueError as error:
        raise StageError(
            f"{path} cannot be read ({error}); run the stage tabulate again."
        ) from error


def read_record(path: Path, stage: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the named keys of the JSON record that `stage` wrote.

    Raises
    ------
    StageError
        If the record is missing, is not JSON or lacks a key.
    """
    try:
        values = read_json(path)
        return {name: values[name] for name in names}
    except FileNotFoundError:
        raise StageError(f"{path} is missing; run the stage {stage} first.") from None
    except KeyError as error:
        problem = f"lacks the key {error}"
    except (OSError, ValueError, TypeError) as error:
        problem = f"cannot be read ({error})"
    raise StageError(f"{path} {problem}; remove it and run the stage {stage} again.")


def _record(stage: str, run: Run, paths: StudyPaths) -> Path:
    """Name the JSON file that a stage leaves for a run."""
    match stage:
        case "train":
            return paths.model(run) / "model.json"
        case "sample":
            return paths.samples(run) / "sample.json"
    return paths.score(run) / "score.json"


def _coordinates(run: Run) -> dict[str, Any]:
    return {"dataset": run.dataset, "schedule": run.schedule, "steps": run.steps}


def _with_records(
    stage: str, runs: list[Run], paths: StudyPaths, names: Iterable[str]
) -> Iterator[dict[str, Any]]:
    for run in runs:
        path = _record(stage, run, paths)
        yield _coordinates(run) | read_record(path, stage, names)


def _models(runs: list[Run], paths: StudyPaths) -> list[dict[str, Any]]:
    names = [name for name in COLUMNS["models"] if name not in RUN]
    return list(_with_records("train", runs, paths, names))


def _training_time(runs: list[Run], paths: StudyPaths) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _with_records("train", runs, paths, ["seconds", "device"]):
        groups.setdefault((row["dataset"], row["schedule"]), []).append(row)
    hours = published("training_time", "hours", ["dataset"])
    return [
        {
            "dataset": dataset,
            "schedule": schedule,
            "models": len(rows),
            "mean_seconds": fmean(row["seconds"] for row in rows),
            "total_seconds": math.fsum(row["seconds"] for row in rows),
            "mean_hours": fmean(row["seconds"] for row in rows) / 3600,
            "dissertation_hours": _if_linear(schedule, hours.get((dataset,))),
            "device": "; ".join(dict.fromkeys(row["device"] for row in rows)),
        }
        for (dataset, schedule), rows in groups.items()
    ]


def _if_linear(schedule: str, value: float | None) -> float | None:
    """Keep the dissertation's value only beside the schedule it used."""
    return value if schedule == SCHEDULE else None


def _generation_time(runs: list[Run], paths: StudyPaths) -> list[dict[str, Any]]:
    skipped = {*RUN, "dissertation_seconds"}
    names = [name for name in COLUMNS["generation_time"] if name not in skipped]
    seconds = published("generation_time", "seconds", ["steps"])
    return [
        row | {"dissertation_seconds": seconds.get((row["steps"],))}
        for row in _with_records("sample", runs, paths, names)
    ]


def _scores(runs: list[Run], paths: StudyPaths) -> list[dict[str, Any]]:
    skipped = {*RUN, "real_floor", "dissertation_fid"}
    names = [name for name in COLUMNS["fid"] if name not in skipped]
    floors = {dataset: _floor(dataset, paths) for dataset in _datasets(runs)}
    fids = published("fid", "fid", ["dataset", "steps"])
    return [
        row
        | {
            "real_floor": floors[row["dataset"]],
            "dissertation_fid": _if_linear(
                row["schedule"], fids.get((row["dataset"], row["steps"]))
            ),
        }
        for row in _with_records("score", runs, paths, names)
    ]


def _datasets(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(run.dataset for run in runs))


def _floor(dataset: str, paths: StudyPaths) -> float | None:
    path = paths.reference(dataset) / "reference.json"
    return read_record(path, "reference", ["floor"])["floor"]


def _classifiers(study: Study, paths: StudyPaths) -> list[dict[str, Any]]:
    rows = []
    for architecture, name, seed in inputs.classifier_runs(study):
        path = paths.classifier(architecture, name, seed)
        rows.append(read_record(path, "classify", COLUMNS["classifiers"]))
    return rows
