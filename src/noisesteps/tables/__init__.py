"""Tables: the records of every stage gathered into CSV files.

`table_names`, `table_runs` and `table_records` say what exists and what it is made
from, without importing pandas; a workflow asks them while it plans. `tabulate` makes
one table, `write_csv` and `read_table` move it to and from its CSV file, and
`dissertation` returns the numbers that the dissertation printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesteps.config import Study
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.inputs import table_names, table_records, table_runs

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame

__all__ = [
    "dissertation",
    "read_table",
    "table_names",
    "table_records",
    "table_runs",
    "tabulate",
    "write_csv",
]


def tabulate(
    table: str, study: Study, paths: StudyPaths, runs: list[Run] | None = None
) -> DataFrame:
    """Gather one table from the records of a study.

    Parameters
    ----------
    table
        One of `table_names(study)`.
    runs
        Whose rows it has, where it has rows of runs; None: of all that
        `table_runs` lists.

    Raises
    ------
    ConfigError
        If the study has no table of that name.
    StageError
        If a record is missing or damaged; the message names it and its stage.
    """
    from noisesteps.tables.build import build

    return build(table, study, paths, runs)


def write_csv(path: Path, frame: DataFrame) -> None:
    """Write a table as CSV, atomically, numbers with eight significant digits."""
    from noisesteps.tables.build import write

    write(path, frame)


def read_table(table: str, paths: StudyPaths) -> DataFrame:
    """Read a table back with the column types it was made with.

    Raises
    ------
    StageError
        If the CSV file is missing, lacks a column, or is not the one that its record
        `{table}.json` was written for.
    """
    from noisesteps.tables.build import read

    return read(table, paths)


def dissertation(table: str) -> DataFrame:
    """Return one of the dissertation's tables; see `tables.published`."""
    from noisesteps.tables import published

    return published.dissertation(table)
