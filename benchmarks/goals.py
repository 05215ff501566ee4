"""The goals at a glance: a line each, a column for each machine."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.rows import Row, three_digits


def markdown(rows: list[Row]) -> str:
    """Return a table of the rows that have a goal, for a page.

    A cell has the ratios by number of threads, fewest first; where one misses the
    goal, below them those of the layers alone, if they were measured.
    """
    wanted = [row for row in rows if row.goal is not None]
    devices = list(dict.fromkeys(row.device for row in wanted))
    works = dict.fromkeys((row.work, row.peer, row.goal_text) for row in wanted)
    lines = [
        [*work, *(_cell(_of(wanted, work, device)) for device in devices)]
        for work in works
    ]
    return tabulate(lines, ["work", "beside", "goal", *devices], tablefmt="github")


def _of(rows: list[Row], work: tuple[str | None, ...], device: str) -> list[Row]:
    found = [
        row
        for row in rows
        if (row.work, row.peer, row.goal_text) == work and row.device == device
    ]
    return sorted(found, key=lambda row: row.threads)


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    if all(row.met for row in rows):
        return f"{_ratios([row.ratio for row in rows])} met"
    verdicts = [f"{_ratios([row.ratio])} {_verdict(row)}" for row in rows]
    if not any(row.met for row in rows):
        verdicts = [f"{_ratios([row.ratio for row in rows])} MISSED"]
    alone = [row.ratio_layers for row in rows if row.ratio_layers]
    bound = f"<br>layers alone {_ratios(alone)}" if alone else ""
    return f"{', '.join(verdicts)}{bound}"


def _verdict(row: Row) -> str:
    return "met" if row.met else "MISSED"


def _ratios(ratios: Sequence[float | None]) -> str:
    return ", ".join(f"{three_digits(ratio)}×" for ratio in ratios if ratio)
