"""One function for each stage: read files, call one room, write files.

A stage writes its JSON record last, so the record says that the stage is done. Rooms
are imported inside the stages: a stage starts in about the time that importing its own
libraries takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisesteps.config import Study
from noisesteps.errors import ConfigError, StageError
from noisesteps.files import atomic, read_json, sweep
from noisesteps.locks import alone, exclusive
from noisesteps.paths import Run, StudyPaths
from noisesteps.provenance import Provenance, code_digest
from noisesteps.records import verify, write_record

if TYPE_CHECKING:
    import numpy as np
    import torch

SET_FILES = ("images.npy", "labels.csv")  # of each training set and the test set


def fetch(study: Study, source: str) -> None:
    """Put the files of a data set, or the extractor's weights, below resources/."""
    from noisesteps.data import fetch as fetch_files

    distribution = study.distribution(source)
    if distribution is None:
        raise ConfigError(f"--source {source} has nothing to fetch in this study.")
    provenance = Provenance("fetch", study.settings("fetch", dataset=source))
    folder = study.resource_folder(source)
    with exclusive(folder, wait=True):  # several studies may want the same files
        files = fetch_files(distribution, source, folder)
        record = {"files": files, "provenance": provenance.record()}
        write_record(folder / "fetched.json", record)


@alone(lambda paths, dataset: paths.data(dataset))
def preprocess(study: Study, dataset: str) -> None:
    """Turn a data set into one uint8 array with a manifest."""
    from noisesteps.data import prepare

    settings = study.settings("preprocess", dataset=dataset)
    provenance = Provenance("preprocess", settings)
    folder = StudyPaths(study.study).data(dataset)
    fetched = _fetched(study, dataset)
    counts = prepare(
        dataset, study.datasets[dataset], study.preprocess, study.seed, fetched, folder
    )
    write_record(
        folder / "dataset.json",
        counts | {"provenance": provenance.record()},
        *("images.npy", "manifest.csv", "rejected.csv"),
    )


def _fetched(study: Study, dataset: str) -> Path | None:
    """Return the folder of a download whose files are those that were fetched."""
    distribution = study.distribution(dataset)
    if distribution is None:
        return None
    folder = study.resource_folder(dataset)
    if (folder / "fetched.json").exists():
        record = _read(folder / "fetched.json", "fetch")
        for name in distribution.files:
            verify(folder, name, record, "fetch")
    return folder


@alone(lambda paths, run, device: paths.model(run))
def train(study: Study, run: Run, device: torch.device) -> None:
    """Train one model, or go on from its checkpoint."""
    from noisesteps import devices
    from noisesteps.diffusion import Diffusion
    from noisesteps.models import save_model
    from noisesteps.training import train as train_network

    paths = StudyPaths(study.study)
    provenance = Provenance("train", study.settings("train", run))
    images, dataset = _training_images(study, run.dataset)
    network = _network(study, run, dataset["image_size"])
    diffusion = Diffusion(run.steps, run.schedule)
    epochs = study.epochs(run.dataset, len(images))
    trained = train_network(
        images,
        network,
        diffusion,
        study.training,
        epochs=epochs,
        key=_key(study, "train", run),
        device=device,
        checkpoint=paths.checkpoint(run),
        origin=_origin(paths.model(run), provenance.settings, dataset["sha256"]),
        tracker=_tracker(study, run),
    )
    folder = paths.model(run)
    save_model(folder / "model.safetensors", network)
    _write_history(folder / "history.csv", trained.history)
    record = {
        **_coordinates(run),
        "preset": study.network.preset,
        "parameters": network.parameter_count,
        "image_size": dataset["image_size"],
        "train_images": len(images),
        "epochs": epochs,
        "optimizer_steps": trained.optimizer_steps,
        "batch_size": study.training.batch_size,
        "precision": study.training.precision,
        "seconds": trained.seconds,
        "seconds_per_update": trained.seconds / trained.optimizer_steps,
        "final_loss": trained.final_loss,
        "peak_memory_bytes": trained.peak_memory_bytes,
        "terminal_signal": diffusion.terminal_signal,
        "device": devices.describe(device),
        "provenance": provenance.record(devices.describe(device)),
    }
    write_record(folder / "model.json", record, "model.safetensors", "history.csv")
    paths.checkpoint(run).unlink(missing_ok=True)


def _training_images(study: Study, dataset: str) -> tuple[np.ndarray, dict]:
    from noisesteps.data.array import load_images

    folder = StudyPaths(study.study).data(dataset)
    images = load_images(folder).train
    if study.training.batch_size > len(images):
        raise ConfigError(
            f"training.batch_size {study.training.batch_size} exceeds the "
            f"{len(images)} training images of {dataset}; lower it."
        )
    settings = study.settings("preprocess", dataset=dataset)
    return images, _require(folder / "dataset.json", "preprocess", settings)


def _network(study: Study, run: Run, image_size: int) -> Any:
    from noisesteps.models import UNet
    from noisesteps.seeds import derive

    seed = derive(*_key(study, "weights", run))
    return UNet.preset(study.network.preset, image_size, seed=seed)


