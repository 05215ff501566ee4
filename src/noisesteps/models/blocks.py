"""Building blocks of the U-Net.

Attribute names are those of diffusers' `UNet2DModel`, since they are the keys of the
state dict; sub-modules are created in its order too, so that one seed gives the same
initial weights. All images are (N,C,H,W) and either memory layout is kept as it comes.
`time` is the activated time embedding, (N,D) or (1,D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from noisesteps.models.convolution import convolve
from noisesteps.models.fused import (
    HEAD_CHANNELS,
    attend_side_by_side,
    normalise,
    normalise_beside,
)
from noisesteps.models.kernels import has_kernels

NORM_EPS = 1e-5
EXPLICIT_LENGTH = 256  # pixels; above, the matrix of scores takes too much memory
SHORT_LENGTH = 31  # pixels; PyTorch's softmax in 16 bits is slow for rows up to here


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the time is added in between."""

    def __init__(self, inputs: int, outputs: int, time: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, NORM_EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, NORM_EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h, x = normalise_beside(self.norm1, x)
        h = convolve(self.conv1, h, shift=self.time_emb_proj(time))
        h = normalise(self.norm2, h)
        if self.conv_shortcut is not None:
            x = convolve(self.conv_shortcut, x)
        return convolve(self.conv2, h, onto=x)


class Attention(nn.Module):
    """Self-attention between the pixels of an image, with heads of 8 channels."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.heads = channels // HEAD_CHANNELS
        self.group_norm = nn.GroupNorm(groups, channels, NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, x = normalise_beside(self.group_norm, x, activates=False)
        return x + self.mix(h)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the pixels of normalised images (N,C,H,W)."""
        pixels = x.flatten(2).transpose(1, 2)  # (N, H*W, C)
        if has_kernels(x):
            mixed = attend_side_by_side(self._project(pixels), self.heads)
        else:
            mixed = attend(
                self._split(self.to_q(pixels)),
                self._split(self.to_k(pixels)),
                self._split(self.to_v(pixels)),
            )
            mixed = mixed.transpose(1, 2).flatten(2)
        return self.to_out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])

    def _project(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute queries, keys and values in one product: (N, L, C) to (N, L, 3*C)."""
        projections = (self.to_q, self.to_k, self.to_v)
        weight = torch.cat([one.weight for one in projections])
        bias = torch.cat([one.bias for one in projections])
        return F.linear(pixels, weight, bias)

    def _split(self, pixels: torch.Tensor) -> torch.Tensor:
        """Split the channels into heads: (N, L, C) to (N, heads, L, 8)."""
        return pixels.unflatten(2, (self.heads, HEAD_CHANNELS)).transpose(1, 2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute softmax(Q K^T / sqrt(d)) V: Vaswani et al. 2017, equation (1).

    On a CPU, PyTorch's fused kernel is slow for heads of 8 channels, its gradient in
    bf16 tenfold; short sequences are faster as two matrix products.

    Parameters
    ----------
    query, key, value
        Shape (N, heads, L, d).

    Returns
    -------
    torch.Tensor
        Shape (N, heads, L, d).
    """
    if query.device.type != "cpu" or query.shape[2] > EXPLICIT_LENGTH:
        return F.scaled_dot_product_attention(query, key, value)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if query.shape[2] <= SHORT_LENGTH:
        return scores.softmax(-1, dtype=torch.float32).to(scores.dtype) @ value
    return scores.softmax(-1) @ value


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double the resolution by repeating pixels, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return convolve(self.conv, x, doubles=True)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if asked for."""

    def __init__(
        self, widths: list[tuple[int, int]], time: int, attention: bool, groups: int
    ):
        super().__init__()
        self.resnets = nn.ModuleList()
        if attention:
            self.attentions = nn.ModuleList()
        self.has_attention = attention
        self.recompute = False
        for inputs, outputs in widths:
            self.resnets.append(ResidualBlock(inputs, outputs, time, groups))
            if attention:
                self.attentions.append(Attention(outputs, groups))

    def block(
        self, index: int, time: torch.Tensor, *parts: torch.Tensor
    ) -> torch.Tensor:
        """Apply block number `index` to images (N,C,H,W), given as parts of C."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self._block(index, time, *parts)
        return checkpoint(
            self._block,
            *(index, time, *parts),
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in a block is random
        )

    def _block(
        self, index: int, time: torch.Tensor, *parts: torch.Tensor
    ) -> torch.Tensor:
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        x = self.resnets[index](x, time)
        return self.attentions[index](x) if self.has_attention else x


class DownLevel(Level):
    """One level on the way down; keeps every result for the way up."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        time: int,
        attention: bool,
        groups: int,
        last: bool,
    ):
        super().__init__(widths, time, attention, groups)
        channels = widths[-1][1]
        self.downsamplers = None if last else nn.ModuleList([Downsample(channels)])

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, skips: list[torch.Tensor]
    ) -> torch.Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, time, x)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class UpLevel(Level):
    """One level on the way up; takes what the way down kept, last first."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        time: int,
        attention: bool,
        groups: int,
        last: bool,
    ):
        super().__init__(widths, time, attention, groups)
        channels = widths[-1][1]
        self.upsamplers = None if last else nn.ModuleList([Upsample(channels)])

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, skips: list[torch.Tensor]
    ) -> torch.Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, time, x, skips.pop())
        return x if self.upsamplers is None else self.upsamplers[0](x)


class Middle(nn.Module):
    """The lowest resolution: residual block, attention, residual block."""

    def __init__(self, channels: int, time: int, groups: int):
        super().__init__()
        first = ResidualBlock(channels, channels, time, groups)
        self.attentions = nn.ModuleList([Attention(channels, groups)])
        second = ResidualBlock(channels, channels, time, groups)
        self.resnets = nn.ModuleList([first, second])

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        x = self.attentions[0](self.resnets[0](x, time))
        return self.resnets[1](x, time)
