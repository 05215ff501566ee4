"""Progress as lines of text: in a file a day, and on the terminal."""

from __future__ import annotations

import logging
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from noisesteps.training.tracking.observer import Observer, Point, Start

logger = logging.getLogger("noisesteps.training")
SECONDS_BETWEEN_LINES = 10.0


def describe_start(start: Start) -> str:
    """Return a sentence about the start."""
    if start.update:
        return f"goes on after update {start.update} of {start.updates}"
    return f"starts: {start.updates} updates"


def describe_point(point: Point, updates: int) -> str:
    """Return a line about the progress."""
    left = timedelta(seconds=round(point.seconds_left))
    return (
        f"epoch {point.epoch}, update {point.update}/{updates}: "
        f"loss {point.loss:.5f}, learning rate {point.learning_rate:.3e}, "
        f"{point.images_per_second:.1f} images/s, {left} left"
    )


def describe_finish(seconds: float, loss: float) -> str:
    """Return a sentence about a good end."""
    took = timedelta(seconds=round(seconds))
    return f"finished: {took} of training, loss {loss:.5f} in the last epoch"


def describe_failure(error: BaseException) -> str:
    """Return a sentence about an early end."""
    return f"ended early ({type(error).__name__}): {error}"


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
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{now.date().isoformat()}.log"
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
