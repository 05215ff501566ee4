"""Layers prepared for sampling on a CPU, whose weights no longer change.

Those are kept in the precision that is computed in and in the order that the kernel
wants which is fastest for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from noisesteps.devices import multiplies_bf16
from noisesteps.models.blocks import Attention, Upsample, attend
from noisesteps.models.convolution import doubled, is_linear
from noisesteps.models.few_channels import (
    can_convolve_to_few,
    convolved_to_few,
    spread,
)
from noisesteps.models.fused import HEAD_CHANNELS, attended, normalised
from noisesteps.models.kernels import has_kernels
from noisesteps.models.linear import can_multiply, multiplied, packed
from noisesteps.models.tiles import (
    SMALL,
    Scale,
    can_convolve,
    convolved,
    side_of,
    transformed,
)
from noisesteps.models.upsampling import (
    half_resolution_weight,
    interleave,
    is_worth_halving,
)

# Takes a convolution, what it has prepared, images, a bias, what to add to, and whether
# that may be overwritten.
Way = Callable[..., torch.Tensor]


class Convolution:
    """A convolution, of images of each shape in the way that is fastest for it.

    That is found, and its weights are put in order, for each shape and layout anew, so
    that a result depends on its own batch alone, and not on which others came before.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype):
        self.layer = layer
        self.weight = layer.weight.to(dtype, memory_format=torch.channels_last)
        self.bias = layer.bias.detach().float()
        # Padding, stride, dilation and groups, as oneDNN's operators take them.
        self.where = list(layer.padding), list(layer.stride), [1, 1], 1
        self.packs = _has_onednn(dtype)
        self._transformed: dict[int, torch.Tensor] = {}  # by the tiles' side
        self._ways: dict[tuple, tuple[Way, Any]] = {}

    def __call__(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None = None,
        onto: torch.Tensor | None = None,
        *,
        overwrites: bool = False,
    ) -> torch.Tensor:
        """Convolve, with `bias` in place of its own, and add `onto`.

        The sum takes the place of `onto` if it may (`overwrites`) and that is faster.
        """
        key = x.shape, x.stride()
        if key not in self._ways:
            self._ways[key] = self._fastest(x)
        way, prepared = self._ways[key]
        bias = self.bias if bias is None else bias
        return way(self, prepared, x, bias, onto, overwrites)

    def convolve_doubled(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat each pixel in both directions, then convolve, where `can_convolve`."""
        return self._by_tiles(SMALL, x, self.bias, None, scale=Scale.DOUBLED)

    def _fastest(self, x: torch.Tensor) -> tuple[Way, Any]:
        """Return how to convolve images of a shape, and what is prepared for that."""
        if can_convolve(self.layer, x, converts=True):
            return Convolution._by_tiles, side_of(x, Scale.SAME)
        if can_convolve_to_few(self.layer, x, converts=True):
            return Convolution._to_few, spread(self.layer.weight)
        if self.packs:
            return Convolution._by_onednn, self._packed(x.shape)
        return Convolution._by_pytorch, self.weight

    def _by_tiles(
        self,
        side: int,
        x: torch.Tensor,
        bias: torch.Tensor,
        onto: torch.Tensor | None,
        overwrites: bool = False,
        scale: Scale = Scale.SAME,
    ) -> torch.Tensor:
        if side not in self._transformed:
            self._transformed[side] = transformed(self.layer.weight, side)
        weight, outputs = self._transformed[side], len(self.bias)
        return convolved(x, weight, side, bias, outputs, onto=onto, scale=scale)

    def _to_few(
        self,
        weight: torch.Tensor,
        x: torch.Tensor,
        bias: torch.Tensor,
        onto: torch.Tensor | None,
        overwrites: bool,
    ) -> torch.Tensor:
        y = convolved_to_few(x, weight, bias)
        return y if onto is None else y.add_(onto)

    def _by_pytorch(
        self,
        weight: torch.Tensor,
        x: torch.Tensor,
        bias: torch.Tensor,
        onto: torch.Tensor | None,
        overwrites: bool,
    ) -> torch.Tensor:
        padding, stride, *_ = self.where
        y = F.conv2d(x, weight, bias.to(weight.dtype), stride, padding)
        return y if onto is None else y.add_(onto)

    def _by_onednn(
        self,
        weight: torch.Tensor,
        x: torch.Tensor,
        bias: torch.Tensor,
        onto: torch.Tensor | None,
        overwrites: bool,
    ) -> torch.Tensor:
        given = x, weight, bias.to(self.weight.dtype), *self.where
        if onto is not None and overwrites:
            return torch.ops.mkldnn._convolution_pointwise_.binary(
                onto, *given, "add", 1.0, None, [], None
            )
        y = torch.ops.mkldnn._convolution_pointwise(*given, "none", [], "")
        return y if onto is None else y.add_(onto)

    def _packed(self, shape: torch.Size) -> torch.Tensor:
        """Return the weights in oneDNN's order for images of a shape."""
        return torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, *self.where, list(shape)
        )


