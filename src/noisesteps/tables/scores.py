"""The tables of scores: every one, their means with intervals, and the floor."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.published import SCHEDULE, published
from noisesteps.tables.records import read_record, with_records
from noisesteps.uncertainty import (
    Interval,
    Plateau,
    find_plateau,
    holm,
    mean_interval,
    more_often,
    share_interval,
)

# Columns of fid.csv by the keys of the records.
MEASURES = {"fid": "value", "kid": "kid", "precision": "precision", "recall": "recall"}
SHARES = {"precision", "recall"}
CONDITIONS = (
    "metric", "images", "seeds", "reference_images", "extractor", "terminal_signal",
    "fid_infinity", "copies", "seconds_per_image",
)  # fmt: skip
# A near-copy is less than COPY_RATIO times as far from one training image as from the
# NEIGHBOURS next ones; as in noisesteps.evaluation.copies, which imports torch.
COPY_RATIO, NEIGHBOURS = 0.5, 50
Records = list[dict[str, Any]]


def score_records(runs: list[Run], paths: StudyPaths) -> Records:
    """Read the score of every run."""
    return list(with_records("score", runs, paths, [*MEASURES, *CONDITIONS]))


def grouped(records: Records, *keys: str) -> dict[tuple, Records]:
    """Group records by the values of keys, in the order of their first appearance."""
    groups: dict[tuple, Records] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record)
    return groups


def repeats(records: Records, measure: str = "fid") -> list[float]:
    """Return the independent repetitions of one model's score.

    With several trainings these are the trainings, each with the mean over its sampling
    seeds: scores of one training share its luck. With one they are its sampling seeds,
    and the spread is that of sampling alone.

    Parameters
    ----------
    records
        The scores of one data set, schedule and T: a record a training.
    """
    if len(records) > 1:
        return [fmean(record[measure]) for record in records]
    return list(records[0][measure])


def images_each(records: Records) -> int:
    """Return the images that each of `repeats` is of."""
    samplings = records[0]["seeds"] if len(records) > 1 else 1
    return records[0]["images"] * samplings


def interval_over(records: Records) -> str:
    """Name what the interval of a score covers."""
    if len(records) > 1:
        return "training and sampling"
    return "sampling" if len(records[0]["fid"]) > 1 else "none: one score"


def by_schedule(records: Records) -> dict[tuple, Records]:
    """Group records by data set and schedule: each asks which T is enough."""
    return grouped(records, "dataset", "schedule")


def plateau(records: Records) -> Plateau:
    """Find which T of one data set and schedule cannot be told from the best."""
    by_steps = grouped(records, "steps")
    return find_plateau({steps: repeats(rows) for (steps,), rows in by_steps.items()})


def columns_of(name: str, interval: Interval) -> dict[str, float | None]:
    """Spread an interval over three columns."""
    return {
        name: interval.value,
        "low" if name == "value" else f"{name}_low": interval.low,
        "high" if name == "value" else f"{name}_high": interval.high,
    }


def _measured(column: str, values: list[float], images: int) -> dict[str, float | None]:
    """Return the mean of repeats, each of so many images, over three columns."""
    if column in SHARES:
        return columns_of(column, share_interval(values, images))
    return columns_of(column, mean_interval(values))


def infinity(records: Records) -> Interval:
    """Return the score extrapolated to infinitely many images, with its interval."""
    if len(records) > 1:
        return mean_interval([record["fid_infinity"]["value"] for record in records])
    return Interval(**records[0]["fid_infinity"])


def score_rows(runs: list[Run], paths: StudyPaths) -> Iterator[dict[str, Any]]:
    """Make the rows of scores.csv: one for each score that was taken."""
    for record in score_records(runs, paths):
        for seed in range(record["seeds"]):
            measured = {
                column: record[measure][seed] for measure, column in MEASURES.items()
            }
            yield record | measured | {"sampling_seed": seed}


def fid_rows(runs: list[Run], paths: StudyPaths) -> Iterator[dict[str, Any]]:
    """Make the rows of fid.csv: one for each data set, schedule and T."""
    floors = {run.dataset: floor(run.dataset, paths) for run in runs}
    fids = published("fid", "fid", ["dataset", "steps"])
    records = score_records(runs, paths)
    plateaus = {key: plateau(rows) for key, rows in by_schedule(records).items()}
    for (dataset, schedule, steps), group in grouped(
        records, "dataset", "schedule", "steps"
    ).items():
        row = dict(group[0])
        for measure, column in MEASURES.items():
            row |= _measured(column, repeats(group, measure), images_each(group))
        row |= columns_of("fid_infinity", infinity(group))
        theirs = fids.get((dataset, steps)) if schedule == SCHEDULE else None
        yield row | {
            "candidate": steps in plateaus[dataset, schedule].candidates,
            "sampling_seeds": group[0]["seeds"],
            "training_seeds": len(group),
            "interval_over": interval_over(group),
            "real_floor": floors[dataset]["value"],
            "real_floor_low": floors[dataset]["low"],
            "real_floor_high": floors[dataset]["high"],
            "dissertation_fid": theirs,
        }


def floor(dataset: str, paths: StudyPaths) -> dict[str, Any]:
    """Make a row of floor.csv: what real held-out images score, the same way."""
    path = paths.reference(dataset) / "reference.json"
    names = ("floor", "metric", "images", "held_out", "duplicates", "reference_images")
    record = read_record(path, "reference", names)
    scores = record["floor"]
    row: dict[str, Any] = record | {"dataset": dataset}
    if scores is None:
        return row | {"sets": 0} | dict.fromkeys(("value", "low", "high"))
    row["sets"] = len(scores["fid"])
    for measure, column in MEASURES.items():
        row |= _measured(column, scores[measure], record["images"])
    return row | columns_of("fid_infinity", Interval(**scores["fid_infinity"]))


def copy_rows(runs: list[Run], paths: StudyPaths) -> Iterator[dict[str, Any]]:
    """Make the rows of copies.csv: the share of near-copies, by run and by space.

    It is compared with the share among real held-out images by Fisher's exact test,
    and the p values of a data set are corrected together after Holm.
    """
    for (dataset,), group in grouped(score_records(runs, paths), "dataset").items():
        path = paths.reference(dataset) / "reference.json"
        real = read_record(path, "reference", ["copies"])["copies"]
        rows = [
            record | {"space": space} | _copies(found, real and real[space])
            for record in group
            for space, found in record["copies"].items()
        ]
        corrected = holm([row.get("p_value") for row in rows])
        for row, p_value in zip(rows, corrected, strict=True):
            yield row | {"p_holm": p_value}


def _copies(found: dict[str, Any], real: dict[str, Any] | None) -> dict[str, Any]:
    row = columns_of("share", Interval(found["value"], found["low"], found["high"], 1))
    row |= {"copies": found["copies"], "images": found["images"]}
    if real is None:
        return row
    return row | {
        "real_share": real["value"],
        "real_copies": real["copies"],
        "real_images": real["images"],
        "p_value": more_often(
            (found["copies"], found["images"]), (real["copies"], real["images"])
        ),
    }
