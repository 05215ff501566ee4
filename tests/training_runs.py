"""A tiny training for the tests; run as a script, one to be killed.

`python tests/training_runs.py FOLDER` trains in FOLDER and leaves `model.pt` there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from noisesteps.config import Training
from noisesteps.diffusion import Diffusion
from noisesteps.training import Interrupted, Observer, Trained, train

CPU = torch.device("cpu")
THIS_RUN = {"code": "this run"}
SETTINGS = {
    "batch_size": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 3,
    "precision": "fp32",
    "checkpoint_epochs": 1,
    "log_steps": 1,
}


class SmallNetwork(nn.Module):
    """Called as the U-Net is, and a hundred times cheaper."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.time = nn.Linear(1, 8)
            self.norm = nn.GroupNorm(2, 8)
            self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = self.first(x) + self.time(t[:, None] / 10.0)[:, :, None, None]
        return self.last(nn.functional.silu(self.norm(h)))


class Spoil(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `factor`."""

    @staticmethod
    def forward(context, x, factor):
        context.factor = factor
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


class Spoiled(SmallNetwork):
    """A network whose output or gradient is not finite in some of its calls."""

    def __init__(self, calls: range, output: float = 1.0, gradient: float = 1.0):
        super().__init__()
        self.calls, self.output, self.gradient = calls, output, gradient
        self.call = 0

    def forward(self, x, t):
        self.call += 1
        result = super().forward(x, t)
        if self.call not in self.calls:
            return result
        return Spoil.apply(result * self.output, self.gradient)


def some_images(count: int = 10, size: int = 8) -> np.ndarray:
    """Return random images, uint8 (N,3,H,W)."""
    shape = (count, 3, size, size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def train_in(
    folder: Path,
    *,
    network: nn.Module | None = None,
    images: np.ndarray | None = None,
    epochs: int = 4,
    origin: dict = THIS_RUN,
    tracker: Observer | None = None,
    **settings,
) -> Trained:
    """Train 12 updates (4 epochs of 10 images in batches of 4, 4 and 2)."""
    return train(
        some_images() if images is None else images,
        network or SmallNetwork(),
        Diffusion(10, "linear_scaled"),
        Training(**SETTINGS | settings),
        epochs=epochs,
        key=(0, "train", "toy", "linear_scaled", 10),
        device=CPU,
        checkpoint=folder / "checkpoint.safetensors",
        origin=origin,
        tracker=tracker or Observer(),
    )


class StopAt(Observer):
    """Sends this process a signal after one of the updates."""

    def __init__(self, update: int, number: int = signal.SIGTERM):
        self.update, self.number = update, number

    def log(self, point) -> None:
        if point.update == self.update:
            os.kill(os.getpid(), self.number)


class Slow(Observer):
    """Gives another process the time to kill this one."""

    def log(self, point) -> None:
        print(point.update, flush=True)
        time.sleep(0.02)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    try:
        trained = train_in(folder, epochs=20, ema_decay=0.9, tracker=Slow())
    except Interrupted as error:
        sys.exit(error.exit_code)
    torch.save(trained.state_dict, folder / "model.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
