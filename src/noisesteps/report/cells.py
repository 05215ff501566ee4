"""Numbers for a reader: significant digits, per cent, hours and minutes, headings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd
from pandas import DataFrame, Series

MISSING = "–"
# Headings that the column's name, with spaces, would not explain.
HEADINGS = {
    "accuracy_mean": "mean accuracy",
    "accuracy_precise_bn": "accuracy, normalisation settled",
    "accuracy_precise_bn_mean": "mean accuracy, normalisation settled",
    "accuracy_std": "standard deviation of the accuracy",
    "dataset": "data set",
    "dissertation_accuracy": "dissertation's accuracy",
    "dissertation_fid": "dissertation's FID",
    "dissertation_hours": "dissertation's mean time",
    "dissertation_mean_seconds": "dissertation's mean time",
    "dissertation_seconds": "dissertation's time",
    "dissertation_seconds_an_update": "dissertation's time an update",
    "fid_infinity": "extrapolated to infinitely many images",
    "final_loss": "last loss",
    "identical": "same schedule as linear",
    "interval_over": "interval covers",
    "kid": "kernel distance",
    "linear_value": "score of linear",
    "optimizer_steps": "updates",
    "p_holm": "p, corrected (Holm)",
    "p_value": "p",
    "pareto": "on the Pareto front",
    "prior_divergence": "KL(q(x_T) ‖ N(0, I)), nats",
    "real_floor": "floor: real images",
    "reference_images": "training images",
    "sampling_steps": "network evaluations an image",
    "seconds_per_image": "time an image",
    "set": "trained on",
    "steps": "T",
    "best_steps": "best T",
    "smallest_steps": "smallest T not told from the best",
    "candidate": "not told from the best",
    "candidates": "T not told from the best",
    "trained_steps": "trained with T",
    "training_seed": "training seed",
    "terminal_snr": "terminal SNR",
    "terminal_signal": "terminal signal √ᾱ_T",
    "this_study_accuracy": "this study's accuracy",
    "this_study_accuracy_precise_bn": "this study's, normalisation settled",
    "this_study_fid": "this study's FID",
    "this_study_mean_seconds": "this study's mean time",
    "this_study_seconds": "this study's time",
    "this_study_seconds_an_update": "this study's time an update",
    "train_images": "training images",
    "times_faster": "times faster here",
    "times_faster_an_update": "times faster here, an update",
}
# Columns that state conditions: said once where every row says the same.
CONDITIONS = {
    "assumptions", "batch_size", "dataset", "device", "epochs", "extractor", "held_out",
    "identical", "images", "interval_over", "method", "metric", "models",
    "optimizer_steps", "parameters", "reference_images", "repeats", "repetitions",
    "runs", "sampling_seeds", "schedule", "sets", "steps", "test", "test_images",
    "train_images", "training_seed", "training_seeds",
}  # fmt: skip
# Columns of fractions that are shown in per cent.
PERCENT = re.compile(r"accuracy|terminal_signal|share|precision|recall")
SECONDS = re.compile(r"(^|_)seconds(_|$)")
HOURS = re.compile(r"(^|_)hours$")
P_VALUE = re.compile(r"^p_")


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
    name: str, title: str, frame: DataFrame, note: str = "", source: str = ""
) -> Table:
    """Prepare a table for a reader.

    Columns without any value are left out. `X_low` and `X_high` join X as its interval,
    `low` and `high` join `value`. A condition that every row states is said once, below
    the table; if it is `metric`, it names the column `value`.
    """
    frame = _without_twins(frame.dropna(axis="columns", how="all"))
    constant = _constant(frame)
    same = [f"{heading(column)} {_write(frame[column])[0].text}" for column in constant]
    names = {"value": frame["metric"].iloc[0]} if "metric" in constant else {}
    columns = list(_columns(frame.drop(columns=constant), names))
    headings = [(words, number) for words, number, _ in columns]
    rows = [list(row) for row in zip(*(cells for *_, cells in columns), strict=True)]
    if any(cell.text.endswith("]") for row in rows for cell in row):
        note = f"In brackets: the 95% interval. {note}".strip()
    return Table(name, title, headings, rows, same, note, source)


def _columns(
    frame: DataFrame, names: Mapping[str, str]
) -> Iterator[tuple[str, bool, list[Cell]]]:
    """Yield each column's head, whether it holds numbers, and its cells."""
    intervals = {column: found for column in frame if (found := _ends(column, frame))}
    taken = {end for ends in intervals.values() for end in ends}
    for column in frame.columns.difference(taken, sort=False):
        words = names.get(column, heading(column))
        if column in intervals:
            ends = [frame[end] for end in intervals[column]]
            yield words, True, _with_interval(frame[column], *ends)
        else:
            yield words, _is_number(frame[column]), _write(frame[column])


