"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from noisesteps.plan.study import Plan, Row
from noisesteps.status.text import GAP, duration, wrap

HEAD = ("T", "models", "training", "sampling", "memory", "disk")
STAGE_HEAD = ("stage", "jobs", "each, at most", "together")


def describe(plan: Plan, width: int = 80) -> str:
    """Return a plan as lines of at most `width` columns, but for the tables.

    Headings and warnings carry colours, which `click.echo` drops where nobody watches.
    """
    parts = [
        wrap(_summary(plan), width),
        _models(plan),
        _stages(plan),
        wrap(_total(plan), width),
        "\n".join(wrap(note, width, GAP) for note in plan.notes),
        "\n".join(
            click.style(wrap(f"Warning: {warning}", width, GAP), fg="yellow")
            for warning in plan.warnings
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _summary(plan: Plan) -> str:
    jobs, threads = plan.slots.jobs, plan.slots.threads
    measured = plan.calibration
    return (
        f"Study {plan.study.study}, {len(plan.study.runs)} models: measured "
        f"{measured.time[:16].replace('T', ' ')} on {plan.device}, {jobs} "
        f"job{'s' * (jobs > 1)} at once with {threads} thread{'s' * (threads > 1)} "
        f"each. An update takes {seconds(measured.update)}, a step of "
        f"{plan.study.sampling.batch_size} images {seconds(measured.denoising_step)}, "
        f"the start of a training {seconds(measured.start['train'])}."
    )


def _models(plan: Plan) -> str:
    """Align one line a T below a heading for each data set and schedule."""
    cells = [_cells(row) for row in plan.rows]
    total = (
        "total",
        str(len(plan.study.runs)),
        duration(plan.training_seconds),
        duration(plan.sampling_seconds),
        size(max(row.memory_bytes for row in plan.rows)),
        size(sum(row.disk_bytes for row in plan.rows)),
    )
    widths = [max(map(len, column)) for column in zip(HEAD, *cells, total, strict=True)]
    lines = [click.style(_row(HEAD, widths), bold=True)]
    heading = None
    for row, line in zip(plan.rows, cells, strict=True):
        if (row.dataset, row.schedule) != heading:
            heading = (row.dataset, row.schedule)
            lines.append(", ".join(heading))
        lines.append(_row(line, widths))
    return "\n".join([*lines, click.style(_row(total, widths), bold=True)])


def _cells(row: Row) -> tuple[str, ...]:
    name = str(row.steps) if row.sampler is None else f"{row.steps} by {row.sampler}"
    return (
        name,
        str(row.models) if row.models else "",
        duration(row.training_seconds) if row.models else "",
        duration(row.sampling_seconds),
        size(row.memory_bytes),
        size(row.disk_bytes),
    )


def _stages(plan: Plan) -> str:
    cells = [
        (
            stage.name,
            str(stage.jobs),
            duration(stage.longest_seconds),
            duration(stage.seconds),
        )
        for stage in plan.stages
    ]
    widths = [max(map(len, column)) for column in zip(STAGE_HEAD, *cells, strict=True)]
    head = click.style(_row(STAGE_HEAD, widths, first_left=True), bold=True)
    return "\n".join([head, *(_row(line, widths, first_left=True) for line in cells)])


def _row(cells: Sequence[str], widths: Sequence[int], first_left: bool = False) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    if first_left:
        aligned[0] = cells[0].ljust(widths[0])
    return (GAP + GAP.join(aligned)).rstrip()


def _total(plan: Plan) -> str:
    return (
        f"The whole study takes {duration(plan.wall_seconds)} with --cores "
        f"{plan.slots.cores} --resources gpu={plan.slots.gpus}: "
        f"{sum(stage.jobs for stage in plan.stages)} jobs of together "
        f"{duration(sum(stage.seconds for stage in plan.stages))}. It leaves "
        f"{size(plan.disk_bytes)} below results/{plan.study.study}, and needs "
        f"{size(plan.checkpoint_bytes)} more for checkpoints while it trains."
    )


def seconds(value: float) -> str:
    """Write a short time with two significant digits."""
    if value >= 10:
        return f"{value:.0f} s"
    return f"{value * 1000:.2g} ms" if value < 0.1 else f"{value:.2g} s"


def size(value: float) -> str:
    """Write bytes in the unit, of powers of 1000, that leaves one to three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            digits = 1 if value < 9.95 and unit != "B" else 0
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
