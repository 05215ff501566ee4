"""All observers that a configuration asks for, as one."""

from __future__ import annotations

import logging
from pathlib import Path

from noisesteps.config import Training
from noisesteps.errors import NoisestepsError
from noisesteps.training.tracking.lines import DailyLog, Terminal
from noisesteps.training.tracking.observer import Observer, Point, Start

logger = logging.getLogger("noisesteps.training")


class Tracker(Observer):
    """Passes everything on to the daily log, the terminal, TensorBoard and wandb.

    Parameters
    ----------
    folder
        Takes the daily logs, TensorBoard's event files and wandb's folder.
    training
        Gives `tensorboard` and `wandb`.
    name
        Name of the run, for people.

    Raises
    ------
    ConfigError
        If wandb is asked for and not installed.
    """

    def __init__(self, folder: str | Path, training: Training, name: str):
        folder = Path(folder)
        self.observers: list[Observer] = [DailyLog(folder), Terminal(name)]
        if training.tensorboard:
            from noisesteps.training.tracking.tensorboard import TensorBoard

            self.observers.append(TensorBoard(folder))
        if training.wandb.mode != "disabled":
            from noisesteps.training.tracking.wandb import WandbRun

            self.observers.append(WandbRun(folder, training.wandb, name))

    def start(self, start: Start) -> None:
        for observer in self.observers:
            observer.start(start)

    def log(self, point: Point) -> None:
        for observer in self.observers:
            observer.log(point)

    def finish(self, seconds: float, loss: float) -> None:
        for observer in self.observers:
            observer.finish(seconds, loss)

    def fail(self, error: BaseException) -> None:
        for observer in self.observers:
            try:
                observer.fail(error)
            except NoisestepsError as other:  # which must not hide the first one
                logger.warning("the end of the training is not noted: %s", other)
