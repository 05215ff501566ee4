"""How the time of a step grows with the image size and with the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from benchmarks.contestants import Make, take_turns
from benchmarks.networks import SAMPLING, TRAINING
from benchmarks.peak import operations
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings

# What is timed beside the preset and image size of the other rows.
VARIANTS = {
    "cpu": (("small-32", 16), ("small-32", 64), ("toy-16", 32), ("tiny", 32)),
    "cuda": (("ddpm-113m", 64), ("small-32", 128)),
}


def measure(settings: Settings) -> list[Row]:
    """Return a row for each variant, training and sampling, beside the usual one.

    The rows have no ratio: a smaller one would not be a slower program.
    """
    precision = settings.precisions[0]
    batch, steps = settings.sampling[0]

    def train(one: Settings) -> Make:
        return partial(TRAINING["ours"], one, precision)

    def sample(one: Settings) -> Make:
        return partial(SAMPLING["ours"], one, precision, batch, steps)

    return [
        *_rows(settings, "training", precision, settings.batch, train),
        *_rows(settings, "sampling", precision, batch, sample),
    ]


def _rows(
    settings: Settings,
    kind: str,
    precision: str,
    batch: int,
    make: Callable[[Settings], Make],
) -> list[Row]:
    usual = (settings.preset, settings.image_size)
    conditions = {
        (preset, size): replace(settings, preset=preset, image_size=size)
        for preset, size in (usual, *VARIANTS[settings.on.type])
    }
    makers = {name: make(one) for name, one in conditions.items()}
    found = take_turns(settings, f"growth of {kind}", makers)
    seconds = {name: took.middle_s for name, took in found.items()}
    counts = {
        name: operations(one, "ours", batch, training=kind == "training")
        for name, one in conditions.items()
    }
    return [
        make_row(
            one,
            f"growth-{kind}-{one.preset}-{one.image_size}",
            f"{kind} step, {_title(one)}, batch {batch}, {precision}",
            _title(settings),
            ours_s=seconds[name],
            peer_s=seconds[usual],
            ours_bytes=found[name].most_bytes,
            peer_bytes=found[usual].most_bytes,
            note=f"{seconds[name] / seconds[usual]:.2g} times the time, "
            f"{counts[name] / counts[usual]:.2g} times the operations, "
            f"{one.network().parameter_count:,} parameters",
        )
        for name, one in conditions.items()
        if name != usual and {name, usual} <= found.keys()
    ]


def _title(settings: Settings) -> str:
    return f"{settings.preset}, {settings.image_size}×{settings.image_size}"
