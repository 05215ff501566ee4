"""The tables that compare: which T is best, schedule against T, training against steps.

Differences are tested with Welch's t test between independent repetitions, and the p
values of a data set are corrected together after Holm.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from noisesteps.config import Study
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.scores import (
    Records,
    by_schedule,
    columns_of,
    grouped,
    interval_over,
    plateau,
    repeats,
    score_records,
)
from noisesteps.uncertainty import difference, find_plateau, holm, mean_interval

TRAINED = "trained with as many"


def plateau_rows(runs: list[Run], paths: StudyPaths) -> Iterator[dict[str, Any]]:
    """Make the rows of plateau.csv: which T cannot be told from the best."""
    records = score_records(runs, paths)
    for (dataset, schedule), group in by_schedule(records).items():
        found = plateau(group)
        best_records = grouped(group, "steps")[(found.best,)]
        best = mean_interval(repeats(best_records))
        yield {
            "dataset": dataset,
            "schedule": schedule,
            "metric": group[0]["metric"],
            "best_steps": found.best,
            **columns_of("best_value", best),
            "smallest_steps": found.smallest,
            "candidates": " ".join(map(str, found.candidates)),
            "decided": found.decided,
            "repeats": best.repeats,
            "interval_over": interval_over(best_records),
            "test": found.test,
            "assumptions": found.assumptions,
            "reason": found.reason,
        }


def schedule_rows(runs: list[Run], paths: StudyPaths) -> Iterator[dict[str, Any]]:
    """Make the rows of schedules.csv: other schedules against linear at equal T.

    Where the betas of both are equal, the row is `identical` and nothing is tested:
    only the seeds separate such scores.
    """
    for records in grouped(score_records(runs, paths), "dataset").values():
        cells = grouped(records, "schedule", "steps")
        rows = [
            _against_linear(cells["linear", steps], group)
            for (schedule, steps), group in cells.items()
            if schedule != "linear"
        ]
        yield from _corrected(rows)


def _against_linear(linear: Records, other: Records) -> dict[str, Any]:
    schedule, steps = other[0]["schedule"], other[0]["steps"]
    identical = _is_linear(schedule, steps)
    tested = {} if identical else _difference(repeats(other), repeats(linear))
    return {
        "dataset": other[0]["dataset"],
        "steps": steps,
        "schedule": schedule,
        "identical": identical,
        "metric": other[0]["metric"],
        "linear_terminal_signal": linear[0]["terminal_signal"],
        "terminal_signal": other[0]["terminal_signal"],
        **columns_of("linear_value", mean_interval(repeats(linear))),
        **columns_of("value", mean_interval(repeats(other))),
        **tested,
    }


def _is_linear(schedule: str, steps: int) -> bool:
    """Tell whether a schedule's betas are linear's at this T."""
    # The one table that needs torch; importing it takes longer than the others do.
    from noisesteps.diffusion import schedule_betas

    return schedule_betas(schedule, steps).equal(schedule_betas("linear", steps))


def _difference(first: list[float], second: list[float]) -> dict[str, Any]:
    found = difference(first, second)
    return {
        "difference": found.value,
        "difference_low": found.low,
        "difference_high": found.high,
        "p_value": found.p_value,
    }


def _corrected(rows: Records) -> Records:
    """Add `p_holm`, corrected over those rows that have a p value."""
    corrected = holm([row.get("p_value") for row in rows])
    return [
        row | {"p_holm": p_value} for row, p_value in zip(rows, corrected, strict=True)
    ]


def fewer_steps_rows(
    study: Study, runs: list[Run], paths: StudyPaths
) -> Iterator[dict[str, Any]]:
    """Make the rows of fewer_steps.csv: few steps to train, or only to sample.

    A row is one number of network evaluations an image: of the model trained with as
    many, or of the model of the largest T sampled with so few. The latter are compared
    with the former, where the study has trained it.
    """
    records = _ways(study, runs, paths)
    for group in grouped(records, "dataset").values():
        cells = grouped(group, "schedule", "sampling_steps", "way", "trained_steps")
        rows = []
        for (schedule, steps, way, _), members in cells.items():
            row = _way(members)
            trained = cells.get((schedule, steps, TRAINED, steps))
            if way != TRAINED and trained:
                row |= _difference(repeats(members), repeats(trained))
            rows.append(row)
        yield from _corrected(rows)


def quality_vs_cost_rows(
    study: Study, runs: list[Run], paths: StudyPaths
) -> Iterator[dict[str, Any]]:
    """Make the rows of quality_vs_cost.csv: score and seconds, and what to use.

    A way is on the Pareto front if no other of its data set is both faster and better.
    It is a candidate if its score cannot be told from the best of all ways, by the test
    of plateau.csv. Ways to sample one model share the luck of its training, which that
    test does not know: it keeps rather more of them.

    The time is the median over all data sets, schedules and methods that evaluate the
    network as often: all have the same network and image size, so that what separates
    their times is what else the machine did, and would choose the front by chance.
    """
    records = _ways(study, runs, paths)
    seconds = {
        steps: median(record["seconds_per_image"] for record in members)
        for (steps,), members in grouped(records, "sampling_steps").items()
    }
    for group in grouped(records, "dataset").values():
        cells = grouped(group, "schedule", "sampling_steps", "way", "trained_steps")
        ways = [_way(members) for members in cells.values()]
        rows = [
            row | {"seconds_per_image": seconds[row["sampling_steps"]]} for row in ways
        ]
        alike = find_plateau(dict(enumerate(map(repeats, cells.values())))).candidates
        for place, row in enumerate(rows):
            row["pareto"] = not any(_dominates(other, row) for other in rows)
            row["candidate"] = place in alike
        yield from rows


def _dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    costs = [(row["seconds_per_image"], row["value"]) for row in (one, other)]
    return costs[0] != costs[1] and all(
        mine <= theirs for mine, theirs in zip(*costs, strict=True)
    )


def _ways(study: Study, runs: list[Run], paths: StudyPaths) -> Records:
    """Read the scores of runs with how many network evaluations an image cost."""
    records = score_records(runs, paths)
    for run, record in zip(runs, records, strict=True):
        sampling = study.sampling_of(run)
        steps = sampling.sampling_steps or run.steps
        way = TRAINED if steps == run.steps else sampling.method
        record |= {"sampling_steps": steps, "trained_steps": run.steps, "way": way}
    return records


def _way(members: Records) -> dict[str, Any]:
    seconds = mean_interval([record["seconds_per_image"] for record in members])
    return (
        members[0]
        | columns_of("value", mean_interval(repeats(members)))
        | {"seconds_per_image": seconds.value, "interval_over": interval_over(members)}
    )
