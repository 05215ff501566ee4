"""Curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from noisesteps.training.tracking.observer import Observer, Point, Start


class TensorBoard(Observer):
    """Writes `loss`, `learning_rate` and `images_per_second` by update."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, start: Start) -> None:
        # Points of an earlier attempt, beyond where this one starts, are hidden.
        self.writer = SummaryWriter(self.folder, purge_step=start.update + 1)

    def log(self, point: Point) -> None:
        for tag in ("loss", "learning_rate", "images_per_second"):
            self.writer.add_scalar(tag, getattr(point, tag), point.update)

    def finish(self, seconds: float, loss: float) -> None:
        self.writer.close()

    def fail(self, error: BaseException) -> None:
        self.writer.close()