class Linear:
    """A linear layer whose weight is kept in the order that its kernel wants."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype):
        self.weight, self.bias = weight.to(dtype), bias.to(dtype)
        self.packs = dtype is torch.float32
        self._packed: torch.Tensor | None = None

    def __call__(
        self, x: torch.Tensor, onto: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply the pixels of images (N,C,H,W), and add that onto what is given."""
        if not (self.packs and can_multiply(x, len(self.bias))):
            y = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)
            y = y.permute(0, 3, 1, 2)
            return y if onto is None else y.add_(onto)
        if self._packed is None:
            self._packed = packed(self.weight)
        return multiplied(x, self._packed, self.bias, onto)


class Shortcut:
    """A convolution by 1x1."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype):
        self.conv = Convolution(layer, dtype)
        self.linear = Linear(layer.weight.flatten(1), layer.bias, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not is_linear(self.conv.layer, x):
            return self.conv(x)
        return self.linear(x)


class Normalisation:
    """Group normalisation, then SiLU if asked for, by whichever kernels are fast.

    Sums are in float32. PyTorch's kernels for channels last take E[x^2] - E[x]^2, which
    loses digits where a group's mean exceeds its deviation by far: relative to it,
    about the square of that ratio times 2^-20.
    """

    def __init__(self, layer: nn.GroupNorm, *, activates: bool = True):
        self.layer, self.activates = layer, activates
        self.weight, self.bias = layer.weight.float(), layer.bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if has_kernels(x):
            layer = self.layer
            return normalised(
                x, self.weight, self.bias, layer.num_groups, layer.eps, self.activates
            )
        layer, dtype = self.layer, x.dtype
        # PyTorch's kernels for 16 bits are slow in channels last.
        x = torch.group_norm(
            x.float(), layer.num_groups, layer.weight, layer.bias, layer.eps
        )
        return (F.silu(x, inplace=True) if self.activates else x).to(dtype)


class SelfAttention:
    """Self-attention whose three projections are one matrix product."""

    def __init__(self, layer: Attention, dtype: torch.dtype):
        self.norm = Normalisation(layer.group_norm, activates=False)
        self.heads = layer.heads
        projections = (layer.to_q, layer.to_k, layer.to_v)
        weight, bias = (
            torch.cat([getattr(one, name) for one in projections])
            for name in ("weight", "bias")
        )
        self.project = Linear(weight, bias, dtype)
        last = layer.to_out[0]
        self.to_out = Linear(last.weight, last.bias, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        projected = self.project(self.norm(x)).permute(0, 2, 3, 1)
        projected = projected.flatten(1, 2)  # (N, H*W, 3*C)
        if has_kernels(x):
            mixed = attended(projected, self.heads)
        else:
            heads = projected.unflatten(2, (3, self.heads, HEAD_CHANNELS))
            mixed = attend(*heads.permute(2, 0, 3, 1, 4))  # (N, heads, H*W, 8)
            mixed = mixed.transpose(1, 2).flatten(2)
        mixed = mixed.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return self.to_out(mixed, x)


class Upsampling:
    """Double the resolution; in 16 bits, where faster, by four small convolutions."""

    def __init__(self, layer: Upsample, dtype: torch.dtype):
        self.conv = Convolution(layer.conv, dtype)
        self.small = None if dtype is torch.float32 else _small(layer.conv, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if can_convolve(self.conv.layer, x, doubles=True, converts=True):
            return self.conv.convolve_doubled(x)
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
