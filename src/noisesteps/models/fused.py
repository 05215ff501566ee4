"""Normalisation with its activation, and attention, in one pass over images each.

On a CPU in bf16 and channels last, by the kernels of `models.kernels`; elsewhere, and
while PyTorch compiles, by PyTorch's own. The kernels need Numba, which takes a third of
a second to import, so it is imported when they are first called.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

log = logging.getLogger(__name__)
HEAD_CHANNELS = 8
Context = Any  # keeps what a backward pass needs


def prepare(device: torch.device, dtype: torch.dtype, *, training: bool) -> None:
    """Load the kernels for a dtype before a clock runs, where there are any.

    Numba compiles each when it is first called, and keeps it for later processes.
    """
    if device.type != "cpu" or dtype is not torch.bfloat16:
        return
    log.info("loading the kernels for bf16; the first time takes up to a minute")
    x = torch.zeros(1, HEAD_CHANNELS, 1, 1, dtype=dtype, requires_grad=training)
    projected = torch.zeros(
        1, 1, 3 * HEAD_CHANNELS, dtype=dtype, requires_grad=training
    )
    layer = nn.GroupNorm(1, HEAD_CHANNELS)
    results = normalise(layer, x), attend_side_by_side(projected, 1)
    if training:
        sum(result.sum() for result in results).backward()


def has_kernels(x: torch.Tensor) -> bool:
    """Whether images (N,C,H,W) are of a kind that there are kernels for."""
    return (
        x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


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
    if has_kernels(x):
        return _Normalise.apply(x, layer.weight, layer.bias, layer, activates)
    x = layer(x)
    return F.silu(x) if activates else x


def attend_side_by_side(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """Compute softmax(Q K^T / sqrt(8)) V of each head, where all three lie together.

    Parameters
    ----------
    projected
        Contiguous bfloat16 (N, L, 3*C) on a CPU: of each pixel its query, key and
        value, and in each of these the heads, of 8 channels.
    heads
        C / 8.

    Returns
    -------
    torch.Tensor
        The heads' results side by side, bfloat16 (N, L, C).
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
    ) -> torch.Tensor:
        y, moments = normalised(layer, x, activates)
        context.save_for_backward(x, weight, bias, moments)
        context.activates = activates
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Context, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kernels = _kernels()
        x, *parameters, moments = context.saved_tensors
        weight, bias = (parameter.float() for parameter in parameters)
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        images, channels = x.shape[:2]
        slopes = moments.new_empty(2, images, channels)
        kernels.normalise_gradient(
            *_addresses(x, dy, dx, weight, bias, moments, slopes),
            *(images, x.shape[2] * x.shape[3], channels, moments.shape[2]),
            context.activates,
        )
        dweight, dbias = (
            slope.to(parameter.dtype)
            for slope, parameter in zip(slopes.sum(1), parameters, strict=True)
        )
        return dx, dweight, dbias, None, None


def normalised(
    layer: nn.GroupNorm, x: torch.Tensor, activates: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `normalise` does, by the kernels, without a gradient.

    And the groups' means and the inverses of their deviations, float32 (2,N,groups).
    """
    kernels = _kernels()
    y = torch.empty_like(x)
    images, channels = x.shape[:2]
    moments = torch.empty(2, images, layer.num_groups)
    weight, bias = layer.weight.float(), layer.bias.float()
    kernels.normalise(
        *_addresses(x, y, weight, bias, moments),
        *(images, x.shape[2] * x.shape[3], channels, layer.num_groups),
        *(layer.eps, activates),
    )
    return y, moments


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(context: Context, projected: torch.Tensor, heads: int) -> torch.Tensor:
        mixed, levels = attended(projected, heads)
        context.save_for_backward(projected, levels)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(context: Context, dmixed: torch.Tensor) -> tuple[torch.Tensor, None]:
        kernels = _kernels()
        projected, levels = context.saved_tensors
        dmixed = dmixed.contiguous()
        dprojected = torch.empty_like(projected)
        kernels.attend_gradient(
            *_addresses(projected, levels, dmixed, dprojected),
            tuple(levels.shape),
        )
        return dprojected, None


def attended(projected: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `attend_side_by_side` does, without a gradient.

    And log2 of the sum of what is under the softmax, float32 (N,heads,L).
    """
    kernels = _kernels()
    images, pixels, channels = projected.shape
    mixed = projected.new_empty(images, pixels, channels // 3)
    levels = torch.empty(images, heads, pixels)
    kernels.attend(
        *_addresses(projected, mixed, levels),
        tuple(levels.shape),
    )
    return mixed, levels


def _kernels() -> ModuleType:
    """Return the kernels, on as many threads as PyTorch's own use."""
    from noisesteps.models import kernels

    kernels.set_threads(torch.get_num_threads())
    return kernels


def _addresses(*tensors: torch.Tensor) -> list[int]:
    """Return where tensors lie; whoever calls holds them until the kernel has ended."""
    return [tensor.data_ptr() for tensor in tensors]
