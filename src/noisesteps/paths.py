"""Where every file of a study lies, relative to the working directory.

The rules in `workflow/rules` state the same paths literally; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

RESOURCES = Path("resources")


@dataclass(frozen=True)
class Run:
    """One model's coordinates, and how it is sampled.

    Attributes
    ----------
    dataset, schedule, steps
        Data set, beta schedule and number of noise steps T.
    seed
        Number of the training's repetition, from 0.
    sampler
        `None`: as `sampling` says. `{method}-{steps}`, such as `ddim-50`: the same
        model, sampled with fewer steps.
    """

    dataset: str
    schedule: str
    steps: int
    seed: int = 0
    sampler: str | None = None

    @property
    def path(self) -> Path:
        """`{dataset}/{schedule}/T{steps}`: the run's place under every sister.

        A further training ends in `-seed{n}`; a sampler is a folder below.
        """
        repetition = f"-seed{self.seed}" if self.seed else ""
        place = Path(self.dataset, self.schedule, f"T{self.steps}{repetition}")
        return place / self.sampler if self.sampler else place

    @property
    def model(self) -> Run:
        """The model that is sampled, without the sampler."""
        return replace(self, sampler=None)


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

    def partial_samples(self, run: Run) -> Path:
        """Name the file of a stopped sampling's finished batches, undeclared too."""
        return self.root / "checkpoints" / run.path / "samples.safetensors"

    def samples(self, run: Run) -> Path:
        """Hold `images.npy` and `sample.json`."""
        return self.root / "samples" / run.path

    def reference(self, dataset: str) -> Path:
        """Hold `reference.npz`, `features.npy`, `nearest.csv` and `reference.json`."""
        return self.root / "metrics" / dataset

    def score(self, run: Run) -> Path:
        """Hold `features.npy`, `nearest.csv` and `score.json`."""
        return self.root / "metrics" / run.path

    def set(self, name: str) -> Path:
        """Hold `images.npy`, `labels.csv` and `set.json` of a training set or test."""
        return self.root / "sets" / name

    def classifier(self, architecture: str, set_name: str, seed: int) -> Path:
        """Name the JSON file with one classifier's accuracy."""
        return (
            self.root / "classification" / architecture / set_name / f"seed{seed}.json"
        )

    def table(self, name: str, suffix: str = ".csv") -> Path:
        """Name a table's CSV file, or its record with `.json`."""
        return self.root / "tables" / f"{name}{suffix}"

    def figure(self, name: str, suffix: str = ".png") -> Path:
        """Name a figure's PNG or SVG file, or its record with `.json`."""
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
