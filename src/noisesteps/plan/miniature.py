"""A study in miniature: the same network, sizes and batches, next to no work.

Its images are of two kinds. `images` is trained on and sampled from, by as many models
as there are jobs at once; `few0`, `few1` and so on hold a handful of images each, so
that a stage that reads one of them takes little more than its start.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from noisesteps.config import Study, parse_study
from noisesteps.files import write_text
from noisesteps.needs import forward_flops
from noisesteps.plan.counts import compiled_stages, is_drawn

# Which work is worth which share of the time is guessed from this many operations a
# second; what it really takes is measured.
GUESSED_FLOPS = {"cpu": 2e10, "cuda": 2e13, "mps": 2e12}
GUESSED_CALL = 0.01  # seconds of a pass through the network, however small
BUDGET = 6.0  # guessed seconds of training, and of sampling
EPOCHS = 4  # the first of which warms up
MOST_UPDATES, MOST_STEPS = 32, 100
SCHEDULE = "linear_scaled"
FEW = (16, 8)  # images to train on and held out
DRAWN = 600  # drawings that are timed
DECODED, DISTINCT = 400, 40  # JPEG files that are timed, and how many differ
JPEG_SIDE, JPEG_QUALITY = 500, 90


@dataclass(frozen=True)
class Amounts:
    """How much work the miniature does.

    Attributes
    ----------
    updates, epochs
        Updates in an epoch, and epochs.
    steps
        T.
    """

    updates: int
    epochs: int
    steps: int


def amounts(study: Study, device_type: str, threads: int) -> Amounts:
    """Choose the work such that a measurement takes seconds where that is possible."""
    rate = GUESSED_FLOPS[device_type] * (threads if device_type == "cpu" else 1)

    def seconds(images: int) -> float:
        return images * forward_flops(study) / rate + GUESSED_CALL

    update = 3 * seconds(study.training.batch_size)
    updates = int(BUDGET / EPOCHS / update)
    steps = int(BUDGET / 2 / seconds(study.sampling.batch_size))
    return Amounts(
        updates=min(max(updates, 1), MOST_UPDATES),
        epochs=EPOCHS if updates else 2,
        steps=min(max(steps, 2), MOST_STEPS),
    )


@dataclass(frozen=True)
class Miniature:
    """The two configurations, as files in a folder of their own.

    Attributes
    ----------
    folder
        The working directory of the measurements.
    models
        Trains and samples `images`.
    others
        Holds the small sets, those whose reading is timed, the extractor and the
        classifiers.
    """

    folder: Path
    models: Study
    others: Study


def write_miniature(
    study: Study, work: Amounts, jobs: int, folder: Path, batch_size: int | None = None
) -> Miniature:
    """Write `models.yaml` and `others.yaml`, and the files that they read.

    Parameters
    ----------
    study
        What is measured for.
    work
        How much of it.
    jobs
        How many jobs run at once.
    folder
        An empty folder.
    batch_size
        Of the training, where the study's does not fit into the memory.
    """
    models = _variant(study, _models(study, work, jobs, batch_size))
    others = _variant(study, _others(study, jobs, folder))
    for name, chosen in (("models", models), ("others", others)):
        values = json.loads(chosen.model_dump_json())
        write_text(folder / f"{name}.yaml", yaml.safe_dump(values))
    return Miniature(folder, models, others)


def _variant(study: Study, changes: dict) -> Study:
    return parse_study(study.model_dump(mode="json") | changes)


def _models(study: Study, work: Amounts, jobs: int, batch_size: int | None) -> dict:
    whole = study.training.batch_size
    training = {
        "epochs": work.epochs,
        "optimizer_steps": None,
        "batch_size": batch_size or whole,
        "warmup_steps": 0,
        "checkpoint_epochs": work.epochs,
        "compile": compiled_stages(study)["training"],
        "wandb": {"mode": "disabled"},
        "seeds": jobs,
    }
    batch = study.sampling.batch_size
    sampling = {
        "images": max(2 * batch, 6),
        "compile": compiled_stages(study)["sampling"],
        "seeds": 1,
        "sampling_steps": None,
        "fewer_steps": None,
    }
    values = study.model_dump(mode="json")
    return {
        "study": "models",
        "datasets": {"images": _toy(whole * work.updates, 0)},
        "diffusion": {"schedules": [SCHEDULE], "steps": [work.steps]},
        "training": values["training"] | training,
        "sampling": values["sampling"] | sampling,
        "classification": None,
    }


def _others(study: Study, jobs: int, folder: Path) -> dict:
    names = [f"few{number}" for number in range(max(jobs, 2))]
    values = study.model_dump(mode="json")
    return {
        "study": "others",
        "datasets": {name: _toy(*FEW) for name in names} | _timed(study, folder),
        "preprocess": values["preprocess"] | {
            "minimum_size": 1, "on_duplicate": "keep"
        },
        "diffusion": {"schedules": [SCHEDULE], "steps": [2]},
        "training": {"batch_size": 2},
        "sampling": {"images": 6, "batch_size": 6},
        "classification": _classification(study, names[:2], jobs),
    }  # fmt: skip


def _classification(study: Study, datasets: list[str], jobs: int) -> dict | None:
    if study.classification is None:
        return None
    changes = {
        "datasets": datasets,
        "schedule": SCHEDULE,
        "steps": 2,
        "sets": ["origin"],
        "images_per_class": FEW[0],
        "seeds": jobs,
        "epochs": 1,
    }
    return study.classification.model_dump(mode="json") | changes


def _toy(train: int, held_out: int) -> dict:
    return {"format": "toy_flowers", "train": train, "held_out": held_out}


def _timed(study: Study, folder: Path) -> dict:
    """Return the data sets that tell what it takes to draw and to decode an image."""
    kinds = {is_drawn(study, name) for name in study.datasets}
    made = {"drawn": _toy(DRAWN, 0)} if True in kinds else {}
    if False in kinds:
        _write_jpegs(folder / "jpegs")
        made["decoded"] = {"format": "folder", "path": "jpegs"}
    return made


def _write_jpegs(folder: Path) -> None:
    """Write files of a usual size; blurred noise compresses as photographs do."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(DISTINCT):
        coarse = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(
            (JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC
        )
        file = io.BytesIO()
        image.save(file, "JPEG", quality=JPEG_QUALITY)
        for copy in range(number, DECODED, DISTINCT):
            (folder / f"{copy:04}.jpg").write_bytes(file.getvalue())