def _tracker(study: Study, run: Run) -> Any:
    from noisesteps.training import Tracker

    folder = StudyPaths(study.study).log("train", run)
    return Tracker(folder, study.training, name=f"{study.study}/{run.path}")


def _key(study: Study, purpose: str, run: Run) -> tuple:
    return (study.seed, purpose, run.dataset, run.schedule, run.steps)


def _coordinates(run: Run) -> dict[str, Any]:
    return {"dataset": run.dataset, "schedule": run.schedule, "steps": run.steps}


def _origin(model: Path, settings: dict, data_sha256: str) -> dict[str, Any]:
    """Gather what a checkpoint must share with the run that resumes from it."""
    code = code_digest("diffusion", "models", "training")
    return {
        "model": model.as_posix(),
        "settings": settings,
        "images": data_sha256,
        "code": code,
    }


def _write_history(path: Path, rows: list[dict]) -> None:
    import csv

    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@alone(lambda paths, run, device: paths.samples(run))
def sample(study: Study, run: Run, device: torch.device) -> None:
    """Generate images with one trained model, and time it."""
    from noisesteps import devices
    from noisesteps.diffusion import Diffusion
    from noisesteps.models import load_model
    from noisesteps.sampling import generate

    paths = StudyPaths(study.study)
    provenance = Provenance("sample", study.settings("sample", run))
    settings = study.settings("train", run)
    model = _require(paths.model(run) / "model.json", "train", settings)
    network = _network(study, run, model["image_size"])
    weights = verify(paths.model(run), "model.safetensors", model, "train")
    load_model(weights, network)
    images = study.sample_images(run)
    samples = generate(
        network,
        Diffusion(run.steps, run.schedule),
        study.sampling,
        images=images,
        key=_key(study, "sample", run),
        device=device,
    )
    folder = paths.samples(run)
    _write_array(folder / "images.npy", samples.images)
    seconds = sum(samples.batch_seconds)
    record = {
        **_coordinates(run),
        "method": study.sampling.method,
        "sampling_steps": study.sampling.sampling_steps or run.steps,
        "images": images,
        "batch_size": samples.batch_size,
        "precision": study.sampling.precision,
        "batch_seconds": samples.batch_seconds,
        "seconds": seconds,
        "seconds_per_image": seconds / images,
        "device": devices.describe(device),
        "provenance": provenance.record(devices.describe(device)),
    }
    write_record(folder / "sample.json", record, "images.npy")


def _write_array(path: Path, array: np.ndarray) -> None:
    import numpy as np

    with atomic(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def _require(path: Path, stage: str, settings: dict) -> dict:
    """Read the record of an earlier stage, which must have used the same values.

    Snakemake reruns a stage whose values changed; this is for stages run by hand.
    """
    record = _read(path, stage)
    used = record["provenance"]["settings"]
    if used != settings:
        keys = sorted(
            key for key in used | settings if used.get(key) != settings.get(key)
        )
        raise StageError(
            f"{path} was made with other values of {', '.join(keys)} than the study "
            f"has now; run `noisesteps {stage}` again."
        )
    return record


def _read(path: Path, stage: str) -> dict:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; run `noisesteps {stage}` first."
        ) from None
    except ValueError as error:
        raise StageError(
            f"{path} is damaged; remove it and run `noisesteps {stage}` again."
        ) from error


@alone(lambda paths, dataset, device: paths.reference(dataset))
def reference(study: Study, dataset: str, device: torch.device) -> None:
    """Describe the training images by their features' mean and covariance."""
    from noisesteps import devices
    from noisesteps.data.array import load_images
    from noisesteps.evaluation import reference as describe_images

    paths = StudyPaths(study.study)
    settings = study.settings("reference", dataset=dataset)
    provenance = Provenance("reference", settings)
    images = load_images(paths.data(dataset))
    extractor = _extractor(study, device)
    statistics, record = describe_images(
        images.train, images.held_out, extractor, study.sampling.images
    )
    folder = paths.reference(dataset)
    statistics.save(folder / "reference.npz")
    record["dataset"] = dataset
    record["provenance"] = provenance.record(devices.describe(device))
    write_record(folder / "reference.json", record, "reference.npz")


def _extractor(study: Study, device: torch.device) -> Any:
    from noisesteps.evaluation import load_extractor

    name = study.evaluation.extractor
    weights = study.distribution(name)
    folder = study.resource_folder(name) if weights else None
    return load_extractor(name, folder, device, study.evaluation.batch_size, weights)


