"""What the dissertation's study costs, from the measured seconds of a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from benchmarks.rows import Row
from benchmarks.settings import Settings, settings_for
from noisesteps.config import load_study
from noisesteps.devices import DTYPES

CONFIG = Path("config/config.yaml")
# Flowers, butterflies and faces that the dissertation trained on.
IMAGES = (7169, 1000, 14000)
HEADINGS = (
    "machine", "network", "precision", "threads",
    "training", "sampling", "both", "diffusers, both",
)  # fmt: skip


@dataclass(frozen=True)
class Amounts:
    """What the study's networks are asked for.

    Attributes
    ----------
    models
        How many are trained.
    trained
        Images that pass forward and backward, over all models and epochs.
    denoised
        Predictions of one image's noise, over all models, images and steps.
    """

    models: int
    trained: int
    denoised: int


def amounts(config: Path = CONFIG) -> Amounts:
    """Count what the study asks for: each of its T on each data set."""
    study = load_study(config)
    steps = study.diffusion.steps
    return Amounts(
        len(IMAGES) * len(steps),
        sum(IMAGES) * study.training.epochs * len(steps),
        study.sampling.images * sum(steps) * len(IMAGES),
    )


def markdown(rows: Iterable[Row]) -> str:
    """Return a table of hours: a line for each machine, precision and threads."""
    found = {(row.device, row.threads, row.name): row for row in rows}
    lines = []
    for (device, threads, name), training in found.items():
        settings = settings_for(training.kind, threads, training.rounds)
        batch, _ = settings.sampling[-1]
        precision = name.removeprefix("training-").removesuffix("-diffusers")
        sampling = found.get(
            (device, threads, f"sampling-{batch}-{precision}-diffusers")
        )
        if name.startswith("training-") and precision in DTYPES and sampling:
            lines.append(_line(settings, precision, training, sampling))
    return tabulate(lines, HEADINGS, tablefmt="github", disable_numparse=True)


def _line(
    settings: Settings, precision: str, training: Row, sampling: Row
) -> tuple[str, ...]:
    whole = amounts()
    updates = whole.trained / settings.batch
    steps = whole.denoised / settings.sampling[-1][0]
    ours = (updates * training.ours_s, steps * sampling.ours_s)
    theirs = updates * training.peer_s + steps * sampling.peer_s
    return (
        training.device,
        f"{settings.preset}, {settings.image_size}×{settings.image_size}",
        precision,
        str(training.threads),
        *(f"{seconds / 3600:,.0f} h" for seconds in (*ours, sum(ours), theirs)),
    )
