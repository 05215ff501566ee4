"""What an observer of a training is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Start:
    """A training starts, or goes on.

    Attributes
    ----------
    update
        Updates done before; 0 in a new training.
    updates
        Updates of the whole training.
    fingerprint
        Digest that identifies the training across resumptions.
    """

    update: int
    updates: int
    fingerprint: str


@dataclass(frozen=True)
class Point:
    """How the training goes after `update` updates.

    Attributes
    ----------
    epoch
        The epoch under way, from 1.
    update
        Updates done.
    loss
        Loss of the latest update.
    learning_rate
        Rate of the latest update.
    images_per_second
        Throughput since the previous point.
    seconds_left
        Time that the rest takes at the pace so far.
    """

    epoch: int
    update: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


class Observer:
    """Takes note of nothing; sub-classes override what they care for."""

    def start(self, start: Start) -> None:
        """Be told that training starts, or goes on after `start.update` updates."""

    def log(self, point: Point) -> None:
        """Be told how it goes, every `log_steps` updates."""

    def finish(self, seconds: float, loss: float) -> None:
        """Be told that it ended well, after `seconds`, with the last epoch's loss."""

    def fail(self, error: BaseException) -> None:
        """Be told that it ended early, and why."""
