"""The plan of a whole study, gathered from its jobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from noisesteps.config import Study
from noisesteps.needs import EXTRACTED_A_SECOND
from noisesteps.plan.calibration import Calibration, calibrate
from noisesteps.plan.counts import Count, count_images
from noisesteps.plan.estimate import Estimator, Job, tasks
from noisesteps.plan.limits import (
    Machine,
    memory_warnings,
    this_machine,
    time_warnings,
)
from noisesteps.plan.machine import Slots
from noisesteps.plan.schedule import wall_seconds

STAGES = (
    "fetch", "preprocess", "train", "sample", "reference", "score", "sets", "classify",
    "tabulate", "draw", "report",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """The models of one data set, schedule and T, or one sampler of theirs.

    Attributes
    ----------
    models
        Trainings; 0 in the row of a sampler, which shares them.
    training_seconds, sampling_seconds
        As the records of all of them will add up to, without the starts.
    memory_bytes
        Of one job, at most: the GPU's where there is one, else the main memory.
    disk_bytes
        What all of them leave.
    """

    dataset: str
    schedule: str
    steps: int
    sampler: str | None
    models: int
    training_seconds: float
    sampling_seconds: float
    memory_bytes: float
    disk_bytes: float


@dataclass(frozen=True)
class Stage:
    """All jobs of a stage, the starts of their processes included."""

    name: str
    jobs: int
    seconds: float
    longest_seconds: float


@dataclass(frozen=True)
class Plan:
    """What a study will take.

    Attributes
    ----------
    rows
        In the order of the config.
    stages
        In the order in which data flows.
    wall_seconds
        From the start of Snakemake to its end.
    disk_bytes
        What the study leaves below results/.
    checkpoint_bytes
        What it needs beside that while it trains.
    notes
        What was assumed, and what is not counted.
    warnings
        What would not fit.
    """

    study: Study
    slots: Slots
    device: str
    calibration: Calibration
    counts: dict[str, Count]
    rows: list[Row]
    stages: list[Stage]
    wall_seconds: float
    disk_bytes: float
    checkpoint_bytes: float
    notes: list[str]
    warnings: list[str]

    @property
    def training_seconds(self) -> float:
        return sum(row.training_seconds for row in self.rows)

    @property
    def sampling_seconds(self) -> float:
        return sum(row.sampling_seconds for row in self.rows)


def plan_study(
    study: Study,
    slots: Slots,
    device: Any,
    device_option: str,
    minutes: int | None = None,
    fresh: bool = False,
) -> Plan:
    """Estimate a study, with a calibration of this machine.

    Parameters
    ----------
    study
        The study.
    slots
        Cores and GPUs.
    device, device_option
        The torch.device of the jobs, and what they are told.
    minutes
        The limit of a job; None: that of the SLURM profile.
    fresh
        Whether to measure this machine anew.

    Raises
    ------
    StageError, DataError
        If a record or an archive is damaged, or the machine cannot be measured.
    """
    from noisesteps import devices

    counts = {name: count_images(study, name) for name in study.datasets}
    calibration = calibrate(study, slots, device, device_option, fresh)
    name = devices.describe(device)
    machine = this_machine(device)
    return make_plan(study, slots, counts, calibration, machine, name, minutes)


def make_plan(
    study: Study,
    slots: Slots,
    counts: dict[str, Count],
    calibration: Calibration,
    machine: Machine,
    device: str,
    minutes: int | None = None,
) -> Plan:
    """Put a plan together; nothing is measured or read."""
    estimator = Estimator(study, counts, calibration)
    jobs = estimator.jobs()
    return Plan(
        study=study,
        slots=slots,
        device=device,
        calibration=calibration,
        counts=counts,
        rows=_rows(jobs),
        stages=list(_stages(jobs)),
        wall_seconds=calibration.workflow_start
        + wall_seconds(tasks(jobs, slots.threads), slots.cores, slots.gpus),
        disk_bytes=sum(job.disk_bytes for job in jobs),
        checkpoint_bytes=slots.jobs * estimator.checkpoint_bytes(),
        notes=list(_notes(study, counts, calibration)),
        warnings=[
            *memory_warnings(study, jobs, machine, slots, calibration),
            *time_warnings(study, jobs, counts, minutes),
        ],
    )


def _rows(jobs: list[Job]) -> list[Row]:
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        if job.run:
            run = job.run
            key = (run.dataset, run.schedule, run.steps, run.sampler)
            groups.setdefault(key, []).append(job)
    rows = [_row(key, group) for key, group in groups.items()]
    order = list(dict.fromkeys((row.dataset, row.schedule) for row in rows))
    return sorted(rows, key=lambda row: order.index((row.dataset, row.schedule)))


def _row(key: tuple, jobs: list[Job]) -> Row:
    def seconds(stage: str) -> float:
        return sum(job.work_seconds for job in jobs if job.stage == stage)

    shown = [job for job in jobs if job.stage != "score"]
    return Row(
        *key,
        models=sum(job.stage == "train" for job in jobs),
        training_seconds=seconds("train"),
        sampling_seconds=seconds("sample"),
        memory_bytes=max(job.device_bytes or job.host_bytes for job in shown),
        disk_bytes=sum(job.disk_bytes for job in jobs),
    )


def _stages(jobs: list[Job]) -> Iterator[Stage]:
    for name in STAGES:
        seconds = [job.seconds for job in jobs if job.stage == name]
        if seconds:
            yield Stage(name, len(seconds), sum(seconds), max(seconds))


def _notes(
    study: Study, counts: dict[str, Count], calibration: Calibration
) -> Iterator[str]:
    for name, count in counts.items():
        if not count.known:
            yield (
                f"{name}: the number of its images is unknown until it is fetched; "
                f"{count.train:,} to train on are assumed."
            )
        elif count.origin == "the files":
            yield (
                f"{name}: {count.train:,} images to train on, if none of its files is "
                "rejected."
            )
        if count.known and count.held_out > count.train:
            yield (
                f"{name}: {count.held_out:,} images are held out and only "
                f"{count.train:,} are left to train on; lower "
                f"datasets.{name}.held_out if that is not meant."
            )
    if calibration.feature is None:
        yield (
            f"The weights of {study.evaluation.extractor} are not fetched; "
            f"{EXTRACTED_A_SECOND} images a second are assumed. `noisesteps fetch "
            f"--source {study.evaluation.extractor}` gets them."
        )
    if any(study.distribution(name) for name in study.datasets):
        yield "Downloads are not counted, neither their time nor their disk."


def as_values(plan: Plan) -> dict[str, Any]:
    """Return a plan as values that JSON can hold; seconds and bytes."""
    return {
        "study": plan.study.study,
        "device": plan.device,
        "cores": plan.slots.cores,
        "gpus": plan.slots.gpus,
        "jobs_at_once": plan.slots.jobs,
        "threads": plan.slots.threads,
        "wall_seconds": plan.wall_seconds,
        "training_seconds": plan.training_seconds,
        "sampling_seconds": plan.sampling_seconds,
        "disk_bytes": round(plan.disk_bytes),
        "checkpoint_bytes": round(plan.checkpoint_bytes),
        "rows": [asdict(row) for row in plan.rows],
        "stages": [asdict(stage) for stage in plan.stages],
        "images": {name: asdict(count) for name, count in plan.counts.items()},
        "notes": plan.notes,
        "warnings": plan.warnings,
        "calibration": asdict(plan.calibration),
    }
