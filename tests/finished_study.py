"""A finished study in miniature: records, samples and data sets to check by hand.

Every number follows a rule that a test can repeat: a score is 100 + 1000 / T (twice
that for `linear_scaled`; 1 less and 1 more for the other two sampling seeds; 10 more
for `ddim`, 5 more for respaced `ancestral` sampling), a model trains for T seconds, an
image takes T / 1000 seconds, and a classifier's accuracy rises with each seed by as
much as RISE says.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from pandas import DataFrame

from noisesteps.config import Study, parse_study
from noisesteps.files import write_text
from noisesteps.paths import Run, StudyPaths
from noisesteps.records import write_record

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
            name: {"format": "toy_flowers", "train": 30, "held_out": 4}
            for name in ("oxford_flowers", "smithsonian_butterflies", "toy_flowers")
        },
        "preprocess": {"image_size": 8},
        "network": {"preset": "tiny"},
        "diffusion": {"schedules": ["linear", "linear_scaled"], "steps": [100, 900]},
        "training": {"batch_size": 4},
        "sampling": {"images": 8, "batch_size": 4, "seeds": 3, "fewer_steps": {}},
        "evaluation": {"extractor": "efficientnet-lite0"},
        "classification": {
            "datasets": ["oxford_flowers", "smithsonian_butterflies"],
            "schedule": "linear",
            "steps": 900,
            "images_per_class": 30,
            "architectures": ["resnet18", "vgg16"],
            "seeds": 3,
        },
        "figures": {"grid_columns": 4, "dpi": 60},
    }
    return parse_study(values | changes)


def score(run: Run) -> float:
    """Return the mean score of a run."""
    more = {"ddim": 10, "ancestral": 5}[run.sampler.split("-")[0]] if run.sampler else 0
    value = (100 + 1000 / run.steps) * (2 if run.schedule == "linear_scaled" else 1)
    return value + more


def measures(mean: float) -> dict[str, object]:
    """Return three scores around a mean, as `score.json` and `reference.json` do."""
    return {
        "fid": [mean - 1, mean, mean + 1],
        "kid": [mean / 1000 - 0.01, mean / 1000, mean / 1000 + 0.01],
        "precision": [0.4, 0.5, 0.6],
        "recall": [0.2, 0.3, 0.4],
        "fid_infinity": {
            "value": mean - 30, "low": mean - 35, "high": mean - 25, "repeats": 3
        },
    }  # fmt: skip


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
        _write_reference(chosen, paths, dataset)
    for run in chosen.runs:
        _write_model(paths, run)
        _write_samples(chosen, paths, run)
    for dataset in chosen.datasets:
        for run in chosen.respaced_runs_of(dataset):
            _write_samples(chosen, paths, run)
    if chosen.classification:
        write_classifiers(chosen, paths)
    return paths


def finish(chosen: Study) -> StudyPaths:
    """Write a finished study with its tables and figures, ready for the report."""
    from noisesteps import figures

    paths = write_study(chosen)
    write_tables(chosen, paths)
    for name in figures.figure_names(chosen):
        files = [path.name for path in figures.draw(name, chosen, paths)]
        write_record(paths.figure(name, ".json"), {"figure": name}, *files)
    return paths


def write_tables(chosen: Study, paths: StudyPaths, *names: str) -> None:
    """Write tables of a finished study; without names, all of them."""
    from noisesteps import tables

    for name in names or tables.table_names(chosen):
        write_table(name, tables.tabulate(name, chosen, paths), paths)


def write_table(name: str, frame: DataFrame, paths: StudyPaths) -> None:
    """Write a table and its record, as `noisesteps tabulate` does."""
    from noisesteps import tables

    tables.write_csv(paths.table(name), frame)
    write_record(paths.table(name, ".json"), {"table": name}, f"{name}.csv")


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
        "mean_square": 0.25,
        "sha256": "cd" * 32,
        "provenance": PROVENANCE,
    }
    write_record(folder / "dataset.json", counts)
    np.save(folder / "images.npy", _pictures(counts["images"], size, seed=1))
    write_text(folder / "rejected.csv", "source,reason\na<b>.jpg,truncated\n")


def _write_reference(chosen: Study, paths: StudyPaths, dataset: str) -> None:
    known = dataset != "smithsonian_butterflies"
    copies = {"value": 0.0, "low": 0.0, "high": 0.14, "copies": 0, "images": 24}
    record = {
        "metric": METRIC,
        "images": chosen.sampling.images,
        "held_out": 24 if known else 4,
        "duplicates": 0,
        "reference_images": 12,
        "floor": measures(42.5) if known else None,
        "floor_reason": None
        if known
        else "4 distinct images are held out, fewer than 8",
        "copies": {"feature": copies, "pixel": copies} if known else None,
        "provenance": PROVENANCE,
    }
    write_record(paths.reference(dataset) / "reference.json", record)
    held_out, train = chosen.datasets[dataset].held_out, chosen.datasets[dataset].train
    _write_nearest(paths.reference(dataset), held_out, min(12, train), first=6)


def shared(run: Run) -> dict[str, object]:
    return {
        "dataset": run.dataset,
        "schedule": run.schedule,
        "steps": run.steps,
        "training_seed": run.seed,
        "sampler": run.sampler,
        "device": "CPU <model>",
        "provenance": PROVENANCE,
    }


def _write_model(paths: StudyPaths, run: Run) -> None:
    signal = terminal_signal(run)
    model = {
        "parameters": 1234,
        "optimizer_steps": 150,
        "final_loss": 0.25,
        "seconds": float(run.steps),
        "terminal_signal": signal,
        "terminal_snr": signal**2 / (1 - signal**2),
        "prior_divergence": signal**2 / 10,
    }
    write_record(paths.model(run) / "model.json", shared(run) | model)
    with (paths.model(run) / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["epoch", "optimizer_step", "loss", "learning_rate", "images_per_second"]
        )
        rows.writerows([n, 50 * n, 1 / n, 1e-4, 99.0] for n in (1, 2, 3))


def _write_samples(chosen: Study, paths: StudyPaths, run: Run) -> None:
    images, sampling = chosen.sample_images(run), chosen.sampling_of(run)
    steps = sampling.sampling_steps or run.steps
    sample = {
        "images": images,
        "batch_size": 4,
        "method": sampling.method,
        "sampling_steps": steps,
        "seconds": images * steps / 1000,
        "seconds_per_image": steps / 1000,
    }
    copies = {"value": 1 / 24, "low": 0.001, "high": 0.21, "copies": 1, "images": 24}
    scored = {
        "metric": METRIC,
        "value": score(run),
        "images": chosen.sampling.images,
        "seeds": 3,
        **measures(score(run)),
        "reference_images": 12,
        "extractor": chosen.evaluation.extractor,
        "extractor_sha256": "ef" * 32,
        "terminal_signal": terminal_signal(run),
        "seconds_per_image": steps / 1000,
        "copies": {"feature": copies, "pixel": copies},
    }
    write_record(paths.samples(run) / "sample.json", shared(run) | sample)
    write_record(paths.score(run) / "score.json", shared(run) | scored)
    size = chosen.preprocess.image_size
    np.save(paths.samples(run) / "images.npy", _pictures(images, size, run.steps))
    scores = chosen.sampling.images * chosen.sampling.seeds
    train = min(12, chosen.datasets[run.dataset].train)
    _write_nearest(paths.score(run), scores, train, first=4)


def _write_nearest(folder: Path, images: int, train: int, first: int) -> None:
    """Write the nearest training images: of image n it is n, (n + first) / 10 away."""
    with (folder / "nearest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["image", "feature_index", "feature_distance", "feature_relative",
             "pixel_index", "pixel_distance", "pixel_relative"]
        )  # fmt: skip
        rows.writerows(
            [n, n % train, 1.5 + n, (n + first) / 10, n % train, 2.5 + n,
             (n + first) / 10]
            for n in range(images)
        )  # fmt: skip


def write_classifiers(chosen: Study, paths: StudyPaths) -> None:
    """Write the records of the classifiers alone."""
    for name in (*chosen.classification.sets, "test"):
        write_record(paths.set(name) / "set.json", {"provenance": PROVENANCE})
    for architecture in chosen.classification.architectures:
        for name in chosen.classification.sets:
            for seed in range(chosen.classification.seeds):
                record = {
                    "architecture": architecture,
                    "set": name,
                    "seed": seed,
                    "accuracy": ACCURACY[name] + RISE[name] * seed,
                    "accuracy_precise_bn": ACCURACY[name] + RISE[name] * seed,
                    "final_loss": 0.125,
                    "train_images": 32 if name in ("origin", "synthesis") else 64,
                    "test_images": 10,
                    "classes": list(chosen.classification.datasets),
                    "epochs": 20,
                    "seconds": 3.0,
                    "device": "CPU <model>",
                    "provenance": PROVENANCE,
                }
                write_record(paths.classifier(architecture, name, seed), record)
