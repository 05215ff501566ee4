"""Curves for TensorBoard."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from noisesteps.files import writing
from noisesteps.training.tracking.observer import Observer, Point, Start


class TensorBoard(Observer):
    """Writes `loss`, `learning_rate` and `images_per_second` by update."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, start: Start) -> None:
        _silence_its_thread()
        # Points of an earlier attempt, beyond where this one starts, are hidden.
        with writing(self.folder):
            self.writer = SummaryWriter(self.folder, purge_step=start.update + 1)

    def log(self, point: Point) -> None:
        with writing(self.folder):
            for tag in ("loss", "learning_rate", "images_per_second"):
                self.writer.add_scalar(tag, getattr(point, tag), point.update)

    def finish(self, seconds: float, loss: float) -> None:
        with writing(self.folder):
            self.writer.close()

    def fail(self, error: BaseException) -> None:
        with writing(self.folder):
            self.writer.close()


@cache
def _silence_its_thread() -> None:
    """Let the thread that writes the events print no traceback on a full disk.

    It hands the error to the training's own thread, which ends with a sentence.
    """
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = hook
