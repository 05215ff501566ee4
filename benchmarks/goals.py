"""The goals at a glance: a line each, a column for each machine."""

from __future__ import annotations

from collections.abc import Callable

from tabulate import tabulate

from benchmarks.rows import Row, three_digits

# How a goal's text ends, the unit of what it limits, and that of a ratio.
UNITS: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("as long", "×", lambda ratio: 1 / ratio),
    ("% of it", " %", lambda ratio: 100 / ratio),
    ("% on top", " %", lambda ratio: 100 * (1 / ratio - 1)),
    ("GB above", " GB", lambda ratio: 1 / ratio),
)


def markdown(rows: list[Row]) -> str:
    """Return a table of the rows that have a goal, for a page.

    A cell has what was reached by number of threads, fewest first, in the goal's own
    unit; where one misses the goal, below it that of the layers alone, if it was
    measured.
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
    verdicts = {row.met: "met" if row.met else "MISSED" for row in rows}
    if len(verdicts) == 1:
        text = f"{', '.join(map(reached, rows))} {verdicts[rows[0].met]}"
    else:
        text = ", ".join(f"{reached(row)} {verdicts[row.met]}" for row in rows)
    alone = [f"{three_digits(row.ratio_layers)}×" for row in rows if row.ratio_layers]
    if alone and False in verdicts:
        text += f"<br>layers alone {', '.join(alone)}"
    return text


def reached(row: Row) -> str:
    """Return what a row with a goal reached, in the unit of its goal."""
    if row.ratio is None:
        return ""
    for ending, unit, of_ratio in UNITS:
        if row.goal_text.endswith(ending):
            return f"{three_digits(of_ratio(row.ratio))}{unit}"
    return f"{three_digits(row.ratio)}×"
