"""The U-Net prepared for sampling on a CPU: its own numbers to rounding, sooner.

What `UNet` computes anew at every step, or passes over the images for, is done once
here, for weights that no longer change: they are of the precision that is computed in
and in the order that oneDNN wants, the time is part of the convolutions' biases, and
the last convolution of a residual block adds to the shortcut. Images are in channels
last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from noisesteps.devices import multiplies_bf16
from noisesteps.models.blocks import Attention, ResidualBlock, Upsample, attend
from noisesteps.models.convolution import (
    Scale,
    can_convolve,
    convolved,
    doubled,
    is_product,
    multiplied,
    side_of,
    transformed,
)
from noisesteps.models.fused import HEAD_CHANNELS, attended, normalised
from noisesteps.models.kernels import has_kernels
from noisesteps.models.upsampling import (
    half_resolution_weight,
    interleave,
    is_worth_halving,
)

if TYPE_CHECKING:
    from noisesteps.models.unet import UNet


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
    @torch.autocast("cpu", enabled=False)
    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Predict the noise in `x`, float32 (N,3,H,W), at `timesteps[index]`."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
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


class Convolution:
    """A convolution whose weights are kept in the order that its kernel wants.

    For oneDNN it is that for the shape of the last images, so that a result depends on
    its own batch alone, and not on which others came before.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype):
        self.layer = layer
        self._transformed: dict[int, torch.Tensor] = {}  # by the tiles' side
        self.weight = layer.weight.to(dtype, memory_format=torch.channels_last)
        self.bias = layer.bias.to(dtype)
        self.stride, self.padding = list(layer.stride), list(layer.padding)
        self.packs = _has_onednn(dtype)
        self._packed, self._packed_for = self.weight, None

    def __call__(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None = None,
        onto: torch.Tensor | None = None,
        *,
        overwrites: bool = False,
    ) -> torch.Tensor:
        """Convolve, with `bias` in place of its own, and add `onto`.

        Which it `overwrites` with the result if it may and that is faster.
        """
        if can_convolve(self.layer, x, converts=True):
            return self.tiled(x, self.layer.bias if bias is None else bias, onto)
        bias = self.bias if bias is None else bias.to(self.bias.dtype)
        if onto is not None and not overwrites:
            return self(x, bias).add_(onto)
        if is_product(self.layer, x):
            result = multiplied(x, self.weight, bias)
        elif self.packs:
            return self._by_onednn(x, bias, onto)
        else:
            result = F.conv2d(x, self.weight, bias, self.stride, self.padding)
        return result if onto is None else onto.add_(result)

    def tiled(
        self,
        x: torch.Tensor,
        bias: torch.Tensor,
        onto: torch.Tensor | None = None,
        *,
        doubles: bool = False,
    ) -> torch.Tensor:
        """Convolve by our own kernel: see `convolve`, and `can_convolve`."""
        scale = Scale.DOUBLED if doubles else Scale.SAME
        side = side_of(x, scale)
        if side not in self._transformed:
            self._transformed[side] = transformed(self.layer.weight, side)
        weight, outputs = self._transformed[side], len(self.weight)
        return convolved(x, weight, side, bias, outputs, onto=onto, scale=scale)

    def _by_onednn(
        self, x: torch.Tensor, bias: torch.Tensor, onto: torch.Tensor | None
    ) -> torch.Tensor:
        where = (self.padding, self.stride, [1, 1], 1)  # ... dilation, groups
        weight = self._pack(x.shape, where)
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *where, "none", [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            onto, x, weight, bias, *where, "add", 1.0, None, [], None
        )

    def _pack(self, shape: torch.Size, where: tuple) -> torch.Tensor:
        if shape != self._packed_for:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *where, list(shape)
            )
            self._packed_for = shape
        return self._packed


