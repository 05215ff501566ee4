"""Rows as tables: on the terminal, and in Markdown between the markers of a page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
from tabulate import tabulate

from benchmarks import goals, whole_study
from benchmarks.rows import Row, three_digits
from noisesteps.files import write_text

# The tables are named `goals`, `benchmarks` and `study`.
BEGIN = "<!-- {}: begin -->"
END = "<!-- {}: end -->"
HEADINGS = (
    "work",
    "beside",
    "threads",
    "ours",
    "peer",
    "ratio (quartiles)",
    "goal",
    "convolutions alone",
    "layers alone",
    "of peak",
    "memory",
)
UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def read(path: str | Path) -> list[Row]:
    """Read the rows of a result.

    Raises
    ------
    click.UsageError
        If the file is none.
    """
    try:
        return [Row.of(values) for values in json.loads(Path(path).read_text())]
    except (ValueError, TypeError, AttributeError) as error:
        raise click.UsageError(
            f"{path} is no result of `benchmarks run`; name another, or move it away."
        ) from error


def write(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON, atomically."""
    values = [row.values() for row in rows]
    write_text(Path(path), json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Put new rows in the place of old ones that measured the same; keep the others."""
    merged = {row.key: row for row in old}
    merged |= {row.key: row for row in new}
    return list(merged.values())


def plain(rows: list[Row]) -> str:
    """Return the table for a terminal, notes below."""
    table = tabulate([cells(row) for row in rows], HEADINGS, tablefmt="simple")
    return f"{table}\n\n{notes(rows)}".rstrip()


def notes(rows: list[Row]) -> str:
    """Return what else there is to say, a line each."""
    threads: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.note:
            threads.setdefault(row.work, {}).setdefault(row.note, row.thread_count)
    return "\n".join(
        f"- {work}{f', {count}' if len(found) > 1 else ''}: {note}"
        for work, found in threads.items()
        for note, count in found.items()
    )


def markdown(rows: list[Row]) -> str:
    """Return a table for each machine for a page, with its name, notes below."""
    machines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        machines.setdefault((row.device, row.torch), []).append(row)
    return "\n\n".join(
        f"Measured on {device}, PyTorch {torch}.\n\n"
        f"{tabulate([cells(row) for row in measured], HEADINGS, tablefmt='github')}"
        f"\n\n{notes(measured)}".rstrip()
        for (device, torch), measured in machines.items()
    )


def into_page(page: Path, rows: list[Row]) -> None:
    """Write the tables between the markers of a Markdown page.

    Raises
    ------
    ValueError
        If the page has not exactly one pair of markers of each table.
    """
    text = page.read_text(encoding="utf-8")
    tables = {
        "goals": goals.markdown(rows),
        "benchmarks": markdown(rows),
        "study": whole_study.markdown(rows),
    }
    for name, table in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, *rest = text.split(begin)
        if len(rest) != 1 or rest[0].count(end) != 1:
            raise ValueError(f"{page} needs one line {begin} and, below it, one {end}.")
        after = rest[0].split(end)[1]
        text = f"{before}{begin}\n\n{table.strip()}\n\n{end}{after}"
    write_text(page, text)


def cells(row: Row) -> list[str]:
    """Return the row as text."""
    return [
        row.work,
        row.peer or "",
        str(row.threads),
        duration(row.ours_s),
        duration(row.peer_s),
        _ratio(row),
        _goal(row),
        _times(row.ratio_convolutions),
        _times(row.ratio_layers),
        _pair(row.ours_share, row.peer_share, lambda share: f"{share:.0%}"),
        _pair(row.ours_bytes, row.peer_bytes, lambda size: f"{size / 1e9:.2f} GB"),
    ]


def duration(seconds: float | None) -> str:
    """Return seconds with three digits and a unit, or nothing."""
    if seconds is None:
        return ""
    unit, size = next((pair for pair in UNITS if seconds >= pair[1]), UNITS[-1])
    return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    text = _times(row.ratio)
    if row.ratio_low is not None and row.ratio_high is not None:
        text += f" ({three_digits(row.ratio_low)}–{three_digits(row.ratio_high)})"
    return text


def _times(ratio: float | None) -> str:
    return f"{three_digits(ratio)}×" if ratio else ""


def _goal(row: Row) -> str:
    if row.met is None:
        return ""
    return f"{row.goal_text} {'met' if row.met else 'MISSED'}"


def _pair(ours, peer, text) -> str:
    """Return ours, and the peer's after a stroke, where they are known."""
    return " / ".join(text(value) for value in (ours, peer) if value is not None)
