"""Convolution, with what is added to its result.

On a CPU by the kernels of `models.kernels` for images in channels last; elsewhere, and
while PyTorch compiles, by PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from noisesteps.models.few_channels import can_convolve_to_few, convolve_to_few
from noisesteps.models.kernels import has_kernels
from noisesteps.models.tiles import can_convolve, convolve_by_tiles


def convolve(
    layer: nn.Conv2d,
    x: torch.Tensor,
    *,
    shift: torch.Tensor | None = None,
    onto: torch.Tensor | None = None,
    doubles: bool = False,
) -> torch.Tensor:
    """Convolve, then add a number to each channel, and images, where they are given.

    With 1/4 or 4/9 of the products where `can_convolve` (Lavin & Gray 2016), to about
    the same rounding. Of images in bf16 they are products of float32: only the result
    is rounded.

    Parameters
    ----------
    layer
        Gives the weight and the bias.
    x
        Images (N,C,H,W) in floating point.
    shift
        What is added to every pixel of a result, (N,O) or (1,O).
    onto
        What the result is added to, in its shape.
    doubles
        Whether to repeat each pixel in both directions first.

    Returns
    -------
    torch.Tensor
        Shape (N,O,H,W), or twice as high and wide.
    """
    if can_convolve(layer, x, doubles=doubles):
        return convolve_by_tiles(layer, x, shift, onto, doubles=doubles)
    x = doubled(x) if doubles else x
    if can_convolve_to_few(layer, x):
        y = convolve_to_few(layer, x)
    else:
        y = convolve_pixels(layer, x) if is_linear(layer, x) else layer(x)
    if shift is not None:
        y = y + shift[:, :, None, None]
    return y if onto is None else y + onto


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Repeat every pixel of images (N,C,H,W) in both directions."""
    if not torch.compiler.is_compiling():
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # PyTorch's compiler turns the gradient of this into a sum, and that of
    # `F.interpolate` into a scattered addition, which it cannot fuse.
    images, channels, height, width = x.shape
    shape = (images, channels, height, 2, width, 2)
    return (
        x[:, :, :, None, :, None]
        .expand(shape)
        .reshape(images, channels, 2 * height, 2 * width)
    )


def is_linear(layer: nn.Conv2d, x: torch.Tensor) -> bool:
    """Whether a convolution is a linear layer of pixels, which is faster as such."""
    return layer.kernel_size == (1, 1) and x.dtype is torch.float32 and has_kernels(x)


def convolve_pixels(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Convolve images (N,C,H,W) in channels last by 1x1."""
    pixels = x.permute(0, 2, 3, 1)
    y = F.linear(pixels, layer.weight.flatten(1), layer.bias)
    return y.permute(0, 3, 1, 2)
