"""What the work of a study takes on this machine, measured once and kept.

Every number comes from the commands of the stages themselves, run on a study in
miniature, and from the records that they leave. As many are run at once as there will
be jobs at once, with the threads that a job gets: two jobs on two cores share caches
and memory, and each is slower than it would be alone.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from noisesteps.config import Study
from noisesteps.files import digest, read_json
from noisesteps.paths import RESOURCES
from noisesteps.plan.counts import compiled_stages, is_drawn, weights_are_there
from noisesteps.plan.machine import Slots
from noisesteps.provenance import code_digest, library_versions
from noisesteps.records import write_record

logger = logging.getLogger("noisesteps.plan")

# What is measured; another room changes no time.
ROOMS = (
    "classification", "data", "devices.py", "diffusion", "evaluation", "figures",
    "models", "plan", "sampling", "tables", "training",
)  # fmt: skip
FOLDER = RESOURCES / "calibration"


@dataclass(frozen=True)
class Calibration:
    """Seconds and bytes on one machine, with as many jobs at once as will run.

    Attributes
    ----------
    conditions
        What the numbers depend on.
    time
        When they were measured, ISO 8601.
    start
        Seconds of a job beyond its units, by stage; `classify` by architecture too,
        as `classify/resnet18`.
    training_warm_up, sampling_warm_up
        Seconds that the first update, the first batch, takes longer; they are part of
        the `seconds` of model.json and sample.json.
    update
        Seconds of an update.
    denoising_step
        Seconds of a step of a whole batch.
    feature
        Seconds of the extractor for an image; None without its weights.
    comparison
        Seconds for a value of an image and one of another, in the search for copies.
    classified
        Seconds for an image in an epoch, by architecture.
    prepared
        Seconds to draw (`drawn`) or decode (`decoded`) an image.
    host_bytes
        Main memory of a process, by stage, of those that compute.
    device_bytes
        Memory of the GPU that training and sampling allocate; empty without a GPU.
    batch_size
        Of the training that was measured: the study's, or the largest half, quarter
        and so on of it that fits into the memory.
    sampled_batch_size
        Of the sampling that was measured: the study's, or what it was halved to.
    figure_bytes
        Of a figure, PNG and SVG.
    workflow_start, workflow_job
        Seconds until Snakemake starts the first job, and its own for each job.
    """

    conditions: dict[str, Any]
    time: str
    start: dict[str, float]
    training_warm_up: float
    sampling_warm_up: float
    update: float
    denoising_step: float
    feature: float | None
    comparison: float
    classified: dict[str, float]
    prepared: dict[str, float]
    host_bytes: dict[str, int]
    device_bytes: dict[str, int]
    batch_size: int
    sampled_batch_size: int
    figure_bytes: int
    workflow_start: float
    workflow_job: float


def conditions(study: Study, slots: Slots, device_name: str) -> dict[str, Any]:
    """Return what a calibration depends on, as JSON values."""
    training = {"batch_size", "precision", "gradient_clip", "ema_decay", "log_steps"}
    training |= {"tensorboard", "recompute_activations"}
    chosen = study.classification
    return {
        "device": device_name,
        "jobs": slots.jobs,
        "threads": slots.threads,
        "network": study.network.preset,
        "image_size": study.preprocess.image_size,
        "training": study.training.model_dump(include=training),
        "sampling": study.sampling.model_dump(
            include={"batch_size", "method", "precision"}
        ),
        "compiled": compiled_stages(study),
        "evaluation": study.evaluation.model_dump(include={"extractor", "batch_size"}),
        "weights": weights_are_there(study),
        "classification": chosen
        and chosen.model_dump(include={"architectures", "batch_size"}),
        "drawn": sorted({is_drawn(study, name) for name in study.datasets}),
        "libraries": library_versions(),
        "code": code_digest(*ROOMS),
    }


def calibrate(
    study: Study, slots: Slots, device: Any, device_option: str, fresh: bool = False
) -> Calibration:
    """Return the calibration for a study, measured now unless it has been before.

    Parameters
    ----------
    study
        The study.
    slots
        The cores and GPUs that its jobs will share.
    device
        The torch.device that they compute on.
    device_option
        What their `--device` says.
    fresh
        Whether to measure anew.

    Raises
    ------
    StageError
        If a command fails, or the result cannot be written.
    TooLargeError
        If not even an update of one image fits into the memory.
    """
    from noisesteps import devices
    from noisesteps.plan.laboratory import measure

    found = conditions(study, slots, devices.describe(device))
    path = FOLDER / f"{digest(found)[:16]}.json"
    kept = None if fresh else _read(path, found)
    if kept:
        return kept
    logger.info(
        "measuring this machine with %d jobs at once; kept in %s", slots.jobs, path
    )
    with tempfile.TemporaryDirectory(prefix="noisesteps-plan-") as folder:
        numbers = measure(study, slots, device.type, device_option, Path(folder))
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    calibration = Calibration(found, time, **numbers)
    write_record(path, dataclasses.asdict(calibration))
    return calibration


def _read(path: Path, expected: dict[str, Any]) -> Calibration | None:
    """Read a calibration; a file that is damaged or of another program is ignored."""
    try:
        values = read_json(path)
        calibration = Calibration(**values)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return calibration if calibration.conditions == expected else None
