"""What Snakemake costs: a finished study's wall time beside its stages' own work.

Read from Snakemake's log and the benchmark files of the rules; nothing is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings

GOAL = 1 / 1.15
STARTED = re.compile(r"^  Date: (.+)$", re.MULTILINE)
STAMP = re.compile(r"^\[(\w{3} \w{3} .+ \d{4})\]$", re.MULTILINE)
CORES = re.compile(r"^Provided cores: (\d+)", re.MULTILINE)
# A job's lines, up to its number of threads where it has more than one.
JOB = re.compile(r"^(?:local)?rule \w+:\n((?:    .+\n)+)", re.MULTILINE)
BENCHMARK = re.compile(r"^    benchmark: (.+)$", re.MULTILINE)
THREADS = re.compile(r"^    threads: (\d+)$", re.MULTILINE)
ALL_DONE = re.compile(r"^(\d+) of \1 steps \(100%\) done$", re.MULTILINE)


@dataclass(frozen=True)
class Finished:
    """What a log says of a workflow that ran from nothing to its end.

    Attributes
    ----------
    wall_s
        From Snakemake's start to its last job's end, to the second.
    cores
        Slots for jobs.
    jobs
        Benchmark file and threads of each job.
    """

    wall_s: float
    cores: int
    jobs: list[tuple[Path, int]]


def measure(settings: Settings, folder: Path) -> Row:
    """Compare wall time and work of the study whose results lie in `folder`.

    Raises
    ------
    FileNotFoundError
        If there is no log of Snakemake about a whole run of it, or a benchmark file
        of that run is gone.
    """
    project = folder.resolve().parents[1]
    found = _last_whole_run(project, folder.resolve().relative_to(project))
    measured = [(_benchmark(project / path), threads) for path, threads in found.jobs]
    seconds = [float(job["s"].sum()) * threads for job, threads in measured]
    own = sum(seconds) / found.cores
    return make_row(
        settings,
        f"orchestration-{folder.name}",
        f"the whole study {folder.name}, {len(seconds)} jobs, {found.cores} slots",
        "its stages' own work over the slots",
        ours_s=found.wall_s,
        peer_s=own,
        ratio=own / found.wall_s,
        goal=GOAL,
        goal_text="≤ 15 % on top",
        ours_bytes=round(max(_most_mebibytes(job) for job, _ in measured) * 2**20),
        note=f"{found.wall_s / own - 1:.1%} on top, slots that waited included; the "
        "memory is that of its largest job",
    )


def _benchmark(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the study again.")
    return pd.read_csv(path, sep="\t")


def _most_mebibytes(job: pd.DataFrame) -> float:
    """Return the most resident memory of a job; Snakemake has none of short ones."""
    return pd.to_numeric(job["max_rss"], errors="coerce").fillna(0).max()


def _last_whole_run(project: Path, folder: Path) -> Finished:
    made = list((project / folder / "benchmarks").rglob("*.tsv"))
    wanted = {path.relative_to(project) for path in made}
    newest = max((path.stat().st_mtime for path in made), default=0.0)
    for path in sorted(project.glob(".snakemake/log/*.snakemake.log"), reverse=True):
        found = parse(path.read_text(encoding="utf-8"))
        written_in_time = newest <= path.stat().st_mtime + 1
        if found and wanted <= {job for job, _ in found.jobs} and written_in_time:
            return found
    raise FileNotFoundError(
        f"{project / '.snakemake/log'} has no log of a run that made all of {folder}; "
        f"remove {folder} and run the study again."
    )


def parse(log: str) -> Finished | None:
    """Read a log of Snakemake; None where it is not of a run that ended well.

    Jobs without a benchmark file, such as the rule that gathers all, are left out.
    """
    started, stamps, cores = STARTED.search(log), STAMP.findall(log), CORES.search(log)
    if not (started and stamps and cores and ALL_DONE.search(log)):
        return None
    began = datetime.fromisoformat(started[1])
    ended = datetime.strptime(stamps[-1], "%a %b %d %H:%M:%S %Y")
    jobs = []
    for lines in JOB.findall(log):
        if benchmark := BENCHMARK.search(lines):
            threads = THREADS.search(lines)
            jobs.append((Path(benchmark[1]), int(threads[1]) if threads else 1))
    if not jobs:
        return None
    return Finished((ended - began).total_seconds(), int(cores[1]), jobs)
