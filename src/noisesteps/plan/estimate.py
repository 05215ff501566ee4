"""What every job of a study will take: arithmetic on counts and a calibration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from noisesteps.config import Study
from noisesteps.evaluation.extractors import DIMENSIONS
from noisesteps.figures import figure_names, figure_records
from noisesteps.needs import EXTRACTED_A_SECOND, NETWORKS
from noisesteps.paths import Run, StudyPaths
from noisesteps.plan.calibration import Calibration
from noisesteps.plan.counts import Count, compiled_stages, is_drawn
from noisesteps.plan.schedule import Task
from noisesteps.tables import table_names, table_records

# Images look for copies in pixels twice, once mirrored.
PIXEL_SEARCHES = 2
# A forward pass costs a third of an image of an epoch: a backward pass is two.
FORWARD_SHARE = 1 / 3
TESTS = 2  # with the statistics of batch normalisation as they are, and taken anew
# Files of rows: manifest.csv, nearest.csv and the like.
ROW_BYTES = 130
TABLE_BYTES = 4_000
RECORD_BYTES = 3_000
TEXT_SHARE = 4 / 3  # the report holds the figures as base64
CHECKPOINT_TENSORS = 3  # weights and two moments
DEPENDENT = ("train", "sample", "reference", "score", "classify")  # hold a GPU
PREPROCESS_THREADS = 2


@dataclass(frozen=True)
class Job:
    """One job of the workflow, and what it takes.

    Attributes
    ----------
    stage, name
        The rule and what it is asked for.
    results
        The files that other jobs wait for.
    inputs
        The files that it waits for.
    seconds
        Wall time of its process.
    work_seconds
        Of that, what its record calls `seconds`: training or sampling alone.
    host_bytes
        Main memory, at most.
    device_bytes
        Memory of the GPU that is allocated, at most; 0 without a GPU.
    disk_bytes
        What it leaves.
    run, dataset
        Where it belongs, if to one.
    """

    stage: str
    name: str
    results: tuple[Path, ...]
    inputs: tuple[Path, ...]
    seconds: float
    work_seconds: float = 0.0
    host_bytes: float = 0.0
    device_bytes: float = 0.0
    disk_bytes: float = 0.0
    run: Run | None = None
    dataset: str | None = None


class Estimator:
    """The jobs of a study.

    Parameters
    ----------
    study
        The study.
    counts
        The images of each data set.
    calibration
        What the work takes.
    """

    def __init__(
        self, study: Study, counts: Mapping[str, Count], calibration: Calibration
    ):
        self.study, self.counts, self.measured = study, counts, calibration
        self.compiled = compiled_stages(study)  # and so was what was measured
        self.paths = StudyPaths(study.study)
        self.image_bytes = 3 * study.preprocess.image_size**2
        self.parameters = NETWORKS[study.network.preset].parameters
        self.dimensions = DIMENSIONS[study.evaluation.extractor]

    def jobs(self) -> list[Job]:
        """List all jobs, each with the seconds that Snakemake takes for it."""
        overhead = self.measured.workflow_job
        return [
            replace(job, seconds=job.seconds + overhead)
            for job in (
                *self._data(),
                *self._models(),
                *self._classifiers(),
                *self._results(),
            )
        ]

    def _job(self, stage: str, name: str, results: tuple, inputs: list, **takes) -> Job:
        """Fill in what all jobs of a stage have in common."""
        start = self.measured.start[takes.pop("start", stage)]
        host = self.measured.host_bytes.get(stage, 0) + takes.pop("more_bytes", 0)
        units = takes.pop("units", 0.0)
        return Job(
            stage, name, results, tuple(inputs), start + units, host_bytes=host, **takes
        )

    # Before the models

    def _data(self) -> Iterator[Job]:
        for source in (*self.study.datasets, self.study.evaluation.extractor):
            if self.study.distribution(source):
                yield self._job("fetch", source, tuple(self._fetched(source)), [])
        for dataset in self.study.datasets:
            yield self._preprocess(dataset)
            yield self._reference(dataset)

    def _fetched(self, source: str) -> list[Path]:
        if self.study.distribution(source) is None:
            return []
        return [self.study.resource_folder(source) / "fetched.json"]

    def _data_record(self, dataset: str) -> Path:
        return self.paths.data(dataset) / "dataset.json"

    def _preprocess(self, dataset: str) -> Job:
        count = self.counts[dataset]
        images = count.train + count.held_out
        kind = "drawn" if is_drawn(self.study, dataset) else "decoded"
        files = ("dataset.json", "images.npy", "rejected.csv")
        return self._job(
            "preprocess",
            dataset,
            tuple(self.paths.data(dataset) / name for name in files),
            self._fetched(dataset),
            units=images * self.measured.prepared[kind],
            disk_bytes=images * (self.image_bytes + ROW_BYTES),
            dataset=dataset,
        )

    def _scoring_seconds(self, images: int, references: int) -> float:
        """Return the seconds for features, and for the search for copies."""
        feature = self.measured.feature
        feature = 1 / EXTRACTED_A_SECOND if feature is None else feature
        values = PIXEL_SEARCHES * self.image_bytes + self.dimensions
        return images * (feature + references * values * self.measured.comparison)

    def _scoring_bytes(self, dataset: str) -> float:
        """Return the main memory for the training images and their features."""
        return self.counts[dataset].train * (self.image_bytes + 8 * self.dimensions)

    def _reference(self, dataset: str) -> Job:
        count = self.counts[dataset]
        folder = self.paths.reference(dataset)
        units = self._scoring_seconds(count.train, 0)
        units += self._scoring_seconds(count.held_out, count.train)
        features = 4 * self.dimensions * count.train
        statistics = 8 * self.dimensions * (self.dimensions + 1)
        return self._job(
            "reference",
            dataset,
            (folder / "reference.json", folder / "nearest.csv"),
            [
                self._data_record(dataset),
                *self._fetched(self.study.evaluation.extractor),
            ],
            units=units,
            more_bytes=self._scoring_bytes(dataset),
            disk_bytes=features + statistics + ROW_BYTES * count.held_out,
            dataset=dataset,
        )

    # The models

    def _models(self) -> Iterator[Job]:
        for dataset in self.study.datasets:
            runs = self.study.runs_of(dataset)
            yield from map(self._train, runs)
            for run in (*runs, *self.study.respaced_runs_of(dataset)):
                yield self._sample(run)
                yield self._score(run)

    def updates(self, dataset: str) -> int:
        """Count the updates of each training on a data set."""
        training, images = self.study.training, self.counts[dataset].train
        batches = math.ceil(images / training.batch_size)
        return training.optimizer_steps or self.study.epochs(dataset, images) * batches

    def _train(self, run: Run) -> Job:
        folder = self.paths.model(run)
        array = self.counts[run.dataset].train * self.image_bytes
        device = self.measured.device_bytes.get("train", 0)
        updates = self.updates(run.dataset)
        work = updates * self.measured.update
        if self.study.training.compiles(updates) == self.compiled["training"]:
            work += self.measured.training_warm_up
        return self._job(
            "train",
            run.path.as_posix(),
            (folder / "model.json", folder / "history.csv"),
            [self._data_record(run.dataset)],
            units=work,
            work_seconds=work,
            more_bytes=2 * array,  # as a file in memory, and as a tensor
            device_bytes=device + array if device else 0,
            disk_bytes=4 * self.parameters + RECORD_BYTES,
            run=run,
            dataset=run.dataset,
        )

    def checkpoint_bytes(self) -> float:
        """Return the disk that a training needs while it runs.

        A new checkpoint is written before the old one goes.
        """
        average = self.study.training.ema_decay is not None
        return 2 * 4 * self.parameters * (CHECKPOINT_TENSORS + average)

    def _sample(self, run: Run) -> Job:
        sampling, images = self.study.sampling_of(run), self.study.sample_images(run)
        steps = sampling.sampling_steps or run.steps
        work = steps * self.measured.denoising_step * images / sampling.batch_size
        if self.study.sampling_compiles(run) == self.compiled["sampling"]:
            work += self.measured.sampling_warm_up
        folder = self.paths.samples(run)
        return self._job(
            "sample",
            run.path.as_posix(),
            (folder / "sample.json", folder / "images.npy"),
            [self.paths.model(run.model) / "model.json"],
            units=work,
            work_seconds=work,
            device_bytes=self.measured.device_bytes.get("sample", 0),
            disk_bytes=images * self.image_bytes + RECORD_BYTES,
            run=run,
            dataset=run.dataset,
        )

    def _score(self, run: Run) -> Job:
        images = self.study.sampling.images * self.study.sampling.seeds
        folder = self.paths.score(run)
        inputs = [
            self.paths.samples(run) / "sample.json",
            self.paths.reference(run.dataset) / "reference.json",
            self._data_record(run.dataset),
            *self._fetched(self.study.evaluation.extractor),
        ]
        return replace(
            self._job(
                "score",
                run.path.as_posix(),
                (folder / "score.json", folder / "nearest.csv"),
                inputs,
                units=self._scoring_seconds(images, self.counts[run.dataset].train),
                disk_bytes=images * (4 * self.dimensions + ROW_BYTES),
                run=run,
                dataset=run.dataset,
            ),
            host_bytes=self.measured.host_bytes["reference"]
            + self._scoring_bytes(run.dataset),
        )

    # The classifiers

    def _set_images(self, name: str) -> int:
        chosen = self.study.classification
        if name == "test":
            held_out = min(self.counts[part].held_out for part in chosen.datasets)
            return len(chosen.datasets) * held_out
        double = name not in ("origin", "synthesis")
        return len(chosen.datasets) * chosen.images_per_class * (2 if double else 1)

    def _set_record(self, name: str) -> Path:
        return self.paths.set(name) / "set.json"

    def _classifiers(self) -> Iterator[Job]:
        chosen = self.study.classification
        if chosen is None:
            return
        real = [self._data_record(part) for part in chosen.datasets]
        for name in (*chosen.sets, "test"):
            runs = self.study.runs_of_set(name)
            made = [self.paths.samples(run) / "sample.json" for run in runs]
            yield self._job(
                "sets",
                name,
                (self._set_record(name),),
                real + made,
                disk_bytes=self._set_images(name) * self.image_bytes,
            )
        for architecture, name in itertools.product(chosen.architectures, chosen.sets):
            yield self._classify(architecture, name, range(chosen.seeds))

    def _classify(self, architecture: str, name: str, seeds: Sequence[int]) -> Job:
        forward = TESTS * self._set_images("test") + self._set_images(name)
        passes = self.study.classification.epochs * self._set_images(name)
        passes += FORWARD_SHARE * forward
        units = len(seeds) * passes * self.measured.classified[architecture]
        return self._job(
            "classify",
            f"{architecture}/{name}",
            tuple(self.paths.classifier(architecture, name, seed) for seed in seeds),
            [self._set_record(name), self._set_record("test")],
            start=f"classify/{architecture}",
            units=units,
            disk_bytes=len(seeds) * RECORD_BYTES,
        )

    # Tables, figures and the report

    def _results(self) -> Iterator[Job]:
        tables, figures = table_names(self.study), figure_names(self.study)
        for name in tables:
            records = table_records(name, self.study, self.paths)
            written = tuple(self.paths.table(name, end) for end in (".csv", ".json"))
            size = TABLE_BYTES + RECORD_BYTES
            yield self._job("tabulate", name, written, records, disk_bytes=size)
        size = self.measured.figure_bytes + RECORD_BYTES
        for name in figures:
            records = figure_records(name, self.study, self.paths)
            written = tuple(self.paths.figure(name, end) for end in (".png", ".json"))
            yield self._job("draw", name, written, records, disk_bytes=size)
        yield self._job(
            "report",
            self.study.study,
            (self.paths.report,),
            [self.paths.figure(name) for name in figures]
            + [self.paths.table(name) for name in tables]
            + [self.paths.data(name) / "rejected.csv" for name in self.study.datasets],
            disk_bytes=TEXT_SHARE * self.measured.figure_bytes * len(figures),
        )


def tasks(jobs: list[Job], threads: int) -> list[Task]:
    """Return the jobs as a scheduler sees them.

    Parameters
    ----------
    jobs
        All jobs of a study.
    threads
        Of each job that holds a GPU.
    """
    by_result = {path: job for job in jobs for path in job.results}
    found = []
    for job in jobs:
        before = {by_result[path].results[0]: by_result[path] for path in job.inputs}
        held = job.stage in DEPENDENT
        cores = PREPROCESS_THREADS if job.stage == "preprocess" else 1
        found.append(
            Task(
                job.results[0],
                job.seconds,
                cores=threads if held else cores,
                gpus=int(held),
                after=frozenset(before),
                priority=sum(one.disk_bytes for one in before.values()),
            )
        )
    return found
