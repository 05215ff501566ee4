"""The U-Net prepared for sampling on a CPU: its own numbers to rounding, sooner.

What `UNet` computes anew at every step, or passes over the images for, is done once
here, for weights that no longer change: they are of the precision that is computed in
and in the order that kernels want, the time is part of the convolutions' biases, and
the last convolution of a residual block adds to the shortcut. Images are in channels
last.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from noisesteps.devices import concurrent_calls, in_parallel
from noisesteps.models.blocks import Attention, ResidualBlock
from noisesteps.models.kernels import load
from noisesteps.models.prepared import (
    Convolution,
    Normalisation,
    SelfAttention,
    Shortcut,
    Upsampling,
)

if TYPE_CHECKING:
    from noisesteps.models.unet import UNet

# Of images after the first convolution, that pass through the network together: those
# of more do not stay in the processor's cache from one layer to the next.
BYTES = 1 << 20


class FrozenUNet:
    """Predicts the noise as a `UNet` does, at steps that are known beforehand.

    Parameters
    ----------
    network
        A trained `UNet` on the CPU, whose weights must not change from now on: what
        needs no conversion is shared.
    timesteps
        Steps t that it will be asked for, shape (K,).
    dtype
        What images and the factors of convolutions and matrix products are rounded to:
        float32 or, as under autocast, bfloat16 or float16. Our own convolutions
        round images alone in bfloat16. Normalisation sums in float32.
    """

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def __init__(self, network: UNet, timesteps: torch.Tensor, dtype: torch.dtype):
        load()  # compiled, if need be, before several threads want them
        time = network.embed_timesteps(timesteps)
        self.dtype = dtype
        self.conv_in = Convolution(network.conv_in, dtype)
        self.down = [
            (_blocks(level, time, dtype), _downsample(level, dtype))
            for level in network.down_blocks
        ]
        self.middle = _blocks(network.mid_block, time, dtype)
        self.up = [
            (_blocks(level, time, dtype), _upsample(level, dtype))
            for level in network.up_blocks
        ]
        self.norm_out = Normalisation(network.conv_norm_out)
        self.conv_out = Convolution(network.conv_out, dtype)

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Predict the noise in `x`, float32 (N,3,H,W), at `timesteps[index]`."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        parts = x.tensor_split(self._parts(x))
        predicted = in_parallel(partial(self._predict, index=index), parts)
        return torch.cat(predicted) if len(parts) > 1 else predicted[0]

    def _parts(self, x: torch.Tensor) -> int:
        """Return in how many parts, even ones, the images pass through the network."""
        images, _, height, width = x.shape
        channels = len(self.conv_in.bias)
        size = images * channels * height * width * x.element_size()
        count = -(-size // BYTES) or 1
        at_once = concurrent_calls(count)
        return max(1, min(images, -(-count // at_once) * at_once))

    def _predict(self, x: torch.Tensor, index: int) -> torch.Tensor:
        # Modes are those of a thread, and this may be called in another.
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return self._forward(x, index)

    def _forward(self, x: torch.Tensor, index: int) -> torch.Tensor:
        x = self.conv_in(x)
        skips = [x]
        for blocks, downsample in self.down:
            for block in blocks:
                x = block(x, index)
                skips.append(x)
            if downsample:
                x = downsample(x)
                skips.append(x)
        for block in self.middle:
            x = block(x, index)
        for blocks, upsample in self.up:
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), index)
            if upsample:
                x = upsample(x)
        return self.conv_out(self.norm_out(x)).float()


class _Block:
    """A residual block, and attention where the network has it."""

    def __init__(
        self,
        block: ResidualBlock,
        attention: Attention | None,
        time: torch.Tensor,
        dtype: torch.dtype,
    ):
        self.norm1, self.norm2 = Normalisation(block.norm1), Normalisation(block.norm2)
        self.conv1 = Convolution(block.conv1, dtype)
        self.conv2 = Convolution(block.conv2, dtype)
        self.biases = (block.time_emb_proj(time) + block.conv1.bias).unbind()
        self.shortcut = block.conv_shortcut and Shortcut(block.conv_shortcut, dtype)
        self.attention = attention and SelfAttention(attention, dtype)

    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        h = self.norm2(self.conv1(self.norm1(x), self.biases[index]))
        onto = self.shortcut(x) if self.shortcut else x
        x = self.conv2(h, onto=onto, overwrites=onto is not x)
        return self.attention(x) if self.attention else x


def _blocks(level: nn.Module, time: torch.Tensor, dtype: torch.dtype) -> list[_Block]:
    """Prepare the blocks of a level, or of the middle."""
    attentions = list(getattr(level, "attentions", []))
    attentions += [None] * (len(level.resnets) - len(attentions))
    return [
        _Block(block, attention, time, dtype)
        for block, attention in zip(level.resnets, attentions, strict=True)
    ]


def _downsample(level: nn.Module, dtype: torch.dtype) -> Convolution | None:
    if level.downsamplers is None:
        return None
    return Convolution(level.downsamplers[0].conv, dtype)


def _upsample(level: nn.Module, dtype: torch.dtype) -> Upsampling | None:
    return None if level.upsamplers is None else Upsampling(level.upsamplers[0], dtype)
