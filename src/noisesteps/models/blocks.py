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

NORM_EPS = 1e-5
HEAD_CHANNELS = 8
EXPLICIT_LENGTH = 256  # pixels; above, the matrix of scores takes too much memory
SMALL_IMAGE = 1024  # pixels; below, PyTorch's channels-last normalisation is slow


class GroupNorm(nn.GroupNorm):
    """PyTorch's own, but for small bf16 images in channels last without gradients.

    There, its CPU kernel takes up to 18 times as long as for contiguous images.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            x.device.type == "cpu"
            and x.dtype is torch.bfloat16
            and x.shape[2] * x.shape[3] < SMALL_IMAGE
            and not torch.is_grad_enabled()
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)
        ):
            return self._by_channel(x)
        return super().forward(x)

    def _by_channel(self, x: torch.Tensor) -> torch.Tensor:
        """Sum each channel over the pixels, then pool the sums to groups; in fp32."""
        images, channels, height, width = x.shape
        groups = (images, self.num_groups, channels // self.num_groups)
        count = height * width * groups[2]
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # (N, H*W, C)
        mean = pixels.sum(1).view(groups).sum(2, keepdim=True) / count
        # Not E[x^2] - E[x]^2, which cancels where the mean exceeds the deviation.
        pixels -= mean.expand(groups).reshape(images, 1, channels)
        variance = pixels.square().sum(1).view(groups).sum(2, keepdim=True) / count
        scale = (variance + self.eps).rsqrt() * self.weight.view(groups[1:])
        scale = scale.view(images, 1, channels)
        result = torch.addcmul(self.bias, pixels, scale).to(x.dtype)
        return result.view(images, height, width, channels).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the time is added in between."""

    def __init__(self, inputs: int, outputs: int, time: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, NORM_EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, outputs)
        self.norm2 = GroupNorm(groups, outputs, NORM_EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention between the pixels of an image, with heads of 8 channels."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.heads = channels // HEAD_CHANNELS
        self.group_norm = GroupNorm(groups, channels, NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)  # (N, H*W, C)
        mixed = attend(
            self._split(self.to_q(pixels)),
            self._split(self.to_k(pixels)),
            self._split(self.to_v(pixels)),
        )
        mixed = self.to_out(mixed.transpose(1, 2).flatten(2))
        return x + mixed.transpose(1, 2).unflatten(2, x.shape[2:])

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
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


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

    def block(self, index: int, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._block, index, x, time, use_reentrant=False)
        return self._block(index, x, time)

    def _block(self, index: int, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
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
            x = self.block(index, x, time)
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
            x = self.block(index, torch.cat([x, skips.pop()], dim=1), time)
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
