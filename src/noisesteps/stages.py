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
from noisesteps.files import atomic, checksum, write_array
from noisesteps.locks import alone, exclusive
from noisesteps.paths import Run, StudyPaths
from noisesteps.provenance import Provenance, code_digest, library_versions
from noisesteps.records import load_record, verify, write_record

if TYPE_CHECKING:
    import numpy as np
    import torch

REFERENCE_FILES = ("reference.npz", "features.npy")
# Code that decides what a training or a sampling computes from its settings.
COMPUTING = (
    "data/array.py", "devices.py", "diffusion", "models", "sampling", "seeds.py",
    "stages.py", "training",
)  # fmt: skip
SET_FILES = ("images.npy", "labels.csv")  # of each training set and the test set


def fetch(study: Study, source: str) -> None:
    """Put the files of a data set, or the extractor's weights, below resources/."""
    from noisesteps.data import fetch as fetch_files

    distribution = study.distribution(source)
    if distribution is None:
        names = (*study.datasets, study.evaluation.extractor)
        known = ", ".join(name for name in names if study.distribution(name))
        remedy = f"choose one of {known}" if known else "leave `fetch` out"
        raise ConfigError(f"--source {source} has nothing to fetch; {remedy}.")
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
        record = load_record(folder / "fetched.json", "fetch", "provenance")
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
    from noisesteps.training.progress import forget_peak_memory

    forget_peak_memory(device)
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
        origin=_origin(
            provenance.settings,
            epochs=epochs,
            model=paths.model(run).as_posix(),
            images=dataset["sha256"],
        ),
        tracker=_tracker(study, run),
    )
    folder = paths.model(run)
    save_model(folder / "model.safetensors", network)
    _write_rows(folder / "history.csv", trained.history)
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
        **_terminal(diffusion, dataset),
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
    names = ("image_size", "mean_square", "sha256")
    record = _require(folder / "dataset.json", "preprocess", settings, *names)
    return images, record


def _network(study: Study, run: Run, image_size: int) -> Any:
    from noisesteps.models import UNet
    from noisesteps.seeds import derive

    seed = derive(*_key(study, "weights", run))
    return UNet.preset(study.network.preset, image_size, seed=seed)


def _tracker(study: Study, run: Run) -> Any:
    from noisesteps.training import Tracker

    folder = StudyPaths(study.study).log("train", run)
    return Tracker(folder, study.training, name=f"{study.study}/{run.path}")


def _terminal(diffusion: Any, dataset: dict) -> dict[str, float]:
    """Say how far x_T of this data set is from the noise that sampling starts from."""
    return {
        "terminal_signal": diffusion.terminal_signal,
        "terminal_snr": diffusion.terminal_snr,
        "prior_divergence": diffusion.prior_divergence(dataset["mean_square"]),
    }


def _key(study: Study, purpose: str, run: Run) -> tuple:
    key = (study.seed, purpose, run.dataset, run.schedule, run.steps)
    # Only what differs is named, so that more seeds leave the first as it was.
    repetition = (f"seed{run.seed}",) if run.seed else ()
    return key + repetition + ((run.sampler,) if run.sampler else ())


def _coordinates(run: Run) -> dict[str, Any]:
    return {
        "dataset": run.dataset,
        "schedule": run.schedule,
        "steps": run.steps,
        "training_seed": run.seed,
        "sampler": run.sampler,
    }


def _origin(settings: dict, **inputs: str | int) -> dict[str, Any]:
    """Gather what a checkpoint must share with the run that resumes from it."""
    versions = library_versions()
    return {
        **inputs,
        "settings": settings,
        "code": code_digest(*COMPUTING),
        "libraries": {name: versions[name] for name in ("numpy", "torch")},
    }


def _write_rows(path: Path, rows: list[dict]) -> None:
    import csv

    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