@alone(lambda paths, run, device: paths.score(run))
def score(study: Study, run: Run, device: torch.device) -> None:
    """Measure how far one model's samples lie from the training images."""
    from noisesteps import devices
    from noisesteps.data.array import load_samples
    from noisesteps.diffusion import Diffusion
    from noisesteps.evaluation import score as score_images

    paths = StudyPaths(study.study)
    provenance = Provenance("score", study.settings("score", run))
    settings = study.settings("sample", run)
    _require(paths.samples(run) / "sample.json", "sample", settings)
    images = load_samples(paths.samples(run))
    statistics = _statistics(paths.reference(run.dataset))
    extractor = _extractor(study, device)
    features, record = score_images(
        images, extractor, statistics, study.sampling.images
    )
    folder = paths.score(run)
    _write_array(folder / "features.npy", features)
    record |= _coordinates(run)
    record["terminal_signal"] = Diffusion(run.steps, run.schedule).terminal_signal
    record["provenance"] = provenance.record(devices.describe(device))
    write_record(folder / "score.json", record, "features.npy")


def _statistics(folder: Path) -> Any:
    from noisesteps.evaluation import Statistics

    record = _read(folder / "reference.json", "reference")
    return Statistics.load(verify(folder, "reference.npz", record, "reference"))


@alone(lambda paths: paths.sets_record)
def sets(study: Study) -> None:
    """Build Origin, Synthesis, Mix and the test set."""
    from noisesteps.classification import build_sets
    from noisesteps.data.array import load_images, load_samples

    paths = StudyPaths(study.study)
    provenance = Provenance("sets", study.settings("sets"))
    chosen = study.classification
    runs = [Run(name, chosen.schedule, chosen.steps) for name in chosen.datasets]
    real = {name: load_images(paths.data(name)) for name in chosen.datasets}
    generated = {run.dataset: load_samples(paths.samples(run)) for run in runs}
    built = build_sets(real, generated, chosen.images_per_class, study.seed)
    for name, labelled in built.items():
        sweep(paths.set(name))
        labelled.save(paths.set(name))
    record = {
        "images": {name: len(labelled.images) for name, labelled in built.items()},
        "provenance": provenance.record(),
    }
    files = [f"{name}/{file}" for name in built for file in SET_FILES]
    write_record(paths.sets_record, record, *files)


@alone(lambda paths, *classifier: paths.classifier(*classifier[:3]))
def classify(
    study: Study, architecture: str, set_name: str, seed: int, device: torch.device
) -> None:
    """Train one classifier and test it on images that no diffusion model saw."""
    from noisesteps import devices
    from noisesteps.classification import train_classifier

    paths = StudyPaths(study.study)
    provenance = Provenance("classify", study.settings("classify"))
    result = train_classifier(
        _labelled_set(paths, set_name),
        _labelled_set(paths, "test"),
        architecture,
        study.classification,
        key=(study.seed, "classify", architecture, set_name, seed),
        device=device,
    )
    record = {"architecture": architecture, "set": set_name, "seed": seed, **result}
    record["device"] = devices.describe(device)
    record["provenance"] = provenance.record(record["device"])
    write_record(paths.classifier(architecture, set_name, seed), record)


def _labelled_set(paths: StudyPaths, name: str) -> Any:
    from noisesteps.classification import LabelledSet

    record = _read(paths.sets_record, "sets")
    for file in SET_FILES:
        verify(paths.sets_record.parent, f"{name}/{file}", record, "sets")
    return LabelledSet.load(paths.set(name))


@alone(lambda paths, table: paths.table(table))
def tabulate(study: Study, table: str) -> None:
    """Gather records into one table."""
    from noisesteps.tables import tabulate as build_table
    from noisesteps.tables import write_csv

    paths = StudyPaths(study.study)
    write_csv(paths.table(table), build_table(table, study, paths))


@alone(lambda paths, figure: paths.figure(figure))
def draw(study: Study, figure: str) -> None:
    """Draw one figure, as PNG and SVG."""
    from noisesteps.figures import draw as draw_figure

    draw_figure(figure, study, StudyPaths(study.study))


@alone(lambda paths, config_file: paths.report)
def report(study: Study, config_file: Path) -> None:
    """Write the report: one HTML file."""
    from noisesteps.report import write_report

    write_report(study, StudyPaths(study.study), str(config_file))


def export_pipeline(study: Study, run: Run, output: Path) -> None:
    """Write one model as a pipeline folder of diffusers."""
    from noisesteps.diffusion import Diffusion
    from noisesteps.export import write_pipeline
    from noisesteps.models import load_model

    paths = StudyPaths(study.study)
    provenance = Provenance("export pipeline", _coordinates(run))
    model = _read(paths.model(run) / "model.json", "train")
    sample = _read(paths.samples(run) / "sample.json", "sample")
    network = _network(study, run, model["image_size"])
    load_model(verify(paths.model(run), "model.safetensors", model, "train"), network)
    write_pipeline(
        output,
        network,
        Diffusion(run.steps, run.schedule),
        model=model,
        sample=sample,
        provenance=provenance.record(),
    )


def export_images(study: Study, run: Run, output: Path) -> None:
    """Write one model's generated images as an image folder."""
    from noisesteps.data.array import load_samples
    from noisesteps.export import write_images

    folder = StudyPaths(study.study).samples(run)
    provenance = Provenance("export images", _coordinates(run))
    sample = _read(folder / "sample.json", "sample")
    images = load_samples(folder)
    write_images(output, images, sample=sample, provenance=provenance.record())
