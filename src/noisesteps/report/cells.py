"""Numbers for a reader: significant digits, per cent, hours and minutes, headings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd
from pandas import DataFrame, Series

MISSING = "–"
# Headings that the column's name, with spaces, would not explain.
HEADINGS = {
    "accuracy_mean": "mean accuracy",
    "accuracy_std": "standard deviation of the accuracy",
    "dataset": "data set",
    "dissertation_accuracy": "dissertation's accuracy",
    "dissertation_fid": "dissertation's FID",
    "dissertation_hours": "dissertation's mean time",
    "dissertation_mean_seconds": "dissertation's mean time",
    "dissertation_seconds": "dissertation's time",
    "dissertation_seconds_an_update": "dissertation's time an update",
    "final_loss": "last loss",
    "optimizer_steps": "updates",
    "p_value": "p",
    "real_floor": "floor: real images",
    "reference_images": "training images",
    "sampling_steps": "network evaluations an image",
    "seconds_per_image": "time an image",
    "set": "trained on",
    "steps": "T",
    "terminal_signal": "terminal signal √ᾱ_T",
    "this_study_accuracy": "this study's accuracy",
    "this_study_fid": "this study's FID",
    "this_study_mean_seconds": "this study's mean time",
    "this_study_seconds": "this study's time",
    "this_study_seconds_an_update": "this study's time an update",
    "train_images": "training images",
    "times_faster": "times faster here",
    "times_faster_an_update": "times faster here, an update",
}
# Columns of fractions that are shown in per cent.
PERCENT = re.compile(r"accuracy|terminal_signal|share|precision|recall")
SECONDS = re.compile(r"(^|_)seconds(_|$)")
HOURS = re.compile(r"(^|_)hours$")
LOW, HIGH = re.compile(r"(^|_)low$"), re.compile(r"(^|_)high$")
INTERVAL = "{} to {}"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and for a number the value that it is sorted by."""

    text: str
    key: str | None = None


@dataclass(frozen=True)
class Table:
    """A table ready for the template.

    Attributes
    ----------
    name
        Unique on the page; the table's anchor.
    headings
        Text of each column's head, and whether the column holds numbers.
    same
        What was left out since every row says it: "heading value".
    note
        A sentence under the table.
    source
        The CSV file with all digits.
    """

    name: str
    title: str
    headings: list[tuple[str, bool]]
    rows: list[list[Cell]]
    same: list[str] = field(default_factory=list)
    note: str = ""
    source: str = ""


def make_table(
    name: str,
    title: str,
    frame: DataFrame,
    note: str = "",
    source: str = "",
    fold: bool = True,
) -> Table:
    """Prepare a table for a reader.

    Columns without any value are left out. `X_low` and `X_high` become one column, the
    interval of X. With `fold`, what every row says is said once, below the table; and a
    constant `metric` names the column `value`.
    """
    frame = _without_twins(frame.dropna(axis="columns", how="all"))
    constant = _constant(frame) if fold else []
    same = [f"{heading(column)} {_said(frame[column])}" for column in constant]
    if "metric" in constant:
        frame = frame.rename(columns={"value": frame["metric"].iloc[0]})
    columns = list(_columns(frame.drop(columns=constant)))
    headings = [(words, number) for words, number, _ in columns]
    rows = [list(row) for row in zip(*(cells for *_, cells in columns), strict=True)]
    return Table(name, title, headings, rows, same, note, source)


def _columns(frame: DataFrame) -> Iterator[tuple[str, bool, list[Cell]]]:
    """Yield each column's head, whether it holds numbers, and its cells."""
    for column in frame:
        other = LOW.sub(r"\1high", column)
        if LOW.search(column) and other in frame:
            base = LOW.sub("", column)
            words = f"interval of {heading(base)}" if base else "interval"
            cells = _intervals(_write(frame[column]), _write(frame[other]))
            yield words, True, cells
        elif not (HIGH.search(column) and HIGH.sub(r"\1low", column) in frame):
            yield heading(column), _is_number(frame[column]), _write(frame[column])


def _said(column: Series) -> str:
    return _write(column)[0].text


def heading(column: str) -> str:
    """Return the words above a column, with its unit."""
    words = HEADINGS.get(column)
    if words is None:
        words = HOURS.sub(r"\1time", SECONDS.sub(r"\1time\2", column)).replace("_", " ")
    return f"{words} (%)" if PERCENT.search(column) else words


def _without_twins(frame: DataFrame) -> DataFrame:
    """Leave out hours beside the same time in seconds."""
    twins = [
        column
        for column in frame
        if HOURS.search(column) and HOURS.sub(r"\1seconds", column) in frame
    ]
    return frame.drop(columns=twins)


def _constant(frame: DataFrame) -> list[str]:
    """Name the columns of text and whole numbers that say the same in every row."""
    if len(frame) < 2:
        return []
    return [
        column
        for column in frame
        if not pd.api.types.is_float_dtype(frame[column])
        and frame[column].nunique(dropna=False) == 1
    ]


def _is_number(column: Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and column.dtype != bool


def _write(column: Series) -> list[Cell]:
    """Write the cells of one column."""
    if not _is_number(column):
        return [Cell(MISSING if pd.isna(value) else str(value)) for value in column]
    values = [None if pd.isna(value) else float(value) for value in column]
    known = [value for value in values if value is not None]
    texts = iter(_texts(column, known))
    return [
        Cell(MISSING) if value is None else Cell(next(texts), repr(value))
        for value in values
    ]


def _texts(column: Series, values: list[float]) -> list[str]:
    name = str(column.name)
    if SECONDS.search(name):
        return [duration(value) for value in values]
    if HOURS.search(name):
        return [duration(3600 * value) for value in values]
    if PERCENT.search(name):
        return aligned([100 * value for value in values], digits=3)
    if pd.api.types.is_integer_dtype(column):
        return [_minus(f"{int(value):,}") for value in values]
    return aligned(values)


def _intervals(lows: Sequence[Cell], highs: Sequence[Cell]) -> list[Cell]:
    return [
        Cell(INTERVAL.format(low.text, high.text), low.key) if low.key else low
        for low, high in zip(lows, highs, strict=True)
    ]


def aligned(values: Iterable[float], digits: int = 4) -> list[str]:
    """Write numbers with the same decimals, so that the largest has `digits` digits.

    Where that would leave a number with fewer than two significant digits, each has
    three of its own.
    """
    values = list(values)
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return [significant(value) for value in values]
    decimals = max(digits - 1 - math.floor(math.log10(max(sizes))), 0)
    if min(sizes) < 10 ** (1 - decimals):
        return [significant(value) for value in values]
    return [
        _minus(f"{value:,.{decimals}f}") if math.isfinite(value) else significant(value)
        for value in values
    ]


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, and never as 1e-05."""
    if not math.isfinite(value):
        return _minus(str(value).replace("inf", "∞"))
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4:
        mantissa = f"{value:.{digits - 1}e}".split("e")[0]
        return _minus(f"{mantissa} × 10{_superscript(exponent)}")
    return _minus(f"{value:,.{max(digits - 1 - exponent, 0)}f}")


def duration(seconds: float) -> str:
    """Write a time as a person would: 85 ms, 1.52 s, 2 min 05 s, 15 h 42 min."""
    if seconds < 0:
        return _minus(f"-{duration(-seconds)}")
    if seconds < 0.1:
        return f"{significant(1000 * seconds)} ms"
    if seconds < 59.95:
        return f"{significant(seconds)} s"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {rest:02d} min" if hours < 100 else f"{seconds / 3600:,.0f} h"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
