"""What is measured: the device, the threads and the size of the work."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch

from noisesteps.devices import multiplies_bf16
from noisesteps.models import UNet
from noisesteps.seeds import derive, numpy_generator

SEED = 0
STEPS = 1000  # T
IMAGES = 512  # of the data set that is trained on
LEARNING_RATE = 1e-4
GRADIENT_CLIP = 1.0  # what diffusers' example and its like clip to


@dataclass(frozen=True)
class Settings:
    """One measurement's conditions, the same for us and for our peers.

    Attributes
    ----------
    device, threads
        Where to compute; `threads` is that of the CPU.
    rounds
        How often everybody takes their turn.
    preset, image_size, batch
        The network and what it is trained on.
    sampling : tuple of (int, int)
        Batches that are sampled, each with the number of denoising steps that are
        timed.
    precisions
        Those that networks are compared in.
    seconds
        A turn repeats its work until about so much time has passed.
    """

    device: str
    threads: int
    rounds: int
    preset: str
    image_size: int
    batch: int
    sampling: tuple[tuple[int, int], ...]
    precisions: tuple[str, ...]
    seconds: float = 0.4

    @property
    def on(self) -> torch.device:
        return torch.device(self.device)

    def network(self) -> UNet:
        """Return our U-Net, with the same initial weights each time."""
        seed = derive(SEED, "benchmark", "weights")
        return UNet.preset(self.preset, self.image_size, seed=seed)

    def images(self, count: int = IMAGES) -> np.ndarray:
        """Return uint8 (N,3,H,W) of noise: no kernel here minds what it shows."""
        generator = numpy_generator(SEED, "benchmark", "images")
        shape = (count, 3, self.image_size, self.image_size)
        return generator.integers(0, 256, shape, dtype=np.uint8)

    def text(self) -> str:
        """Return the settings for another process; `parse` reads them."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Settings:
        values = json.loads(text)
        values["sampling"] = tuple(tuple(pair) for pair in values["sampling"])
        return cls(**values | {"precisions": tuple(values["precisions"])})


def settings_for(device: str, threads: int, rounds: int) -> Settings:
    """Return the conditions that issue and docs name for a kind of device."""
    if torch.device(device).type == "cuda":
        return Settings(
            device,
            threads,
            rounds,
            preset="ddpm-113m",
            image_size=128,
            batch=16,
            sampling=((128, 20),),
            precisions=("bf16", "fp16"),
            seconds=2.0,
        )
    return Settings(
        device,
        threads,
        rounds,
        preset="small-32",
        image_size=32,
        batch=16,
        sampling=((8, 100), (128, 5)),
        # Where it is emulated, bf16 takes 15 to 50 times as long as fp32.
        precisions=("fp32", "bf16") if multiplies_bf16() else ("fp32",),
    )