class Normalisation:
    """Group normalisation, then SiLU if asked for, by whichever kernels are fast.

    Sums are in float32. PyTorch's kernels for channels last take E[x^2] - E[x]^2, which
    loses digits where a group's mean exceeds its deviation by far: relative to it,
    about the square of that ratio times 2^-20.
    """

    def __init__(self, layer: nn.GroupNorm, *, activates: bool = True):
        self.layer, self.activates = layer, activates

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if has_kernels(x):
            return normalised(self.layer, x, self.activates)[0]
        layer, dtype = self.layer, x.dtype
        # PyTorch's kernels for 16 bits are slow in channels last.
        x = torch.group_norm(
            x.float(), layer.num_groups, layer.weight, layer.bias, layer.eps
        )
        return (F.silu(x, inplace=True) if self.activates else x).to(dtype)


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
        self.biases = block.time_emb_proj(time) + block.conv1.bias
        self.shortcut = block.conv_shortcut and Convolution(block.conv_shortcut, dtype)
        self.attention = attention and SelfAttention(attention, dtype)

    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        h = self.norm2(self.conv1(self.norm1(x), self.biases[index]))
        onto = self.shortcut(x) if self.shortcut else x
        x = self.conv2(h, onto=onto, overwrites=onto is not x)
        return self.attention(x) if self.attention else x


class SelfAttention:
    """Self-attention whose three projections are one matrix product."""

    def __init__(self, layer: Attention, dtype: torch.dtype):
        self.norm = Normalisation(layer.group_norm, activates=False)
        self.heads = layer.heads
        projections = (layer.to_q, layer.to_k, layer.to_v)
        self.weight = torch.cat([one.weight for one in projections]).to(dtype)
        self.bias = torch.cat([one.bias for one in projections]).to(dtype)
        self.out_weight = layer.to_out[0].weight.to(dtype)
        self.out_bias = layer.to_out[0].bias.to(dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        pixels = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (N, H*W, C)
        projected = F.linear(pixels, self.weight, self.bias)
        if has_kernels(x):
            mixed = attended(projected, self.heads)[0]
        else:
            heads = projected.unflatten(2, (3, self.heads, HEAD_CHANNELS))
            mixed = attend(*heads.permute(2, 0, 3, 1, 4))  # (N, heads, H*W, 8)
            mixed = mixed.transpose(1, 2).flatten(2)
        mixed = F.linear(mixed, self.out_weight, self.out_bias)
        return mixed.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2).add_(x)


class Upsampling:
    """Double the resolution; in 16 bits, where faster, by four small convolutions."""

    def __init__(self, layer: Upsample, dtype: torch.dtype):
        self.conv = Convolution(layer.conv, dtype)
        self.small = None if dtype is torch.float32 else _small(layer.conv, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if can_convolve(self.conv.layer, x, doubles=True, converts=True):
            return self.conv.tiled(x, self.conv.layer.bias, doubles=True)
        if self.small and is_worth_halving(x):
            return interleave(self.small(x))
        return self.conv(doubled(x))


def _small(layer: nn.Conv2d, dtype: torch.dtype) -> Convolution:
    """Return the four small convolutions in one, for `interleave`."""
    small = nn.utils.skip_init(
        nn.Conv2d, layer.in_channels, 4 * layer.out_channels, 2, padding=1
    )
    small.weight.copy_(half_resolution_weight(layer.weight))
    small.bias.copy_(layer.bias.repeat(4))
    return Convolution(small, dtype)


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


def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether PyTorch has oneDNN's convolutions with packed weights for `dtype`.

    They are operators that PyTorch's own compiler calls, and not documented: another
    version may lack them.
    """
    names = (
        "_reorder_convolution_weight",
        "_convolution_pointwise",
        "_convolution_pointwise_",
    )
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and all(hasattr(torch.ops.mkldnn, name) for name in names)
        and (dtype is torch.float32 or (dtype is torch.bfloat16 and multiplies_bf16()))
    )
