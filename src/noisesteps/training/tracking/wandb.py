"""Weights & Biases: curves, and an alert when a training ends."""

from __future__ import annotations

import hashlib
from pathlib import Path

from noisesteps import config
from noisesteps.errors import ConfigError
from noisesteps.training.tracking.lines import describe_failure, describe_finish
from noisesteps.training.tracking.observer import Observer, Point, Start

try:
    import wandb
except ImportError as error:
    raise ConfigError(
        "training.wandb.mode: the package wandb is not installed; install "
        "noisesteps[wandb] or set the mode to disabled."
    ) from error


class WandbRun(Observer):
    """One run of a wandb project, the same one after a resumption.

    Its identity derives from the fingerprint, so a training that goes on continues
    the curves and one with other settings starts new ones.
    """

    def __init__(self, folder: Path, settings: config.Wandb, name: str):
        self.folder = folder
        self.settings = settings
        self.name = name

    def start(self, start: Start) -> None:
        identity = f"{self.name} {start.fingerprint}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=self.settings.project,
                name=self.name,
                id=hashlib.sha256(identity.encode()).hexdigest()[:16],
                resume="allow",
                mode=self.settings.mode,
                dir=self.folder,
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"training.wandb.mode: wandb cannot start ({error}); log in with "
                "`wandb login` or set the mode to offline."
            ) from error

    def log(self, point: Point) -> None:
        self.run.log(
            {
                "loss": point.loss,
                "learning_rate": point.learning_rate,
                "images_per_second": point.images_per_second,
            },
            step=point.update,
        )

    def finish(self, seconds: float, loss: float) -> None:
        text = f"{self.name} {describe_finish(seconds, loss)}"
        self.run.alert("Training finished", text)
        self.run.finish()

    def fail(self, error: BaseException) -> None:
        text = f"{self.name} {describe_failure(error)}"
        self.run.alert("Training ended early", text, level=wandb.AlertLevel.ERROR)
        self.run.finish(exit_code=1)
