"""Run the stages on a study in miniature, and read clocks and records."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from noisesteps.config import Study
from noisesteps.files import read_json, write_text
from noisesteps.needs import NETWORKS
from noisesteps.paths import RESOURCES, Run, StudyPaths
from noisesteps.plan import miniature
from noisesteps.plan.counts import compiled_stages
from noisesteps.plan.machine import Ran, Slots, TooLargeError, run_together

logger = logging.getLogger("noisesteps.plan")

ADAM_BYTES = 16  # a parameter: weight, gradient and two moments in float32
COMPUTING = ("train", "sample", "reference", "classify")
TABLES = ("generation_time", "models", "training_time")
FIGURES = (
    "samples_images", "training_loss_images", "generation_time", "dataset_images"
)  # fmt: skip
SNAKEMAKE_JOBS = 24
MOST_JOBS = 100  # at once; training.seeds has no more
# As the rules are, but that nothing is done.
SNAKEFILE = """
rule all:
    input:
        expand("jobs/{n}.txt", n=range(int(config["jobs"]))),


rule job:
    output:
        "jobs/{n}.txt",
    log:
        "logs/{n}.log",
    benchmark:
        "benchmarks/{n}.tsv"
    shell:
        "true > {output:q} 2> {log:q}"
"""


def measure(
    study: Study, slots: Slots, device_type: str, device_option: str, folder: Path
) -> dict[str, Any]:
    """Measure all that a `Calibration` holds, but its conditions and its time.

    Parameters
    ----------
    study
        What is planned.
    slots
        How many jobs there will be at once, and their threads.
    device_type, device_option
        `cpu`, `cuda` or `mps`; what the stages are told.
    folder
        An empty folder to work in.
    """
    return _Laboratory(study, slots, device_type, device_option, folder).measure()


class _Laboratory:
    """One measurement: the miniature, and what is known of it so far."""

    def __init__(
        self,
        study: Study,
        slots: Slots,
        device_type: str,
        device_option: str,
        folder: Path,
    ):
        self.study, self.slots, self.folder = study, slots, folder
        self.device_type, self.device_option = device_type, device_option
        self.jobs = min(slots.jobs, MOST_JOBS)
        self.work = miniature.amounts(study, device_type, slots.threads)
        self.mini = self._write(None)
        self.start: dict[str, float] = {}
        self.host_bytes: dict[str, int] = {}
        self.device_bytes: dict[str, int] = {}

    def measure(self) -> dict[str, Any]:
        if RESOURCES.exists():  # the extractor's weights
            (self.folder / RESOURCES).symlink_to(RESOURCES.resolve())
        prepared = self._preprocess()
        units = self._units()
        training = self._train()
        sampling = self._sample()
        self._reference(units["feature"])
        self._classify(units["classified"])
        figure_bytes = self._tell()
        return {
            "start": self.start,
            **training,
            **sampling,
            **units,
            "prepared": prepared,
            "host_bytes": self.host_bytes,
            "device_bytes": self.device_bytes,
            "figure_bytes": figure_bytes,
            **self._workflow(),
        }

    def _write(self, batch_size: int | None) -> miniature.Miniature:
        return miniature.write_miniature(
            self.study, self.work, self.jobs, self.folder, batch_size
        )

    def _stage(
        self, stage: str, config: str, options: Sequence[Sequence[str]]
    ) -> list[Ran]:
        """Run a stage once for each of `options`, all at once."""
        shared = ["-m", "noisesteps", stage, "--config", f"{config}.yaml"]
        if stage in COMPUTING:
            shared += ["--device", self.device_option]
            shared += ["--threads", str(self.slots.threads)]
        commands = [[*shared, *each] for each in options]
        ran = run_together(commands, self.folder, self.slots.threads)
        if stage in COMPUTING:
            self.host_bytes[stage] = max(one.memory_bytes for one in ran)
        return ran

    def _compiled_stage(
        self, stage: str, options: Sequence[Sequence[str]]
    ) -> list[Ran]:
        """Run a stage of the models; if it compiles, after its network is compiled.

        PyTorch keeps that, below the folder for temporary files, for all of a study.
        """
        section = {"train": "training", "sample": "sampling"}[stage]
        if compiled_stages(self.study)[section]:
            self._stage(stage, "models", options[:1])
        return self._stage(stage, "models", options)

    def _in_turns(
        self, stage: str, config: str, options: Sequence[Sequence[str]], at_once: int
    ) -> list[Ran]:
        turns = range(0, len(options), at_once)
        return [
            ran
            for first in turns
            for ran in self._stage(stage, config, options[first : first + at_once])
        ]

    def _preprocess(self) -> dict[str, float]:
        """Time preprocessing; return the seconds of an image drawn or decoded."""
        logger.info("measuring preprocess")
        self._stage("preprocess", "models", [["--dataset", "images"]])
        names = list(self.mini.others.datasets)
        few = [["--dataset", name] for name in names if name.startswith("few")]
        ran = self._in_turns("preprocess", "others", few, max(1, self.slots.cores // 2))
        start = median(one.seconds for one in ran)
        counts = {"drawn": miniature.DRAWN, "decoded": miniature.DECODED}
        prepared = {}
        for name in set(names) & set(counts):
            (one,) = self._stage("preprocess", "others", [["--dataset", name]])
            prepared[name] = max(0.0, one.seconds - start) / counts[name]
        self.start["fetch"] = self.start["preprocess"] = start
        return prepared

    def _units(self) -> dict[str, Any]:
        logger.info("measuring the extractor and the classifiers")
        command = ["-m", "noisesteps.plan.units", "others.yaml", self.device_option]
        command.append(str(self.slots.threads))
        ran = run_together([command] * self.jobs, self.folder, self.slots.threads)
        found = [json.loads(one.output) for one in ran]
        features = [one["feature"] for one in found]
        return {
            "feature": None if None in features else median(features),
            "comparison": median(one["comparison"] for one in found),
            "classified": {
                architecture: median(one["classified"][architecture] for one in found)
                for architecture in found[0]["classified"]
            },
        }

    def _train(self) -> dict[str, Any]:
        """Time training, with as large a batch as fits into the memory."""
        batch_size = self.study.training.batch_size
        while True:
            logger.info("measuring train")
            try:
                options = [_coordinates(run) for run in self.mini.models.runs]
                ran = self._compiled_stage("train", options)
                break
            except TooLargeError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                logger.info("an update does not fit into the memory; trying half of it")
                self.mini = self._write(batch_size)
        found = [
            self._training_of(run, one)
            for run, one in zip(self.mini.models.runs, ran, strict=True)
        ]
        self.start["train"] = median(one["start"] for one in found)
        if self.device_type == "cuda":
            peak = max(one["peak"] for one in found)
            self.device_bytes["train"] = self._scaled_up(peak, batch_size)
        times = self.study.training.batch_size / batch_size
        return {
            "update": times * median(one["update"] for one in found),
            "training_warm_up": median(one["warm_up"] for one in found),
            "batch_size": batch_size,
        }

    def _training_of(self, run: Run, ran: Ran) -> dict[str, float]:
        folder = self.folder / StudyPaths("models").model(run)
        record = read_json(folder / "model.json")
        with (folder / "history.csv").open(newline="") as file:
            speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
        update = record["batch_size"] / median(speeds[1:])
        seconds = record["seconds"]
        return {
            "update": update,
            "warm_up": max(0.0, seconds - record["optimizer_steps"] * update),
            "start": ran.seconds - seconds,
            "peak": record["peak_memory_bytes"],
        }

    def _scaled_up(self, peak: int, batch_size: int) -> int:
        """Return the memory of the study's own batch: activations grow with it."""
        fixed = ADAM_BYTES * NETWORKS[self.study.network.preset].parameters
        times = self.study.training.batch_size / batch_size
        return round(fixed + times * (peak - fixed)) if times > 1 else peak

    def _sample(self) -> dict[str, Any]:
        logger.info("measuring sample")
        runs = self.mini.models.runs
        ran = self._compiled_stage("sample", [_coordinates(run) for run in runs])
        records = [
            read_json(self.folder / StudyPaths("models").samples(run) / "sample.json")
            for run in runs
        ]
        batches = [median(record["batch_seconds"][1:]) for record in records]
        self.start["sample"] = median(
            one.seconds - record["seconds"]
            for one, record in zip(ran, records, strict=True)
        )
        if self.device_type == "cuda":
            peaks = [record["peak_memory_bytes"] for record in records]
            self.device_bytes["sample"] = max(peaks)
        batch_size = min(record["batch_size"] for record in records)
        times = self.study.sampling.batch_size / batch_size
        return {
            "sampled_batch_size": batch_size,
            "denoising_step": times * median(batches) / self.work.steps,
            "sampling_warm_up": median(
                max(0.0, record["batch_seconds"][0] - batch)
                for record, batch in zip(records, batches, strict=True)
            ),
        }

    def _reference(self, feature: float | None) -> None:
        """Time a scoring stage, which is a start and the features of the images."""
        if feature is None:  # the weights are still to be fetched
            self.start["reference"] = self.start["score"] = self.start["sample"]
            self.host_bytes["reference"] = self.host_bytes["sample"]
            return
        logger.info("measuring reference")
        names = list(self.mini.others.datasets)[: self.jobs]
        ran = self._stage("reference", "others", [["--dataset", n] for n in names])
        images = sum(miniature.FEW)
        start = max(0.0, median(one.seconds for one in ran) - images * feature)
        self.start["reference"] = self.start["score"] = start

    def _classify(self, classified: dict[str, float]) -> None:
        chosen = self.mini.others.classification
        if chosen is None:
            return
        logger.info("measuring classify")
        names = [["--set", name] for name in (*chosen.sets, "test")]
        ran = self._in_turns("sets", "others", names, self.jobs)
        self.start["sets"] = median(one.seconds for one in ran)
        images = len(chosen.datasets) * chosen.images_per_class
        for architecture, seconds in classified.items():
            options = ["--architecture", architecture, "--set", *chosen.sets]
            seeds = [[*options, "--seed", str(n)] for n in range(self.jobs)]
            ran = self._stage("classify", "others", seeds)
            start = median(one.seconds for one in ran) - images * seconds
            self.start[f"classify/{architecture}"] = max(0.0, start)

    def _tell(self) -> int:
        """Time tables and figures; return the bytes of a figure."""
        logger.info("measuring tabulate and draw")
        tables = [["--table", name] for name in TABLES]
        figures = [["--figure", name] for name in FIGURES]
        for stage, options in (("tabulate", tables), ("draw", figures)):
            ran = self._in_turns(stage, "models", options, self.jobs)
            self.start[stage] = mean(one.seconds for one in ran)
        self.start["report"] = self.start["draw"]
        folder = self.folder / StudyPaths("models").figure("any").parent
        written = sum(path.stat().st_size for path in folder.iterdir())
        return round(written / len(FIGURES))

    def _workflow(self) -> dict[str, float]:
        """Time Snakemake where the jobs do nothing."""
        logger.info("measuring snakemake")
        write_text(self.folder / "Snakefile", SNAKEFILE)
        common = ["-m", "snakemake", "--cores", "1", "--scheduler", "greedy"]
        common += ["--nolock", "--quiet", "all", "--config"]
        one, many = (
            run_together([[*common, f"jobs={count}"]], self.folder, 1)[0].seconds
            for count in (1, 1 + SNAKEMAKE_JOBS)
        )
        job = max(0.0, many - one) / SNAKEMAKE_JOBS
        return {"workflow_start": max(0.0, one - job), "workflow_job": job}


def _coordinates(run: Run) -> list[str]:
    options = ["--dataset", run.dataset, "--schedule", run.schedule]
    options += ["--steps", str(run.steps), "--training-seed", str(run.seed)]
    return options
