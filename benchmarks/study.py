"""A small prepared study in a folder of its own, for what starts whole stages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.settings import Settings

PROJECT = Path(__file__).parents[1]
CONFIG = "study.yaml"
TRAIN = (
    "--config",
    CONFIG,
    *("--dataset", "toy_flowers", "--schedule", "linear", "--steps", "10"),
)


def write_study(folder: Path, settings: Settings, images: int) -> None:
    """Write a study of one model with one update, and prepare its images."""
    study = {
        "study": "benchmark",
        "datasets": {
            "toy_flowers": {"format": "toy_flowers", "train": images, "held_out": 6}
        },
        "preprocess": {"image_size": settings.image_size},
        "network": {"preset": settings.preset},
        "diffusion": {"schedules": ["linear"], "steps": [10]},
        "training": {
            "optimizer_steps": 1,
            "batch_size": settings.batch,
            "precision": settings.precisions[0],
        },
        "sampling": {"images": 6, "batch_size": 6},
        "evaluation": {"extractor": "efficientnet-lite0"},
    }
    (folder / CONFIG).write_text(yaml.safe_dump(study))
    arguments = ("preprocess", "--config", CONFIG, "--dataset", "toy_flowers")
    command = [sys.executable, "-m", "noisesteps", *arguments]
    subprocess.run(
        command, cwd=folder, env=environment(), check=True, capture_output=True
    )


def environment() -> dict[str, str]:
    """Return the environment in which both packages are found from any folder.

    Compiled modules are kept as Python does by default, as those of installed
    libraries are, whatever this process was told.
    """
    paths = [str(PROJECT / "src"), str(PROJECT)]
    changes = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": ""}
    return os.environ | changes
