"""Which images, noise and steps t an update sees: a function of its index alone.

Every random number is keyed by the epoch or the update, so a resumed training needs
no generator's state, and the draws are the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from noisesteps.config import Training
from noisesteps.errors import DataError
from noisesteps.seeds import Key, torch_generator


@dataclass(frozen=True)
class Plan:
    """How many updates there are, and how they fall into epochs.

    The last batch of an epoch holds what is left, as PyTorch's DataLoader has it
    (`drop_last=False`): an epoch sees every image once.

    Parameters
    ----------
    images
        Number of training images.
    training
        Gives `batch_size`, and `optimizer_steps`, which goes before `epochs` and may
        cut the last epoch short.
    epochs
        Passes over the images.
    """

    images: int
    training: Training
    epochs: int

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(self.images / self.training.batch_size)

    @property
    def updates(self) -> int:
        """Updates of the whole training."""
        return self.training.optimizer_steps or self.epochs * self.updates_per_epoch

    def epoch(self, update: int) -> int:
        """Epoch, from 0, that the update with index `update` belongs to."""
        return update // self.updates_per_epoch

    def ends_epoch(self, done: int) -> bool:
        """Whether an epoch, perhaps a shortened last one, ends with `done` updates."""
        return done % self.updates_per_epoch == 0 or done == self.updates

    def ends_period(self, done: int) -> bool:
        """Whether a rolling checkpoint is due after `done` updates."""
        period = self.training.checkpoint_epochs * self.updates_per_epoch
        return done % period == 0 or done == self.updates


@dataclass(frozen=True)
class Batch:
    """What one update learns from, on the training's device.

    Attributes
    ----------
    x0 : torch.Tensor
        Images (N,3,H,W), float32 in [-1, 1].
    noise : torch.Tensor
        Standard normal, shaped as `x0`.
    timesteps : torch.Tensor
        Shape (N,), int64, 0 to T-1.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor


class Batches:
    """The training images, resident on the device, by update.

    Parameters
    ----------
    images
        uint8 (N,3,H,W).
    steps
        T: steps t are drawn uniformly from 0 to T-1.
    training
        Gives `batch_size` and `horizontal_flip`.
    key
        What the random numbers derive from.
    device, memory_format
        Where the batches are wanted, and in which layout.

    Raises
    ------
    DataError
        If `images` is no such array, or empty.
    """

    def __init__(
        self,
        images: np.ndarray,
        steps: int,
        training: Training,
        key: tuple[Key, ...],
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise DataError(
                f"The training images are {images.dtype} {images.shape}, not uint8 "
                "(N,3,H,W) with at least one image; run preprocess again."
            )
        self.pixels = torch.from_numpy(np.array(images)).to(device)
        self.steps = steps
        self.training = training
        self.key = key
        self.device = device
        self.memory_format = memory_format
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    def __getitem__(self, update: int) -> Batch:
        """Return the batch of the update with index `update`."""
        rows = self._rows(update)
        generator = torch_generator(*self.key, "update", update)
        flipped = torch.rand(len(rows), generator=generator)
        timesteps = torch.randint(self.steps, (len(rows),), generator=generator)
        shape = (len(rows), *self.pixels.shape[1:])
        pinned = self.device.type == "cuda"
        noise = torch.randn(shape, generator=generator, pin_memory=pinned)
        images = self.pixels[self._move(rows)]
        chosen = self._move(flipped < self.training.horizontal_flip)
        images = torch.where(chosen[:, None, None, None], images.flip(-1), images)
        return Batch(
            x0=self._lay_out((images.float() / 255 - 0.5) / 0.5),
            noise=self._lay_out(self._move(noise)),
            timesteps=self._move(timesteps),
        )

    def _rows(self, update: int) -> torch.Tensor:
        """Return the images' indices: a slice of the epoch's permutation."""
        size = self.training.batch_size
        epoch, batch = divmod(update, math.ceil(len(self.pixels) / size))
        if self._order[0] != epoch:
            generator = torch_generator(*self.key, "epoch", epoch)
            order = torch.randperm(len(self.pixels), generator=generator)
            self._order = (epoch, order)
        return self._order[1][batch * size : (batch + 1) * size]

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device without waiting for what it is computing."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _lay_out(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous(memory_format=self.memory_format)
