"""Normalisation with its activation, and attention.

On a CPU by the kernels of `models.kernels` for images in channels last, in fp32 and
bf16; elsewhere, and while PyTorch compiles, by PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from noisesteps.models.kernels import (
    KINDS,
    Context,
    addresses,
    has_kernels,
    on_threads,
)

HEAD_CHANNELS = 8


def normalise(
    layer: nn.GroupNorm, x: torch.Tensor, *, activates: bool = True
) -> torch.Tensor:
    """Normalise groups of channels (Wu & He 2018), then apply SiLU if it `activates`.

    Parameters
    ----------
    layer
        Gives the groups, the weight and the bias.
    x
        Images (N,C,H,W) in floating point; sums are in float32.

    Returns
    -------
    torch.Tensor
        Shape, dtype and memory layout of `x`.
    """
    return normalise_beside(layer, x, activates=activates)[0]


def normalise_beside(
    layer: nn.GroupNorm, x: torch.Tensor, *, activates: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `normalise` does, and the images for another branch.

    The kernel then adds that branch's gradient to its own.
    """
    if has_kernels(x):
        return _Normalise.apply(x, layer.weight, layer.bias, layer, activates)
    y = layer(x)
    return (F.silu(y) if activates else y), x


def attend_side_by_side(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """Compute softmax(Q K^T / sqrt(8)) V of each head, where all three lie together.

    Parameters
    ----------
    projected
        Contiguous float32 or bfloat16 (N, L, 3*C) on a CPU: of each pixel its query,
        key and value, and in each of these the heads, of 8 channels.
    heads
        C / 8.

    Returns
    -------
    torch.Tensor
        The heads' results side by side, (N, L, C).
    """
    return _Attend.apply(projected, heads)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Context,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        layer: nn.GroupNorm,
        activates: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        moments = torch.empty(2, len(x), layer.num_groups, dtype=torch.float32)
        y = normalised(
            x,
            *(weight.float(), bias.float(), layer.num_groups, layer.eps),
            activates,
            moments,
        )
        context.save_for_backward(x, weight, bias, moments)
        context.activates = activates
        context.set_materialize_grads(False)
        return y, x

    @staticmethod
    @once_differentiable
    def backward(
        context: Context, dy: torch.Tensor | None, onto: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        if dy is None:
            return onto, None, None, None, None
        x, weight, bias, moments = context.saved_tensors
        dtypes = weight.dtype, bias.dtype
        weight, bias = weight.float(), bias.float()
        dy = dy.contiguous(memory_format=torch.channels_last)
        if onto is not None:
            onto = onto.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        images, channels = x.shape[:2]
        slopes = torch.empty(1 + images, 2, channels, dtype=torch.float32)
        on_threads().normalise_gradient(
            *addresses(x, dy, onto, dx, weight, bias, moments, slopes),
            *(images, x.shape[2] * x.shape[3], channels, moments.shape[2]),
            *(context.activates, KINDS[x.dtype]),
        )
        dweight, dbias = slopes[0].unbind()
        return dx, dweight.to(dtypes[0]), dbias.to(dtypes[1]), None, None


def normalised(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    activates: bool,
    moments: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what `normalise` does, by the kernels, without a gradient.

    Parameters
    ----------
    x
        Images (N,C,H,W) that `has_kernels`.
    weight, bias
        Float32, (C,).
    groups, eps
        Of the layer.
    activates
        Whether SiLU follows.
    moments
        Where the groups' means and the inverses of their deviations are wanted,
        float32 (2,N,groups).
    """
    y = torch.empty_like(x)
    images, channels, height, width = x.shape
    on_threads().normalise(
        *addresses(x, y, weight, bias, moments),
        *(images, height * width, channels, groups),
        *(eps, activates, KINDS[x.dtype]),
    )
    return y


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(context: Context, projected: torch.Tensor, heads: int) -> torch.Tensor:
        images, pixels, _ = projected.shape
        levels = torch.empty(2, images, heads, pixels, dtype=torch.float32)
        mixed = attended(projected, heads, levels)
        context.save_for_backward(projected, levels)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(context: Context, dmixed: torch.Tensor) -> tuple[torch.Tensor, None]:
        projected, levels = context.saved_tensors
        dmixed = dmixed.contiguous()
        dprojected = torch.empty_like(projected)
        on_threads().attend_gradient(
            *addresses(projected, levels, dmixed, dprojected),
            *levels.shape[1:],
            KINDS[projected.dtype],
        )
        return dprojected, None


def attended(
    projected: torch.Tensor, heads: int, levels: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what `attend_side_by_side` does, without a gradient.

    `levels`, float32 (2,N,heads,L), is where the highest score of each softmax and the
    sum under it are wanted.
    """
    images, pixels, channels = projected.shape
    mixed = projected.new_empty(images, pixels, channels // 3)
    on_threads().attend(
        *addresses(projected, mixed, levels),
        *(images, heads, pixels, KINDS[projected.dtype]),
    )
    return mixed
