"""A status as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import click

from noisesteps.status.models import ModelStatus
from noisesteps.status.study import StudyStatus

HEAD = ("T", "state", "epoch", "update", "loss", "images/s", "left", "score")
COLOURS = {
    "scored": "green",
    "training": "cyan",
    "stopped": "yellow",
    "failed": "red",
}
GAP = "  "


def describe(status: StudyStatus, width: int = 80) -> str:
    """Return a status as lines of at most `width` columns, but for the table.

    States carry colours, which `click.echo` drops where nobody watches.
    """
    parts = [
        _summary(status, width),
        _table(status.models),
        _notes(status, width),
        _section("Stopped:", _stopped(status), width),
        _section("Begun, without a result yet:", _begun(status), width),
        _section("Failed:", _failed(status), width),
    ]
    return "\n\n".join(part for part in parts if part)


def _summary(status: StudyStatus, width: int) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    text = f"Study {status.name}, {len(status.models)} models: {counts}"
    return wrap(text, width)


def wrap(text: str, width: int, indent: str = "") -> str:
    """Break lines between words; a path is never broken."""
    return textwrap.fill(
        text,
        max(width, 40),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(models: Sequence[ModelStatus]) -> str:
    """Align one line a model below a heading for each data set and schedule."""
    rows = [_cells(model) for model in models]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    lines = [click.style(_row(HEAD, widths), bold=True)]
    paired = zip(models, rows, strict=True)
    for heading, group in groupby(paired, lambda pair: _heading(pair[0])):
        lines.append(heading)
        lines += [
            _row(cells, widths, COLOURS.get(model.state)) for model, cells in group
        ]
    return "\n".join(lines)


def _heading(model: ModelStatus) -> str:
    return f"{model.run.dataset}, {model.run.schedule}"


def _row(cells: Sequence[str], widths: Sequence[int], colour: str | None = None) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    state = HEAD.index("state")
    aligned[state] = cells[state].ljust(widths[state])
    text = GAP + GAP.join(aligned)
    if colour is None:
        return text.rstrip()
    return text.rstrip().replace(cells[state], click.style(cells[state], fg=colour), 1)


def _cells(model: ModelStatus) -> tuple[str, ...]:
    seed = f" seed {model.run.seed}" if model.run.seed else ""
    return (
        f"{model.run.steps}{seed}",
        model.state,
        _share(model.epoch, model.epochs),
        _share(model.update, model.updates),
        _number(model.loss, ".5f"),
        _number(model.images_per_second, ".1f"),
        duration(model.seconds_left) if model.state == "training" else "",
        _number(model.score, ".2f"),
    )


def _share(done: int | None, whole: int | None) -> str:
    if done is None:
        return ""
    return str(done) if whole is None else f"{done}/{whole}"


def _number(value: Any, how: str) -> str:
    return "" if value is None else format(value, how)


def duration(seconds: float | None) -> str:
    """Write hours, minutes and seconds, however many hours there are."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def _notes(status: StudyStatus, width: int) -> str:
    metrics = dict.fromkeys(model.metric for model in status.models if model.metric)
    notes = [f"Score: {metric}, lower is better." for metric in metrics]
    if status.classifiers:
        notes.append(f"Classifiers: {status.classifiers_done}/{status.classifiers}.")
    return "\n".join(wrap(note, width) for note in notes)


def _section(title: str, entries: Iterable[str], width: int) -> str:
    texts = [
        textwrap.indent(wrap(entry, width - len(GAP), GAP), GAP) for entry in entries
    ]
    return "\n".join([click.style(title, bold=True), *texts]) if texts else ""


def _stopped(status: StudyStatus) -> Iterator[str]:
    for model in status.models:
        if model.state == "stopped":
            silence = f"silent for {_since(model.seen, status)}; " if model.seen else ""
            rest = "a checkpoint is there to go on from"
            if not model.checkpoint:
                rest = "there is no checkpoint, so it will start anew"
            yield f"train {model.run.path.as_posix()}: {silence}{rest}"


def _begun(status: StudyStatus) -> Iterator[str]:
    for attempt in status.begun:
        line = attempt.line or "the log is empty so far"
        since = _since(attempt.time, status)
        yield f"{attempt.job.rule} {attempt.job.name}: {line} ({since} ago)"


def _since(time: datetime, status: StudyStatus) -> str:
    return duration((status.time - time).total_seconds())


def _failed(status: StudyStatus) -> Iterator[str]:
    for failure in status.failures:
        yield f"{failure.rule} {failure.name}: {failure.message}"
        yield f"{GAP}{failure.log.as_posix()}"
