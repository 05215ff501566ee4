"""The command line: measure, compare with an earlier result, print, write pages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import click
import torch

from benchmarks import check as check_ratios
from benchmarks import table
from benchmarks.groups import GROUPS
from benchmarks.rows import Row
from benchmarks.settings import Settings, settings_for

RESULT = Path("results/benchmarks/speed.json")
BASELINE = Path("benchmarks/baseline.json")
PAGE = Path("docs/performance.md")
# Each library that computes has its own threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Time noisesteps beside its peers."""


@main.command()
@click.option(
    "--device",
    type=click.Choice(["all", "cpu", "cuda"]),
    default="all",
    show_default=True,
    help="all: the CPU, and CUDA where there is one.",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1),
    help="CPU threads; may be given several times. Default: 1, and all of them.",
)
@click.option(
    "--rows",
    "names",
    default=",".join(GROUPS),
    show_default=True,
    help="Groups of rows to measure, with commas between.",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--json",
    "path",
    type=click.Path(path_type=Path),
    default=RESULT,
    show_default=True,
    help="Where each group's rows go when it is done; others in the file stay.",
)
def run(
    device: str,
    threads: tuple[int, ...],
    names: str,
    rounds: int,
    path: Path,
) -> None:
    """Measure, print a table and write JSON."""
    chosen = _groups(names)
    _kept(path)  # a file that cannot be read is heard of before the work
    rows: list[Row] = []
    failed = 0
    for settings in _all_settings(device, threads, rounds):
        found, status = _measure(settings, chosen, _thread_counts(threads)[-1], path)
        rows += found
        failed = failed or status
    if rows:
        click.echo(f"\n{table.plain(rows)}\n\nWritten to {path}")
    sys.exit(failed)


def _groups(names: str) -> list[str]:
    chosen = names.split(",")
    for name in chosen:
        if name not in GROUPS:
            raise click.UsageError(
                f"--rows {name} is none of {', '.join(GROUPS)}; choose from these."
            )
    return chosen


def _thread_counts(threads: tuple[int, ...]) -> list[int]:
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else None
    return sorted(set(threads or (1, available or os.cpu_count() or 1)))


def _all_settings(device: str, threads: tuple[int, ...], rounds: int) -> list[Settings]:
    """Return the conditions to measure under; say what is left out."""
    counts, found = _thread_counts(threads), []
    if device != "cuda":
        found += [settings_for("cpu", count, rounds) for count in counts]
    if device != "cpu":
        if torch.cuda.is_available():
            found.append(settings_for("cuda", counts[-1], rounds))
        else:
            click.echo("The CUDA rows are skipped: this machine has no CUDA device.")
    return found


def _measure(
    settings: Settings, names: list[str], most: int, path: Path
) -> tuple[list[Row], int]:
    """Measure in a new process, which starts with the number of threads.

    Returns what it measured, which is in the file `path` too, and its exit status.
    """
    kind = settings.on.type
    names = [
        name
        for name in names
        if kind in GROUPS[name].devices
        and (GROUPS[name].each_threads or settings.threads == most)
    ]
    count = str(settings.threads)
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, count)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks", "worker", settings.text()]
        done = subprocess.run(
            [*command, ",".join(names), str(result), str(path)],
            env=environment,
            check=False,
        )
        return (table.read(result) if result.exists() else []), done.returncode


@main.command()
@click.argument("result", type=click.Path(exists=True, path_type=Path), default=RESULT)
@click.argument(
    "baseline", type=click.Path(exists=True, path_type=Path), default=BASELINE
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=check_ratios.TOLERANCE,
    show_default=True,
    help="Part of an earlier ratio that may be lost.",
)
def check(result: Path, baseline: Path, tolerance: float) -> None:
    """Compare the ratios of RESULT with those of BASELINE; exit 1 if one fell.

    Of the same machine, goals that are just missed since and rows that are lacking are
    named too.
    """
    rows = table.read(result), table.read(baseline)
    try:
        found = check_ratios.slower(*rows, tolerance)
    except ValueError as error:
        raise click.UsageError(f"{result} and {baseline}: {error}.") from error
    for sentence in [*check_ratios.remarks(*rows, tolerance), *found]:
        click.echo(sentence)
    if found:
        sys.exit(1)
    click.echo(f"No ratio fell by more than {tolerance:.0%}.")


@main.command("table")
@click.argument("result", type=click.Path(exists=True, path_type=Path), default=RESULT)
@click.argument("page", type=click.Path(exists=True, path_type=Path), default=PAGE)
def write_table(result: Path, page: Path) -> None:
    """Write the table of RESULT between the markers of PAGE."""
    try:
        table.into_page(page, table.read(result))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@main.command()
@click.argument(
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("results/demo"),
)
@click.option("--json", "path", type=click.Path(path_type=Path), default=RESULT)
def orchestration(folder: Path, path: Path) -> None:
    """Compare the wall time of a finished study with its stages' own work.

    Its row is added to the result. The study has to have been run from nothing to its
    end by one call of Snakemake.
    """
    from benchmarks import orchestration as finished

    settings = settings_for("cpu", _thread_counts(())[-1], rounds=1)
    try:
        row = finished.measure(settings, folder)
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from error
    table.write(path, table.merge(_kept(path), [row]))
    click.echo(table.plain([row]))


@main.command(hidden=True)
@click.argument("settings", type=Settings.parse)
@click.argument("names")
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("path", type=click.Path(path_type=Path))
def worker(settings: Settings, names: str, result: Path, path: Path) -> None:
    """Measure some groups in this process; what fails loses no other's rows."""
    torch.set_num_threads(settings.threads)
    kept = _kept(path)
    rows, failed = [], False
    for name in filter(None, names.split(",")):
        click.echo(f"{settings.device}, {settings.threads} threads: {name} ...")
        try:
            rows += GROUPS[name].measure(settings)
        except Exception:
            traceback.print_exc()
            failed = True
        if rows:
            table.write(result, rows)
            table.write(path, table.merge(kept, rows))
    sys.exit(failed)


def _kept(path: Path) -> list[Row]:
    """Return the rows of an earlier result, if there is one."""
    return table.read(path) if path.exists() else []


if __name__ == "__main__":
    main()
