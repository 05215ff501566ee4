"""How the time of a step grows with the image size and with the network."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import ours
from benchmarks.peak import operations
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.timing import Work, alternate, compare

# What is timed beside the preset and image size of the other rows.
VARIANTS = {
    "cpu": (("small-32", 16), ("small-32", 64), ("toy-16", 32), ("tiny", 32)),
    "cuda": (("ddpm-113m", 64), ("small-32", 128)),
}


def measure(settings: Settings) -> list[Row]:
    """Return a row for each variant, training and sampling, beside the usual one."""
    precision = settings.precisions[0]
    batch, steps = settings.sampling[0]
    return [
        *_rows(settings, precision, settings.batch, None),
        *_rows(settings, precision, batch, steps),
    ]


def _rows(
    settings: Settings, precision: str, batch: int, steps: int | None
) -> list[Row]:
    """Time training, or sampling in so many steps."""
    usual = (settings.preset, settings.image_size)
    conditions = {
        (preset, size): replace(settings, preset=preset, image_size=size)
        for preset, size in (usual, *VARIANTS[settings.on.type])
    }
    works = {
        name: _work(one, precision, batch, steps) for name, one in conditions.items()
    }
    times = alternate(works, settings.rounds, settings.seconds)
    counts = {
        name: operations(one, "ours", batch, training=steps is None)
        for name, one in conditions.items()
    }
    kind = "training" if steps is None else "sampling"
    return [
        make_row(
            one,
            f"growth-{kind}-{one.preset}-{one.image_size}",
            f"{kind} step, {_title(one)}, batch {batch}, {precision}",
            _title(settings),
            compare(times[name], times[usual]),
            note=f"{one.network().parameter_count:,} parameters, "
            f"{counts[name] / counts[usual]:.2g} times the operations",
        )
        for name, one in conditions.items()
        if name != usual
    ]


def _title(settings: Settings) -> str:
    return f"{settings.preset}, {settings.image_size}×{settings.image_size}"


def _work(settings: Settings, precision: str, batch: int, steps: int | None) -> Work:
    if steps is None:
        return ours.training_step(settings, precision)
    return ours.sampling_steps(settings, precision, batch, steps)
