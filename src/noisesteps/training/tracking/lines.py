"""Progress as lines of text: in a file a day, and on the terminal.

Each `describe_` function has its pattern below it, by which `parse_line` reads the
words back.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from noisesteps.files import writing
from noisesteps.training.tracking.observer import Observer, Point, Start

logger = logging.getLogger("noisesteps.training")
SECONDS_BETWEEN_LINES = 10.0


def describe_start(start: Start) -> str:
    """Return a sentence about the start."""
    if start.update:
        return f"goes on after update {start.update} of {start.updates}"
    return f"starts: {start.updates} updates"


START = re.compile(
    r"(?:starts: |goes on after update (?P<update>\d+) of )"
    r"(?P<updates>\d+)(?: updates)?"
)


def describe_point(point: Point, updates: int) -> str:
    """Return a line about the progress."""
    left = timedelta(seconds=round(point.seconds_left))
    return (
        f"epoch {point.epoch}, update {point.update}/{updates}: "
        f"loss {point.loss:.5f}, learning rate {point.learning_rate:.3e}, "
        f"{point.images_per_second:.1f} images/s, {left} left"
    )


POINT = re.compile(
    r"epoch (?P<epoch>\d+), update (?P<update>\d+)/(?P<updates>\d+): "
    r"loss (?P<loss>\S+), learning rate (?P<learning_rate>\S+), "
    r"(?P<images_per_second>\S+) images/s, (?P<left>.+) left"
)


def describe_finish(seconds: float, loss: float) -> str:
    """Return a sentence about a good end."""
    took = timedelta(seconds=round(seconds))
    return f"finished: {took} of training, loss {loss:.5f} in the last epoch"


FINISH = re.compile(
    r"finished: (?P<took>.+) of training, loss (?P<loss>\S+) in the last epoch"
)


def describe_failure(error: BaseException) -> str:
    """Return a sentence about an early end, on one line whatever the error says."""
    return f"ended early ({type(error).__name__}): {' '.join(str(error).split())}"


FAILURE = re.compile(r"ended early \((?P<error>\w+)\): (?P<message>.*)")
DURATION = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")


@dataclass(frozen=True)
class Started:
    """A training started, or went on after `update`."""

    update: int
    updates: int


@dataclass(frozen=True)
class Reached:
    """A training got as far as `point`, whose numbers are rounded as printed."""

    point: Point
    updates: int


@dataclass(frozen=True)
class Finished:
    """A training ended well."""

    seconds: float
    loss: float


@dataclass(frozen=True)
class Failed:
    """A training ended early, by an error of class `error`."""

    error: str
    message: str


@dataclass(frozen=True)
class Line:
    """A line of a daily log, read back; `time` knows its time zone."""

    time: datetime
    event: Started | Reached | Finished | Failed


def parse_line(line: str) -> Line | None:
    """Read a line of a daily log back; None where it is no whole line of one."""
    stamp, _, text = line.rstrip("\n").partition(" ")
    try:
        when = datetime.fromisoformat(stamp)
        event = _parse_event(text)
    except ValueError:
        return None
    return Line(when, event) if event is not None and when.tzinfo else None


def _parse_event(text: str) -> Started | Reached | Finished | Failed | None:
    if found := START.fullmatch(text):
        return Started(int(found["update"] or 0), int(found["updates"]))
    if found := POINT.fullmatch(text):
        return Reached(_parse_point(found), int(found["updates"]))
    if found := FINISH.fullmatch(text):
        return Finished(_seconds(found["took"]), float(found["loss"]))
    if found := FAILURE.fullmatch(text):
        return Failed(found["error"], found["message"])
    return None


def _parse_point(found: re.Match) -> Point:
    return Point(
        epoch=int(found["epoch"]),
        update=int(found["update"]),
        loss=float(found["loss"]),
        learning_rate=float(found["learning_rate"]),
        images_per_second=float(found["images_per_second"]),
        seconds_left=_seconds(found["left"]),
    )


def _seconds(text: str) -> float:
    """Read what `str(timedelta)` wrote."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is no duration")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(
        days=days, hours=hours, minutes=minutes, seconds=seconds
    ).total_seconds()


def read_backwards(folder: Path) -> Iterator[Line]:
    """Yield the lines that a `DailyLog` wrote to `folder`, the latest first."""
    for path in sorted(folder.glob("[0-9]*-[0-9][0-9]-[0-9][0-9].log"), reverse=True):
        text = path.read_text(encoding="utf-8", errors="replace")
        for line in reversed(text.splitlines()):
            if parsed := parse_line(line):
                yield parsed


def daily_log(folder: Path, time: datetime) -> Path:
    """Name the file that a line of that time is in."""
    return folder / f"{time.date().isoformat()}.log"


class DailyLog(Observer):
    """Appends to `folder/YYYY-MM-DD.log`, in local time, a new file each day.

    Earlier lines are never changed, also when a training starts again.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.updates = 0

    def start(self, start: Start) -> None:
        self.updates = start.updates
        self._write(describe_start(start))

    def log(self, point: Point) -> None:
        self._write(describe_point(point, self.updates))

    def finish(self, seconds: float, loss: float) -> None:
        self._write(describe_finish(seconds, loss))

    def fail(self, error: BaseException) -> None:
        self._write(describe_failure(error))

    def _write(self, text: str) -> None:
        now = datetime.now().astimezone()
        path = daily_log(self.folder, now)
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{now.isoformat(timespec='seconds')} {text}\n")


class Terminal(Observer):
    """A bar where a person watches; elsewhere a line every ten seconds at most."""

    def __init__(self, name: str):
        self.name = name
        self.updates = 0
        self._bar = None
        self._written = time.monotonic()

    def start(self, start: Start) -> None:
        self.updates = start.updates
        logger.info("%s %s", self.name, describe_start(start))
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                initial=start.update, total=start.updates, unit="update", leave=False
            )

    def log(self, point: Point) -> None:
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{point.loss:.4f}", refresh=False)
            self._bar.update(point.update - self._bar.n)
        elif time.monotonic() - self._written >= SECONDS_BETWEEN_LINES:
            logger.info("%s %s", self.name, describe_point(point, self.updates))
            self._written = time.monotonic()

    def finish(self, seconds: float, loss: float) -> None:
        self._close()
        logger.info("%s %s", self.name, describe_finish(seconds, loss))

    def fail(self, error: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
