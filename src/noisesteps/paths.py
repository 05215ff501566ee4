"""Where every file of a study lies, relative to the working directory.

The rules in `workflow/rules` state the same paths literally; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RESOURCES = Path("resources")


@dataclass(frozen=True)
class Run:
    """One model's coordinates: data set, beta schedule and number of steps T."""

    dataset: str
    schedule: str
    steps: int

    @property
    def path(self) -> Path:
        """`{dataset}/{schedule}/T{steps}`: the run's place under every sister."""
        return Path(self.dataset, self.schedule, f"T{self.steps}")


@dataclass(frozen=True)
class StudyPaths:
    """The tree under `results/{study}`."""

    study: str

    @property
    def root(self) -> Path:
        return Path("results", self.study)

    def data(self, dataset: str) -> Path:
        """Hold `images.npy`, `manifest.csv`, `rejected.csv` and `dataset.json`."""
        return self.root / "data" / dataset

    def model(self, run: Run) -> Path:
        """Hold `model.safetensors`, `model.json` and `history.csv`."""
        return self.root / "models" / run.path

    def checkpoint(self, run: Run) -> Path:
        """Name the rolling checkpoint, which no rule declares: see models.smk."""
        return self.root / "checkpoints" / run.path / "checkpoint.safetensors"

    def samples(self, run: Run) -> Path:
        """Hold `images.npy` and `sample.json`."""
        return self.root / "samples" / run.path

    def reference(self, dataset: str) -> Path:
        """Hold `reference.npz` and `reference.json`."""
        return self.root / "metrics" / dataset

    def score(self, run: Run) -> Path:
        """Hold `features.npy` and `score.json`."""
        return self.root / "metrics" / run.path

    def set(self, name: str) -> Path:
        """Hold `images.npy`, `labels.csv` and `set.json` of a training set or test."""
        return self.root / "sets" / name

    def classifier(self, architecture: str, set_name: str, seed: int) -> Path:
        """Name the JSON file with one classifier's accuracy."""
        return (
            self.root / "classification" / architecture / set_name / f"seed{seed}.json"
        )

    def table(self, name: str) -> Path:
        return self.root / "tables" / f"{name}.csv"

    def figure(self, name: str, suffix: str = ".png") -> Path:
        return self.root / "figures" / f"{name}{suffix}"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def log(self, stage: str, run: Run) -> Path:
        """Folder of the append-only daily logs and the TensorBoard events."""
        return self.root / "logs" / stage / run.path

    def rule_log(self, rule: str, *coordinates: str | Path) -> Path:
        """Name the log that Snakemake keeps of a job's latest attempt."""
        *folders, name = (rule, *map(str, coordinates))
        return self.root.joinpath("logs", *folders, f"{name}.log")
