"""The U-Net of DDPM (Ho et al. 2020, appendix B), as diffusers' `UNet2DModel` has it.

The state dict is diffusers', key for key and shape for shape, so that weights go both
ways without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from noisesteps.errors import ConfigError
from noisesteps.models.blocks import NORM_EPS, DownLevel, Middle, UpLevel
from noisesteps.models.convolution import convolve
from noisesteps.models.frozen import FrozenUNet
from noisesteps.models.fused import HEAD_CHANNELS, normalise
from noisesteps.models.presets import PRESETS, Architecture

IMAGE_CHANNELS = 3
MAX_PERIOD = 10_000


class UNet(nn.Module):
    """Predict the noise in an image, given the step t it is at.

    Parameters
    ----------
    image_size
        Side of the square images in pixels; a multiple of 2^(levels - 1).
    block_out_channels
        Channels of each level; the resolution halves from one to the next.
    layers_per_block
        Residual blocks of a level on the way down; one more on the way up.
    attention
        Which levels have self-attention, down and up; the middle always has it.
    norm_num_groups
        Groups of every group normalisation.
    seed
        The initial weights derive from it; PyTorch's global random state is left as
        it was. The same seed gives diffusers' `UNet2DModel` the same weights.

    Raises
    ------
    ConfigError
        If the sizes do not fit each other.
    """

    def __init__(
        self,
        image_size: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        attention: Sequence[bool],
        norm_num_groups: int,
        *,
        seed: int = 0,
    ):
        super().__init__()
        self.image_size = image_size
        self.architecture = Architecture(
            tuple(block_out_channels),
            layers_per_block,
            tuple(attention),
            norm_num_groups,
        )
        _check(image_size, self.architecture)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reach the accelerators' states too.
            torch.default_generator.manual_seed(seed)
            self._build()

    @classmethod
    def preset(cls, name: str, image_size: int, *, seed: int = 0) -> UNet:
        """Build the U-Net called `name` (see `PRESETS`) for images of `image_size`.

        Raises
        ------
        ConfigError
            If there is no such preset, or the image size does not fit it.
        """
        if name not in PRESETS:
            raise ConfigError(
                f"network.preset: there is no preset {name!r}; "
                f"choose one of {', '.join(PRESETS)}."
            )
        chosen = PRESETS[name]
        return cls(
            image_size,
            chosen.block_out_channels,
            chosen.layers_per_block,
            chosen.attention,
            chosen.norm_num_groups,
            seed=seed,
        )

    def _build(self) -> None:
        channels = self.architecture.block_out_channels
        groups = self.architecture.norm_num_groups
        time = 4 * channels[0]
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], time)
        self.down_blocks = nn.ModuleList(self._down_levels(time))
        self.mid_block = Middle(channels[-1], time, groups)
        self.up_blocks = nn.ModuleList(self._up_levels(time))
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], NORM_EPS)
        self.conv_out = nn.Conv2d(channels[0], IMAGE_CHANNELS, 3, padding=1)

    def _down_levels(self, time: int) -> list[DownLevel]:
        shape = self.architecture
        levels, inputs = [], shape.block_out_channels[0]
        for index, outputs in enumerate(shape.block_out_channels):
            widths = [(inputs, outputs)]
            widths += [(outputs, outputs)] * (shape.layers_per_block - 1)
            last = index == len(shape.block_out_channels) - 1
            levels.append(
                DownLevel(
                    widths, time, shape.attention[index], shape.norm_num_groups, last
                )
            )
            inputs = outputs
        return levels

    def _up_levels(self, time: int) -> list[UpLevel]:
        shape = self.architecture
        levels, inputs = [], shape.block_out_channels[-1]
        for index in reversed(range(len(shape.block_out_channels))):
            outputs = shape.block_out_channels[index]
            # A level's last skip is the input of the level: what came from above it.
            skips = [outputs] * shape.layers_per_block
            skips.append(shape.block_out_channels[max(index - 1, 0)])
            before = [inputs] + [outputs] * shape.layers_per_block
            widths = [
                (below + skip, outputs)
                for below, skip in zip(before, skips, strict=True)
            ]
            levels.append(
                UpLevel(
                    widths,
                    time,
                    shape.attention[index],
                    shape.norm_num_groups,
                    last=index == 0,
                )
            )
            inputs = outputs
        return levels

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor | int | None = None,
        *,
        embedding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the noise in `x`.

        Parameters
        ----------
        x
            Noisy images (N,3,H,W) in floating point; either memory layout.
        t
            Step of each image, 0 to T-1: shape (N,) or (1,), or one number.
        embedding
            Rows of `embed_timesteps`, shape (N,D) or (1,D), to use instead of `t`.

        Returns
        -------
        torch.Tensor
            Predicted noise (N,3,H,W).
        """
        # 1. time
        if embedding is None:
            embedding = self.embed_timesteps(torch.as_tensor(t, device=x.device))
        # 2. down, keeping every result
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            x = level(x, embedding, skips)
        # 3. middle
        x = self.mid_block(x, embedding)
        # 4. up, joining the results kept
        for level in self.up_blocks:
            x = level(x, embedding, skips)
        # 5. to pixels
        return convolve(self.conv_out, normalise(self.conv_norm_out, x))

    def embed_timesteps(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute the activated time embedding of each of `timesteps`.

        Shape (K,) or () to (K, 4 * block_out_channels[0]). A sampler computes it once
        for all its steps and passes one row at a time to `forward`.
        """
        sinusoids = sinusoidal_embedding(
            timesteps.reshape(-1), self.architecture.block_out_channels[0]
        )
        return F.silu(self.time_embedding(sinusoids))

    def frozen(self, timesteps: torch.Tensor, dtype: torch.dtype) -> FrozenUNet:
        """Prepare the network to sample on a CPU; it must not change afterwards."""
        return FrozenUNet(self, timesteps, dtype)

    def recompute_activations(self) -> None:
        """Keep only the blocks' inputs for the backward pass; compute the rest again.

        Chen et al. 2016 (arXiv 1604.06174). The gradients stay the same bits; memory
        falls to the skips and one block, time grows by about a forward pass.
        """
        for level in (*self.down_blocks, *self.up_blocks):
            level.recompute = True

    @property
    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def diffusers_config(self) -> dict[str, Any]:
        """Return the arguments that make diffusers' `UNet2DModel` this network."""
        shape = self.architecture
        kinds = ["Attn" if attention else "" for attention in shape.attention]
        return {
            "sample_size": self.image_size,
            "in_channels": IMAGE_CHANNELS,
            "out_channels": IMAGE_CHANNELS,
            "block_out_channels": list(shape.block_out_channels),
            "layers_per_block": shape.layers_per_block,
            "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
            "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
            "attention_head_dim": HEAD_CHANNELS,
            "norm_num_groups": shape.norm_num_groups,
            "norm_eps": NORM_EPS,
        }


class TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoids of t."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, sinusoids: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoids)))


def sinusoidal_embedding(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """Return cosines, then sines, of t at geometrically spaced frequencies.

    Vaswani et al. 2017, section 3.5, in the order DDPM's code has them. Shape (K,) to
    (K, channels), float32.
    """
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _check(image_size: int, shape: Architecture) -> None:
    """Refuse sizes that do not fit each other."""
    levels, groups = len(shape.block_out_channels), shape.norm_num_groups
    if levels < 1 or len(shape.attention) != levels:
        raise ConfigError(
            f"network: attention has {len(shape.attention)} entries for {levels} "
            "levels; give one for each entry of block_out_channels."
        )
    if shape.layers_per_block < 1 or groups < 1:
        raise ConfigError(
            "network: layers_per_block and norm_num_groups must be at least 1; "
            "raise them."
        )
    factor = 2 ** (levels - 1)
    if image_size < factor or image_size % factor:
        raise ConfigError(
            f"preprocess.image_size: {image_size} pixels cannot be halved "
            f"{levels - 1} times, as this network does; use a multiple of {factor} "
            "or a smaller preset."
        )
    unit = math.lcm(groups, HEAD_CHANNELS)
    for channels in shape.block_out_channels:
        if channels < 1 or channels % unit:
            raise ConfigError(
                f"network: {channels} channels are not a multiple of {unit}, which "
                f"{groups} groups and heads of {HEAD_CHANNELS} need; change them."
            )
