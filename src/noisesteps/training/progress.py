"""How far a training has come, in values that JSON can hold."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Progress:
    """What a checkpoint says about the updates behind it.

    Attributes
    ----------
    update
        Updates done.
    seconds
        Training time, summed over resumptions; work that was lost does not count.
    history
        One row for each finished epoch.
    epoch_loss, epoch_images, epoch_seconds
        Of the epoch that has begun: sum of the images' losses, images, seconds.
    peak_memory_bytes
        The most memory used: the device's, on CUDA, else the process's.
    """

    update: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch_loss: float = 0.0
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def close_epoch(self, epoch: int, learning_rate: float) -> None:
        """Turn the sums into a row of the history; the next epoch starts from 0."""
        self.history.append(
            {
                "epoch": epoch,
                "optimizer_step": self.update,
                "loss": self.epoch_loss / self.epoch_images,
                "learning_rate": learning_rate,
                "images_per_second": self.epoch_images / self.epoch_seconds,
            }
        )
        self.epoch_loss, self.epoch_images, self.epoch_seconds = 0.0, 0, 0.0


class NotFiniteError(ArithmeticError):
    """A loss is infinite or not a number."""

    def __init__(self, loss: float, update: int):
        super().__init__(loss, update)
        self.loss, self.update = loss, update


class Meter:
    """Losses of the latest updates, left on the device until somebody asks.

    Reading a loss waits for the device, so that is done every few updates only.
    """

    def __init__(self, progress: Progress):
        self.progress = progress
        self.loss = math.nan  # of the latest update that was settled
        self.images_per_second = math.nan  # between the latest two settlements
        self._pending: list[tuple[torch.Tensor, int]] = []
        self._settled = time.perf_counter()

    def add(self, loss: torch.Tensor, images: int) -> None:
        """Count an update, with its mean loss over `images` images."""
        self._pending.append((loss, images))
        self.progress.update += 1

    def settle(self) -> None:
        """Read the pending losses and the clock into the progress.

        Raises
        ------
        NotFiniteError
            With the first update, counted from 1, whose loss is not finite.
        """
        if not self._pending:
            return
        losses = torch.stack([loss for loss, _ in self._pending]).tolist()
        counts = [images for _, images in self._pending]
        self._pending = []
        first = self.progress.update - len(losses) + 1
        for update, (loss, images) in enumerate(
            zip(losses, counts, strict=True), first
        ):
            if not math.isfinite(loss):
                raise NotFiniteError(loss, update)
            self.progress.epoch_loss += loss * images
            self.progress.epoch_images += images
        self.loss = losses[-1]
        self.images_per_second = sum(counts) / self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._settled = now - self._settled, now
        self.progress.seconds += seconds
        self.progress.epoch_seconds += seconds
        return seconds


def peak_memory(device: torch.device) -> int:
    """Return the most bytes used: allocated on CUDA, or resident on the CPU.

    On CUDA since `forget_peak_memory`, on the CPU since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` start anew, where a process runs one stage after another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
