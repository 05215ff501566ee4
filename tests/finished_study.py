"""A finished study in miniature: records, samples and data sets to check by hand.

Every number follows a rule that a test can repeat: a score is 100 + 1000 / T (twice
that for `linear_scaled`), a model trains for T seconds, an image takes T / 1000
seconds, and a classifier's accuracy rises with each seed by as much as RISE says.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from noisesteps.config import Study, parse_study
from noisesteps.files import write_json
from noisesteps.paths import Run, StudyPaths

PROVENANCE = {
    "stage": "any",
    "settings": {},
    "code": {"revision": None, "sha256": "ab" * 32},
    "libraries": {"python": "3.12.1", "torch": "2.11.0"},
    "device": "CPU <model>",
    "started": "2026-01-02T03:04:05Z",
    "wall_seconds": 1.5,
}
METRIC = "FD (EfficientNet-Lite0)"
# Accuracy of the first seed, and what each further one adds.
ACCURACY = {
    "origin": 0.7,
    "synthesis": 0.61,
    "mix": 0.79,
    "origin_repeated": 0.73,
    "origin_augmented": 0.82,
}
RISE = {
    "origin": 0.02,
    "synthesis": 0.01,
    "mix": 0.03,
    "origin_repeated": 0.05,
    "origin_augmented": 0.01,
}


def study(**changes: object) -> Study:
    """Return a small study with one data set that the dissertation knows."""
    values = {
        "study": "mini",
        "datasets": {
            name: {"format": "toy_flowers", "train": 16, "held_out": 4}
            for name in ("oxford_flowers", "smithsonian_butterflies", "toy_flowers")
        },
        "preprocess": {"image_size": 8},
        "network": {"preset": "tiny"},
        "diffusion": {"schedules": ["linear", "linear_scaled"], "steps": [100, 900]},
        "training": {"batch_size": 4},
        "sampling": {"images": 8, "batch_size": 4},
        "evaluation": {"extractor": "efficientnet-lite0"},
        "classification": {
            "datasets": ["oxford_flowers", "smithsonian_butterflies"],
            "schedule": "linear",
            "steps": 900,
            "images_per_class": 16,
            "architectures": ["resnet18", "vgg16"],
            "seeds": 3,
        },
        "figures": {"grid_columns": 4, "dpi": 60},
    }
    return parse_study(values | changes)


def score(run: Run) -> float:
    """Return the score of a run."""
    return (100 + 1000 / run.steps) * (2 if run.schedule == "linear_scaled" else 1)


def terminal_signal(run: Run) -> float:
    """Return the terminal signal of a run; linear's falls tenfold from 0.5."""
    if run.schedule == "linear":
        return 0.5 if run.steps == 100 else 0.005
    return 0.001


def write_study(chosen: Study) -> StudyPaths:
    """Write every record of a finished study below the working directory."""
    paths = StudyPaths(chosen.study)
    for dataset in chosen.datasets:
        _write_dataset(chosen, paths.data(dataset), dataset)
        write_json(
            paths.reference(dataset) / "reference.json",
            {"floor": None if dataset == "smithsonian_butterflies" else 42.5},
        )
    for run in chosen.runs:
        _write_run(chosen, paths, run)
    if chosen.classification:
        write_classifiers(chosen, paths)
    return paths


def _pictures(count: int, size: int, seed: int) -> np.ndarray:
    shape = (count, 3, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _write_dataset(chosen: Study, folder: Path, name: str) -> None:
    dataset, size = chosen.datasets[name], chosen.preprocess.image_size
    counts = {
        "name": name,
        "images": dataset.train + dataset.held_out,
        "train": dataset.train,
        "held_out": dataset.held_out,
        "rejected": 1,
        "found": dataset.train + dataset.held_out + 1,
        "classes": 2,
        "image_size": size,
        "sha256": "cd" * 32,
        "provenance": PROVENANCE,
    }
    write_json(folder / "dataset.json", counts)
    np.save(folder / "images.npy", _pictures(counts["images"], size, seed=1))


def _write_run(chosen: Study, paths: StudyPaths, run: Run) -> None:
    where = {"dataset": run.dataset, "schedule": run.schedule, "steps": run.steps}
    shared = where | {"device": "CPU <model>", "provenance": PROVENANCE}
    images = chosen.sample_images(run)
    model = {
        "parameters": 1234,
        "optimizer_steps": 150,
        "final_loss": 0.25,
        "seconds": float(run.steps),
        "terminal_signal": terminal_signal(run),
    }
    sample = {
        "images": images,
        "batch_size": 4,
        "method": "ancestral",
        "sampling_steps": run.steps,
        "seconds": images * run.steps / 1000,
        "seconds_per_image": run.steps / 1000,
    }
    scored = {
        "metric": METRIC,
        "value": score(run),
        "images": chosen.sampling.images,
        "reference_images": 12,
        "extractor": chosen.evaluation.extractor,
        "extractor_sha256": "ef" * 32,
        "terminal_signal": terminal_signal(run),
    }
    write_json(paths.model(run) / "model.json", shared | model)
    write_json(paths.samples(run) / "sample.json", shared | sample)
    write_json(paths.score(run) / "score.json", shared | scored)
    size = chosen.preprocess.image_size
    np.save(paths.samples(run) / "images.npy", _pictures(images, size, run.steps))
    with (paths.model(run) / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["epoch", "optimizer_step", "loss", "learning_rate", "images_per_second"]
        )
        rows.writerows([n, 50 * n, 1 / n, 1e-4, 99.0] for n in (1, 2, 3))


def write_classifiers(chosen: Study, paths: StudyPaths) -> None:
    """Write the records of the classifiers alone."""
    for architecture in chosen.classification.architectures:
        for name in chosen.classification.sets:
            for seed in range(chosen.classification.seeds):
                record = {
                    "architecture": architecture,
                    "set": name,
                    "seed": seed,
                    "accuracy": ACCURACY[name] + RISE[name] * seed,
                    "train_images": 32 if name in ("origin", "synthesis") else 64,
                    "test_images": 10,
                    "classes": list(chosen.classification.datasets),
                    "epochs": 20,
                    "seconds": 3.0,
                    "device": "CPU <model>",
                    "provenance": PROVENANCE,
                }
                write_json(paths.classifier(architecture, name, seed), record)