def _ends(column: str, frame: DataFrame) -> tuple[str, str] | None:
    """Name the columns that hold the interval of `column`."""
    for prefix in (f"{column}_", f"{column.removesuffix('_mean')}_", ""):
        ends = (f"{prefix}low", f"{prefix}high")
        if set(ends) <= set(frame) and (prefix or column == "value"):
            return ends
    return None


def _with_interval(column: Series, low: Series, high: Series) -> list[Cell]:
    """Write values as `value [low, high]`, all with the same decimals.

    An interval says how sure a value is, so a small one gets no more digits than it.
    """
    together = pd.concat([column, low, high], ignore_index=True).rename(column.name)
    cells = _write(together, keep=False)
    count = len(column)
    return [
        Cell(f"{value.text} [{left.text}, {right.text}]", value.key)
        if left.key and right.key
        else value
        for value, left, right in zip(
            cells[:count], cells[count : 2 * count], cells[2 * count :], strict=True
        )
    ]


def heading(column: str) -> str:
    """Return the words above a column, with its unit."""
    words = HEADINGS.get(column)
    if words is None:
        words = HOURS.sub(r"\1time", SECONDS.sub(r"\1time\2", column)).replace("_", " ")
    if not PERCENT.search(column):
        return words
    return f"{words} ({'points' if 'difference' in column else '%'})"


def _without_twins(frame: DataFrame) -> DataFrame:
    """Leave out hours beside the same time in seconds."""
    twins = [
        column
        for column in frame
        if HOURS.search(column) and HOURS.sub(r"\1seconds", column) in frame
    ]
    return frame.drop(columns=twins)


def _constant(frame: DataFrame) -> list[str]:
    """Name the conditions that are the same in every row."""
    if len(frame) < 2:
        return []
    return [
        column
        for column in frame
        if column in CONDITIONS and frame[column].nunique(dropna=False) == 1
    ]


def _is_number(column: Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _write(column: Series, keep: bool = True) -> list[Cell]:
    """Write the cells of one column; for `keep` see `aligned`."""
    if column.name == "candidates" and not _is_number(column):
        return [Cell(_several(value)) for value in column]
    if not _is_number(column):
        return [Cell(_words(value)) for value in column]
    values = [None if pd.isna(value) else float(value) for value in column]
    known = [value for value in values if value is not None]
    texts = iter(_texts(column, known, keep))
    return [
        Cell(MISSING) if value is None else Cell(next(texts), repr(value))
        for value in values
    ]


def _words(value: object) -> str:
    if pd.isna(value):
        return MISSING
    return {True: "yes", False: "no"}[value] if value in (True, False) else str(value)


def _several(numbers: str) -> str:
    return ", ".join(f"{int(number):,}" for number in numbers.split())


def _texts(column: Series, values: list[float], keep: bool) -> list[str]:
    name = str(column.name)
    if SECONDS.search(name):
        return [duration(value) for value in values]
    if HOURS.search(name):
        return [duration(3600 * value) for value in values]
    if P_VALUE.search(name):
        return [f"{value:.3f}" if value >= 0.001 else "< 0.001" for value in values]
    if PERCENT.search(name):
        return aligned([100 * value for value in values], digits=3, keep=keep)
    if pd.api.types.is_integer_dtype(column):
        return [_minus(f"{int(value):,}") for value in values]
    return aligned(values, keep=keep)


def aligned(
    values: Iterable[float], digits: int = 4, *, keep: bool = True
) -> list[str]:
    """Write numbers with the same decimals, so that the largest has `digits` digits.

    Where that would leave a number with fewer than two significant digits, each has
    three of its own, if `keep` says so.
    """
    values = list(values)
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return [significant(value) for value in values]
    decimals = max(digits - 1 - math.floor(math.log10(max(sizes))), 0)
    if keep and min(sizes) < 10 ** (1 - decimals):
        return [significant(value) for value in values]
    return [
        _minus(f"{value:z,.{decimals}f}")
        if math.isfinite(value)
        else significant(value)
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
    if 0 < seconds < 0.1:
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
