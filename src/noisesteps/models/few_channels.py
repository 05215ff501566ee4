"""Convolution by 3x3 to few channels, as the network ends with.

By the kernels of `models.kernels`, for images in channels last on a CPU, in fp32 and
bf16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from noisesteps.models.kernels import (
    KINDS,
    MULTIPLE,
    Context,
    addresses,
    has_kernels,
    on_threads,
)
from noisesteps.models.tiles import computed_in, keeps_size

FEW = 4  # channels at most: `FEW` of `convolve_few.c`


def can_convolve_to_few(
    layer: nn.Conv2d, x: torch.Tensor, *, converts: bool = False
) -> bool:
    """Whether there is a kernel for a convolution of images (N,C,H,W) to few channels.

    `converts` is as for `models.tiles.can_convolve`.
    """
    return (
        has_kernels(x)
        and keeps_size(layer)
        and x.shape[1] == layer.in_channels
        and layer.in_channels % MULTIPLE == 0
        and layer.out_channels <= FEW
        and (converts or x.dtype is computed_in(layer))
    )


def convolve_to_few(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Convolve images (N,C,H,W), where `can_convolve_to_few`."""
    return _ConvolveToFew.apply(x, layer.weight, layer.bias)


class _ConvolveToFew(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Context, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        context.save_for_backward(x, weight)
        return convolved_to_few(x, spread(weight), bias.float())

    @staticmethod
    @once_differentiable
    def backward(context: Context, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, weight = context.saved_tensors
        dtype, weight = weight.dtype, weight.float()
        weight = weight.contiguous(memory_format=torch.channels_last)
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        (images, inputs, height, width), outputs = x.shape, len(weight)
        size = weight.numel()
        sums = torch.empty(images + 1, size + outputs, dtype=torch.float32)
        on_threads().convolve_few_gradient(
            *addresses(x, dy, weight, dx, sums),
            *(images, height, width, inputs, outputs, KINDS[x.dtype]),
        )
        dweight.permute(0, 2, 3, 1).copy_(sums[0, :size].view(outputs, 3, 3, inputs))
        return dx, dweight.to(dtype), sums[0, size:].to(dtype, copy=True)


def spread(weight: torch.Tensor) -> torch.Tensor:
    """Return kernels (O,C,3,3) as `convolved_to_few` uses them."""
    rows = weight.detach().float().permute(1, 2, 3, 0).flatten(1)
    return F.pad(rows, (0, -rows.shape[1] % MULTIPLE)).contiguous()


def convolved_to_few(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Convolve images (N,C,H,W) to few channels, without a gradient.

    Parameters
    ----------
    weight
        Kernels that were `spread`.
    bias
        Float32, (O,).
    """
    images, inputs, height, width = x.shape
    y = torch.empty(
        (images, len(bias), height, width),
        dtype=x.dtype,
        memory_format=torch.channels_last,
    )
    on_threads().convolve_few(
        *addresses(x, weight, bias, y),
        *(images, height, width, inputs, len(bias), KINDS[x.dtype]),
    )
    return y
