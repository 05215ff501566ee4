"""One function for each table: records in, rows out."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.errors import StageError
from noisesteps.files import atomic
from noisesteps.paths import Run, StudyPaths
from noisesteps.records import recorded
from noisesteps.tables import comparisons, inputs, scores
from noisesteps.tables.classifiers import accuracy_rows, effect_rows
from noisesteps.tables.published import SCHEDULE, published
from noisesteps.tables.records import read_record, with_records

TEXT, COUNT, NUMBER, FLAG = "str", "Int64", "float64", "boolean"
RUN = {"dataset": TEXT, "schedule": TEXT, "steps": COUNT}


def _interval(name: str) -> dict[str, str]:
    """Name a value's column and those of its interval, which holds with 95 %."""
    prefix = "" if name == "value" else f"{name}_"
    return dict.fromkeys((name, f"{prefix}low", f"{prefix}high"), NUMBER)


MEASURES = {
    **_interval("value"),
    **_interval("kid"),
    **_interval("precision"),
    **_interval("recall"),
    **_interval("fid_infinity"),
}
DIFFERENCE = _interval("difference") | {"p_value": NUMBER, "p_holm": NUMBER}
WAY = {
    "dataset": TEXT,
    "schedule": TEXT,
    "metric": TEXT,
    "trained_steps": COUNT,
    "way": TEXT,
    "sampling_steps": COUNT,
    **_interval("value"),
    "interval_over": TEXT,
    "seconds_per_image": NUMBER,
}

# The columns of every table, in order, with their types. Times are in seconds unless
# the name says hours; accuracies are fractions.
COLUMNS = {
    "models": RUN
    | {
        "training_seed": COUNT,
        "terminal_signal": NUMBER,
        "terminal_snr": NUMBER,
        "prior_divergence": NUMBER,
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
        **MEASURES,
        "candidate": FLAG,
        "images": COUNT,
        "sampling_seeds": COUNT,
        "training_seeds": COUNT,
        "interval_over": TEXT,
        "reference_images": COUNT,
        "extractor": TEXT,
        "terminal_signal": NUMBER,
        **_interval("real_floor"),
        "dissertation_fid": NUMBER,
    },
    "scores": RUN
    | {
        "training_seed": COUNT,
        "sampler": TEXT,
        "sampling_seed": COUNT,
        "metric": TEXT,
        "value": NUMBER,
        "kid": NUMBER,
        "precision": NUMBER,
        "recall": NUMBER,
        "images": COUNT,
    },
    "floor": {
        "dataset": TEXT,
        "metric": TEXT,
        **MEASURES,
        "images": COUNT,
        "sets": COUNT,
        "held_out": COUNT,
        "duplicates": COUNT,
        "reference_images": COUNT,
    },
    "plateau": {
        "dataset": TEXT,
        "schedule": TEXT,
        "metric": TEXT,
        "best_steps": COUNT,
        **_interval("best_value"),
        "smallest_steps": COUNT,
        "candidates": TEXT,
        "decided": FLAG,
        "repeats": COUNT,
        "interval_over": TEXT,
        "test": TEXT,
        "assumptions": TEXT,
        "reason": TEXT,
    },
    "schedules": {
        "dataset": TEXT,
        "steps": COUNT,
        "schedule": TEXT,
        "identical": FLAG,
        "metric": TEXT,
        "linear_terminal_signal": NUMBER,
        "terminal_signal": NUMBER,
        **_interval("linear_value"),
        **_interval("value"),
        **DIFFERENCE,
    },
    "fewer_steps": WAY | DIFFERENCE,
    "quality_vs_cost": WAY | {"pareto": FLAG, "candidate": FLAG},
    "copies": RUN
    | {
        "training_seed": COUNT,
        "sampler": TEXT,
        "space": TEXT,
        "images": COUNT,
        "copies": COUNT,
        **_interval("share"),
        "real_share": NUMBER,
        "real_copies": COUNT,
        "real_images": COUNT,
        "p_value": NUMBER,
        "p_holm": NUMBER,
    },
    "generation_time": RUN
    | {
        "training_seed": COUNT,
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
        "accuracy_precise_bn": NUMBER,
        "final_loss": NUMBER,
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
        "accuracy_precise_bn_mean": NUMBER,
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


def build(
    table: str, study: Study, paths: StudyPaths, runs: list[Run] | None = None
) -> DataFrame:
    """Gather one table; see `noisesteps.tables.tabulate`."""
    runs = inputs.table_runs(table, study) if runs is None else runs
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
        case "scores":
            rows = scores.score_rows(runs, paths)
        case "floor":
            rows = [scores.floor(dataset, paths) for dataset in study.datasets]
        case "copies":
            rows = scores.copy_rows(runs, paths)
        case "plateau":
            rows = comparisons.plateau_rows(runs, paths)
        case "schedules":
            rows = comparisons.schedule_rows(runs, paths)
        case "fewer_steps":
            rows = comparisons.fewer_steps_rows(study, runs, paths)
        case "quality_vs_cost":
            rows = comparisons.quality_vs_cost_rows(study, runs, paths)
        case _:
            rows = scores.fid_rows(runs, paths)
    types = columns(table)
    return DataFrame(list(rows), columns=list(types)).astype(types)


def write(path: Path, frame: DataFrame) -> None:
    """Write a table as CSV; see `noisesteps.tables.write_csv`."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")


def read(table: str, paths: StudyPaths) -> DataFrame:
    """Read a table back; see `noisesteps.tables.read_table`."""
    stage = f"tabulate --table {table}"
    path = recorded(paths.table(table), f"{table}.json", stage)
    try:
        return pd.read_csv(path, dtype=columns(table), usecols=list(columns(table)))
    except ValueError as error:
        raise StageError(
            f"{path} cannot be read ({error}); run `noisesteps {stage}` again."
        ) from error


def _models(runs: list[Run], paths: StudyPaths) -> list[dict[str, Any]]:
    names = COLUMNS["models"].keys() - {*RUN, "training_seed"}
    return list(with_records("train", runs, paths, names))


def _training_time(runs: list[Run], paths: StudyPaths) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in with_records("train", runs, paths, ["seconds", "device"]):
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
    skipped = {*RUN, "training_seed", "dissertation_seconds"}
    names = COLUMNS["generation_time"].keys() - skipped
    seconds = published("generation_time", "seconds", ["steps"])
    return [
        row | {"dissertation_seconds": seconds.get((row["steps"],))}
        for row in with_records("sample", runs, paths, names)
    ]


def _classifiers(study: Study, paths: StudyPaths) -> list[dict[str, Any]]:
    rows = []
    for architecture, name, seed in inputs.classifier_runs(study):
        path = paths.classifier(architecture, name, seed)
        rows.append(read_record(path, "classify", COLUMNS["classifiers"]))
    return rows