@alone(lambda paths, run, device: paths.samples(run))
def sample(study: Study, run: Run, device: torch.device) -> None:
    """Generate images with one trained model, and time it; goes on where it stopped."""
    from noisesteps import devices
    from noisesteps.diffusion import Diffusion
    from noisesteps.models import load_model
    from noisesteps.sampling import Partial, generate
    from noisesteps.training.progress import forget_peak_memory

    forget_peak_memory(device)
    paths = StudyPaths(study.study)
    provenance = Provenance("sample", study.settings("sample", run))
    settings = study.settings("train", run.model)
    trained = paths.model(run.model)
    model = _require(trained / "model.json", "train", settings, "image_size")
    network = _network(study, run.model, model["image_size"])
    weights = verify(trained, "model.safetensors", model, "train")
    load_model(weights, network)
    images, sampling = study.sample_images(run), study.sampling_of(run)
    origin = _origin(
        provenance.settings,
        samples=paths.samples(run).as_posix(),
        weights=checksum(weights),
    )
    partial = Partial(paths.partial_samples(run), origin)
    samples = generate(
        network,
        Diffusion(run.steps, run.schedule),
        sampling,
        images=images,
        key=_key(study, "sample", run),
        device=device,
        partial=partial,
    )
    folder = paths.samples(run)
    write_array(folder / "images.npy", samples.images)
    seconds = sum(samples.batch_seconds)
    record = {
        **_coordinates(run),
        "method": sampling.method,
        "sampling_steps": sampling.sampling_steps or run.steps,
        "images": images,
        "batch_size": samples.batch_size,
        "precision": sampling.precision,
        "batch_seconds": samples.batch_seconds,
        "peak_memory_bytes": samples.peak_memory_bytes,
        "seconds": seconds,
        "seconds_per_image": seconds / images,
        "device": devices.describe(device),
        "provenance": provenance.record(devices.describe(device)),
    }
    write_record(folder / "sample.json", record, "images.npy")
    partial.remove()


def _require(path: Path, stage: str, settings: dict, *names: str) -> dict:
    """Read the record of an earlier stage, which must have used the same values.

    Snakemake reruns a stage whose values changed; this is for stages run by hand.
    """
    record = load_record(path, stage, "provenance", *names)
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


@alone(lambda paths, dataset, device: paths.reference(dataset))
def reference(study: Study, dataset: str, device: torch.device) -> None:
    """Describe the training images by their features, and score held-out ones."""
    from noisesteps import devices
    from noisesteps.data.array import load_images
    from noisesteps.evaluation import describe

    paths = StudyPaths(study.study)
    settings = study.settings("reference", dataset=dataset)
    provenance = Provenance("reference", settings)
    images = load_images(paths.data(dataset))
    described, neighbours, record = describe(
        images,
        _extractor(study, device),
        images=study.sampling.images,
        key=(study.seed, "reference", dataset),
    )
    folder = paths.reference(dataset)
    described.statistics.save(folder / "reference.npz")
    write_array(folder / "features.npy", described.features)
    _write_rows(folder / "nearest.csv", neighbours)
    record["dataset"] = dataset
    record["provenance"] = provenance.record(devices.describe(device))
    write_record(folder / "reference.json", record, *REFERENCE_FILES, "nearest.csv")


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
    sampled = _require(
        paths.samples(run) / "sample.json", "sample", settings, "seconds_per_image"
    )
    images = load_samples(paths.samples(run))
    reference = _reference(study, run.dataset)
    features, neighbours, record = score_images(
        images,
        _extractor(study, device),
        reference,
        images=study.sampling.images,
        seeds=study.sampling.seeds,
        key=_key(study, "score", run),
    )
    folder = paths.score(run)
    write_array(folder / "features.npy", features)
    _write_rows(folder / "nearest.csv", neighbours)
    record |= _coordinates(run)
    record["seconds_per_image"] = sampled["seconds_per_image"]
    record["terminal_signal"] = Diffusion(run.steps, run.schedule).terminal_signal
    record["provenance"] = provenance.record(devices.describe(device))
    write_record(folder / "score.json", record, "features.npy", "nearest.csv")


