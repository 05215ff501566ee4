"""Mixed precision: autocast, and loss scaling for fp16. Weights stay float32."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from noisesteps.devices import DTYPES, memory_format, warn_if_slow
from noisesteps.errors import ConfigError
from noisesteps.training.optimizer import Adam

# Far below what a healthy training ever needs: about 30 skipped updates in a row.
SMALLEST_SCALE = 1e-4


class Precision:
    """How forward and backward pass are computed.

    Parameters
    ----------
    name
        `fp16`, `bf16` or `fp32`.
    device
        Where the network is.

    Attributes
    ----------
    memory_format : torch.memory_format
        The layout of images and weights in which the convolutions are fastest.

    Raises
    ------
    ConfigError
        If the device cannot compute in that precision.
    """

    def __init__(self, name: str, device: torch.device):
        self.device = device
        self.dtype = DTYPES[name]
        if self.mixed and not _supports(self.dtype, device):
            raise ConfigError(
                f"training.precision: {name} cannot be used on {device} with this "
                "build of PyTorch; choose another of fp16, bf16 and fp32."
            )
        warn_if_slow(device, name, "training.precision")
        self.memory_format = memory_format(device, self.dtype, training=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    @property
    def mixed(self) -> bool:
        """Whether convolutions run in 16 bits."""
        return self.dtype is not torch.float32

    @property
    def collapsed(self) -> bool:
        """Whether fp16 gradients overflow however small the loss scale is."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE

    def autocast(self) -> torch.autocast:
        """Return the context for a forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.mixed)

    def descend(
        self,
        loss: torch.Tensor,
        optimizer: Adam,
        gradient_clip: float | None,
    ) -> None:
        """Compute the gradients of `loss` and take one step of the optimiser.

        With fp16, a step whose gradients overflow is skipped, and the scale halved.
        """
        self.scaler.scale(loss).backward()
        if gradient_clip is not None:
            self.scaler.unscale_(optimizer)
            optimizer.clip(gradient_clip)
        self.scaler.step(optimizer)
        self.scaler.update()


def _supports(dtype: torch.dtype, device: torch.device) -> bool:
    """Try a convolution and its gradient: autocast itself may only warn."""
    image = torch.zeros(1, 1, 3, 3, device=device)
    weight = torch.zeros(1, 1, 1, 1, device=device, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.autocast(device.type, dtype):
                result = F.conv2d(image, weight)
            result.float().sum().backward()
        except RuntimeError:
            return False
    return result.dtype is dtype


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let CUDA choose only kernels that give the same bits each time."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    benchmarks = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory that is about to be written would cost time and change nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    # The memory-efficient kernel has no deterministic gradient.
    attention = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    try:
        with sdpa_kernel(attention):
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills
        torch.backends.cudnn.benchmark = benchmarks
