"""One optimiser update, and everything it changes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from noisesteps.config import Training
from noisesteps.devices import compile_for_device
from noisesteps.diffusion import Diffusion
from noisesteps.training.batches import Batch
from noisesteps.training.ema import MovingAverage
from noisesteps.training.optimizer import Adam
from noisesteps.training.precision import Precision


class Learner:
    """A network with its optimiser, loss scale and moving average.

    Parameters
    ----------
    network
        Called as `network(x_t, timesteps)`; trained in place, on `device`.
    diffusion
        The forward process.
    training
        Gives `precision`, `gradient_clip`, `ema_decay` and `recompute_activations`.
    device
        Where to compute.
    compiled
        Whether to compile the network.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: Diffusion,
        training: Training,
        device: torch.device,
        *,
        compiled: bool = False,
    ):
        self.precision = Precision(training.precision, device)
        self.network = network.to(device, memory_format=self.precision.memory_format)
        self.network.train()
        if training.recompute_activations:
            self.network.recompute_activations()
        if compiled:
            compile_for_device(self.network, "training.compile")
        self.diffusion = diffusion
        self.gradient_clip = training.gradient_clip
        self.optimizer = Adam(self.network)
        self.average = (
            MovingAverage(self.network, training.ema_decay)
            if training.ema_decay is not None
            else None
        )

    def update(self, batch: Batch, index: int, learning_rate: float) -> torch.Tensor:
        """Take one step down the squared error of the noise.

        Ho et al. 2020, algorithm 1 and equation (14).

        Parameters
        ----------
        batch
            The images, the noise and the steps t.
        index
            Index of the update, from 0.
        learning_rate
            Adam's rate for this update.

        Returns
        -------
        torch.Tensor
            The loss before the step, a float32 scalar on the device.
        """
        self.optimizer.learning_rate = learning_rate
        self.optimizer.zero_grad()  # before the activations need the memory
        x_t = self.diffusion.add_noise(batch.x0, batch.noise, batch.timesteps)
        with self.precision.autocast():
            predicted = self.network(x_t, batch.timesteps)
        loss = F.mse_loss(predicted.float(), batch.noise)
        self.precision.descend(loss, self.optimizer, self.gradient_clip)
        if self.average is not None:
            self.average.follow(self.network, index)
        return loss.detach()

    def is_finite(self) -> bool:
        """Whether every weight is a number."""
        weights = [*self.network.state_dict().values()]
        weights += self.average.tensors.values() if self.average else []
        return bool(torch.stack([weight.isfinite().all() for weight in weights]).all())

    def publish(self) -> dict[str, torch.Tensor]:
        """Put the averages, where they are kept, into the network; return its state."""
        if self.average is not None:
            self.network.load_state_dict(self.average.tensors, strict=False)
        return self.network.state_dict()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that an update changes and the loss scale does not hold."""
        parts = {
            "weights": self.network.state_dict(),
            "adam": self.optimizer.moments(self.network),
            "average": self.average.tensors if self.average else {},
        }
        return {
            f"{part}/{name}": tensor
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }

    def loss_scale(self) -> dict[str, Any]:
        """Return the state of the fp16 loss scaling; empty in other precisions."""
        return self.precision.scaler.state_dict()

    def restore(
        self, tensors: dict[str, torch.Tensor], loss_scale: dict[str, Any]
    ) -> None:
        """Put back what `tensors` and `loss_scale` returned."""
        parts: dict[str, dict] = {"weights": {}, "adam": {}, "average": {}}
        for path, tensor in tensors.items():
            part, name = path.split("/", 1)
            parts[part][name] = tensor
        self.network.load_state_dict(parts["weights"])
        self.optimizer.restore(self.network, parts["adam"])
        if self.average is not None:
            self.average.restore(parts["average"])
        self.precision.scaler.load_state_dict(loss_scale)
