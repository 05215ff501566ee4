"""Accuracy of the training sets, and what separates one from another."""

from __future__ import annotations

from operator import itemgetter
from statistics import fmean, stdev
from typing import Any

from noisesteps.config import Study
from noisesteps.tables.inputs import comparisons
from noisesteps.tables.published import CLASSES, published
from noisesteps.uncertainty.intervals import holm, paired_difference, share_interval

Row = dict[str, Any]


def accuracy_rows(runs: list[Row], study: Study) -> list[Row]:
    """Return a row for each architecture and set: the mean over its repetitions.

    Parameters
    ----------
    runs
        The rows of `classifiers`.
    """
    groups = _by_set(runs)
    known = _published(study)
    return [
        {
            "architecture": architecture,
            "set": name,
            "schedule": study.classification.schedule,
            "steps": study.classification.steps,
            "runs": len(rows),
            **_mean(_accuracies(rows), rows[0]["test_images"]),
            "accuracy_precise_bn_mean": fmean(
                row["accuracy_precise_bn"] for row in rows
            ),
            "train_images": rows[0]["train_images"],
            "test_images": rows[0]["test_images"],
            "dissertation_accuracy": known.get((architecture, name)),
        }
        for (architecture, name), rows in groups.items()
    ]


def _mean(accuracies: list[float], images: int) -> Row:
    """Return the mean, its 95 % interval and the sample standard deviation (n - 1)."""
    interval = share_interval(accuracies, images)
    return {
        "accuracy_mean": interval.value,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "accuracy_std": stdev(accuracies) if len(accuracies) > 1 else None,
    }


def effect_rows(runs: list[Row], study: Study) -> list[Row]:
    """Return a row for each architecture and comparison: the difference of two sets.

    A repetition starts from the same weights on every set, so accuracies are compared
    in pairs: the mean difference, Student's 95 % interval and the paired t-test, whose
    p-values are adjusted over the whole table (Holm).

    Parameters
    ----------
    runs
        The rows of `classifiers`.
    """
    known, groups = _published(study), _by_set(runs)
    rows = [
        {
            "architecture": architecture,
            "set": name,
            "baseline": baseline,
            "repetitions": study.classification.seeds,
            **_difference(groups[architecture, name], groups[architecture, baseline]),
            "dissertation_difference": _gap(known, architecture, name, baseline),
        }
        for architecture in study.classification.architectures
        for name, baseline in comparisons(study)
    ]
    for row, p_holm in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p_holm
    return rows


def _by_set(runs: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group runs by architecture and set, each group in the order of its seeds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for run in sorted(runs, key=itemgetter("seed")):
        groups.setdefault((run["architecture"], run["set"]), []).append(run)
    return groups


def _accuracies(runs: list[Row]) -> list[float]:
    return [run["accuracy"] for run in runs]


def _difference(first: list[Row], second: list[Row]) -> Row:
    difference = paired_difference(_accuracies(first), _accuracies(second))
    return {
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value": difference.p_value,
    }


def _published(study: Study) -> dict[tuple[str, str], float]:
    """Return the dissertation's accuracies by architecture and set.

    They stand beside a study that tells the same classes apart, whatever else differs:
    the dissertation does not say which T made its images, so no study can match that.
    """
    if set(study.classification.datasets) != CLASSES:
        return {}
    return published("classification", "accuracy", ["architecture", "set"])


def _gap(
    known: dict[tuple[str, str], float], architecture: str, name: str, baseline: str
) -> float | None:
    first, second = known.get((architecture, name)), known.get((architecture, baseline))
    return None if first is None or second is None else first - second
