"""What the dissertation's study costs, from the measured seconds of a step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from tabulate import tabulate

from benchmarks.rows import Row
from benchmarks.settings import Settings, settings_for
from noisesteps.devices import DTYPES
from noisesteps.tables import published

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


def amounts() -> Amounts:
    """Count what the dissertation's study asked for: each T on each data set."""
    steps = published.dissertation("generation_time")["steps"].tolist()
    counts = published.TRAIN_IMAGES.values()
    return Amounts(
        len(counts) * len(steps),
        sum(counts) * published.EPOCHS * len(steps),
        published.IMAGES * sum(steps) * len(counts),
    )


def markdown(rows: list[Row]) -> str:
    """Return a table of hours: a line for each machine, precision and threads."""
    whole = amounts()
    found = {row.key: row for row in rows}
    lines = []
    for device, threads, kind in dict.fromkeys(
        (row.device, row.threads, row.kind) for row in rows
    ):
        settings = settings_for(kind, threads, rounds=1)
        batch, _ = settings.sampling[-1]
        for precision in DTYPES:
            pair = [
                _fastest(found, f"{work}-{precision}-diffusers", device, threads)
                for work in ("training", f"sampling-{batch}")
            ]
            if all(pair):
                lines.append(_line(whole, settings, precision, *pair))
    return tabulate(lines, HEADINGS, tablefmt="github", disable_numparse=True)


def _fastest(
    found: Mapping[Hashable, Row], name: str, device: str, threads: int
) -> Row | None:
    """Return the row of our program, compiled where that is faster."""
    rows = (found.get((key, device, threads)) for key in (name, f"{name}-compiled"))
    return min(filter(None, rows), key=lambda row: row.ours_s, default=None)


def _line(
    whole: Amounts, settings: Settings, precision: str, training: Row, sampling: Row
) -> tuple[str, ...]:
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
