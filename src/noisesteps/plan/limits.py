"""What a single job may not exceed: memory, and the time that a cluster gives it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from noisesteps.config import Study
from noisesteps.needs import needs
from noisesteps.plan.calibration import Calibration
from noisesteps.plan.counts import Count
from noisesteps.plan.estimate import Job
from noisesteps.plan.machine import Slots

# Allocated is not all: the context, and the gaps between allocations.
USABLE = 0.92
GB = 1e9
# What a job that met its limit leaves to the next one.
GO_ON = {"train": "its checkpoint", "sample": "its finished batches"}


@dataclass(frozen=True)
class Machine:
    """The memory that there is.

    Attributes
    ----------
    host_bytes
        Main memory; 0 where it cannot be asked for.
    device_bytes
        Memory of the GPU; 0 without one.
    devices
        How many GPUs there are.
    """

    host_bytes: int
    device_bytes: int
    devices: int


def this_machine(device) -> Machine:
    """Look at the memory of this machine and of a torch.device."""
    try:
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # pragma: no cover
        host = 0
    if device.type != "cuda":
        return Machine(host, 0, 0)
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    return Machine(host, total, torch.cuda.device_count())


def memory_warnings(
    study: Study,
    jobs: Iterable[Job],
    machine: Machine,
    slots: Slots,
    calibration: Calibration,
) -> Iterator[str]:
    """Say which stages need more memory than there is.

    Parameters
    ----------
    study
        The study.
    jobs
        Its jobs.
    machine
        The memory that there is.
    slots
        How many jobs there will be at once.
    calibration
        What was measured; smaller batches than the study's mean that those did not
        fit.
    """
    jobs, fitted = list(jobs), calibration.batch_size
    sharing = math.ceil(slots.jobs / machine.devices) if machine.devices else 1
    for stage in ("train", "sample"):
        largest = max(job.device_bytes for job in jobs if job.stage == stage)
        usable = USABLE * machine.device_bytes / sharing
        small = stage == "train" and fitted < study.training.batch_size
        if machine.device_bytes and (largest > usable or small):
            yield _device_warning(study, stage, largest, machine, sharing)
    if (sampled := calibration.sampled_batch_size) < study.sampling.batch_size:
        yield (
            f"sampling.batch_size: {study.sampling.batch_size} images do not fit into "
            f"the memory; sampling goes on with {sampled} at a time by itself."
        )
    largest = max(job.host_bytes for job in jobs)
    together = sum(sorted((job.host_bytes for job in jobs), reverse=True)[: slots.jobs])
    if machine.host_bytes and together > machine.host_bytes:
        yield (
            f"{slots.jobs} jobs at once need up to {together / GB:.1f} GB of main "
            f"memory, the largest {largest / GB:.1f} GB, but the machine has "
            f"{machine.host_bytes / GB:.1f} GB; lower --gpus or training.batch_size."
        )
    elif fitted < study.training.batch_size and not machine.device_bytes:
        yield (
            f"training.batch_size: {study.training.batch_size} images do not fit into "
            f"the main memory, {fitted} do; lower it."
        )


def _device_warning(
    study: Study, stage: str, needed: float, machine: Machine, sharing: int
) -> str:
    shared = f", which {sharing} jobs share" if sharing > 1 else ""
    remedy = {
        "train": f"lower training.batch_size ({study.training.batch_size}) or choose a "
        "smaller network.preset",
        "sample": "lower sampling.batch_size; until then sampling halves it by itself",
    }[stage]
    return (
        f"A {stage} job needs {needed / GB:.1f} GB of GPU memory, but the GPU has "
        f"{machine.device_bytes / GB:.1f} GB{shared}; {remedy}."
    )


def time_warnings(
    study: Study,
    jobs: Iterable[Job],
    counts: dict[str, Count],
    minutes: int | None,
) -> Iterator[str]:
    """Say which stages have jobs that a cluster would end before they are done.

    Parameters
    ----------
    study
        The study.
    jobs
        Its jobs.
    counts
        The images of its data sets.
    minutes
        The limit of every job; None: the minutes that the SLURM profile asks for.
    """
    late: dict[str, list[tuple[Job, int]]] = {}
    for job in jobs:
        limit = minutes or _requested(study, job, counts)
        if limit and job.seconds > 60 * limit:
            late.setdefault(job.stage, []).append((job, limit))
    for stage, found in late.items():
        job, limit = max(found, key=lambda pair: pair[0].seconds / pair[1])
        yield _time_warning(stage, job, limit, len(found), asked=minutes is None)


def _requested(study: Study, job: Job, counts: dict[str, Count]) -> int | None:
    if job.stage == "fetch":
        return None
    images = counts[job.dataset].train if job.dataset else None
    asked = needs(study, job.stage, dataset=job.dataset, run=job.run, images=images)
    return asked.minutes


def _time_warning(stage: str, job: Job, limit: int, jobs: int, asked: bool) -> str:
    many = f"{jobs} {stage} jobs need" if jobs > 1 else f"The {stage} job needs"
    which = f"up to {job.seconds / 60:.0f} minutes ({job.name})"
    whose = "the SLURM profile asks for" if asked else "--time-limit gives"
    begun = job.seconds - job.work_seconds
    if stage not in GO_ON:
        return (
            f"{many} {which}, but {whose} {limit}: {stage} starts anew each time and "
            f"would never end; set-resources: {{{stage}: {{runtime: MINUTES}}}} asks "
            "for more."
        )
    left = 60 * limit - begun
    if left <= 0:
        return f"{many} {which}, but {whose} {limit}, less than its start takes."
    tries = math.ceil(job.work_seconds / left)
    return (
        f"{many} {which}, but {whose} {limit}: {stage} goes on from {GO_ON[stage]}, "
        f"in {tries} jobs one after another; the profile's `retries` has to be "
        f"{tries - 1} or more."
    )