def _reference(study: Study, dataset: str) -> Any:
    """Open what samples are compared with."""
    from noisesteps.data.array import load_images
    from noisesteps.evaluation import Reference, Statistics

    paths = StudyPaths(study.study)
    folder = paths.reference(dataset)
    settings = study.settings("reference", dataset=dataset)
    record = _require(folder / "reference.json", "reference", settings)
    statistics, features = (
        verify(folder, name, record, "reference") for name in REFERENCE_FILES
    )
    return Reference(
        Statistics.load(statistics),
        _features(features),
        load_images(paths.data(dataset)).train,
    )


def _features(path: Path) -> np.ndarray:
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StageError(
            f"{path} holds no features; run `noisesteps reference` again."
        ) from error


@alone(lambda paths, name: paths.set(name))
def sets(study: Study, name: str) -> None:
    """Build one of the sets that classifiers learn from, or the test set."""
    from noisesteps.classification import build_set
    from noisesteps.data.array import load_images, load_samples

    paths = StudyPaths(study.study)
    provenance = Provenance("sets", study.settings("sets"))
    chosen = study.classification
    real = {part: load_images(paths.data(part)) for part in chosen.datasets}
    runs = study.runs_of_set(name)
    generated = {run.dataset: load_samples(paths.samples(run)) for run in runs}
    built = build_set(name, real, generated, chosen.images_per_class, study.seed)
    built.save(paths.set(name))
    record = {"set": name, "images": len(built), "provenance": provenance.record()}
    write_record(paths.set(name) / "set.json", record, *SET_FILES)


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
        key=(study.seed, "classify", architecture, seed),
        device=device,
    )
    record = {"architecture": architecture, "set": set_name, "seed": seed, **result}
    record["device"] = devices.describe(device)
    record["provenance"] = provenance.record(record["device"])
    write_record(paths.classifier(architecture, set_name, seed), record)


def _labelled_set(paths: StudyPaths, name: str) -> Any:
    from noisesteps.classification import LabelledSet

    folder = paths.set(name)
    record = load_record(folder / "set.json", "sets", "provenance")
    for file in SET_FILES:
        verify(folder, file, record, "sets")
    return LabelledSet.load(folder)


@alone(lambda paths, table: paths.table(table))
def tabulate(study: Study, table: str) -> None:
    """Gather records into one table."""
    from noisesteps.tables import tabulate as build_table
    from noisesteps.tables import write_csv

    paths = StudyPaths(study.study)
    provenance = Provenance("tabulate", study.settings("tabulate"))
    path = paths.table(table)
    write_csv(path, build_table(table, study, paths))
    record = {"table": table, "provenance": provenance.record()}
    write_record(paths.table(table, ".json"), record, path.name)


@alone(lambda paths, figure: paths.figure(figure))
def draw(study: Study, figure: str) -> None:
    """Draw one figure, as PNG and SVG."""
    from noisesteps.figures import draw as draw_figure

    paths = StudyPaths(study.study)
    provenance = Provenance("draw", study.settings("draw"))
    files = draw_figure(figure, study, paths)
    record = {"figure": figure, "provenance": provenance.record()}
    names = (path.name for path in files)
    write_record(paths.figure(figure, ".json"), record, *names)


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
    model = load_record(
        paths.model(run) / "model.json", "train", "provenance", "image_size"
    )
    names = ("provenance", "method", "images", "sampling_steps", *_coordinates(run))
    sample = load_record(paths.samples(run) / "sample.json", "sample", *names)
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
    names = ("provenance", *_coordinates(run))
    sample = load_record(folder / "sample.json", "sample", *names)
    images = load_samples(folder)
    write_images(output, images, sample=sample, provenance=provenance.record())
