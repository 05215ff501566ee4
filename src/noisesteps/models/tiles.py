"""Convolution by 3x3 in tiles, by the kernels of `models.kernels`.

With 1/4 or 4/9 of the products of its definition (Lavin & Gray 2016), to about the same
rounding; of images in channels last on a CPU, in fp32 and bf16.
"""

from __future__ import annotations

import functools
from enum import IntEnum

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from noisesteps.models.kernels import (
    KINDS,
    MULTIPLE,
    Context,
    addresses,
    capabilities,
    has_kernels,
    on_threads,
)

# The gradient of a convolution keeps the sums of parts of a batch apart, so that they
# can be taken side by side: at most so many, of so many tiles at least.
PARTS, TILES = 4, 64
# Sides of the pixels under a tile of 2x2 and of 4x4, and how many pixels an image has
# at least where the larger is faster: it has 36 numbers of each kernel to transform.
SMALL, LARGE = 4, 6
LARGE_FROM = 64
TERMS = 9 * 32  # of a sum in float32, from which on large tiles err like PyTorch does


class Scale(IntEnum):
    """What a convolution does to the size of images, as the kernels count it."""

    SAME = 0
    DOUBLED = 1  # before it, each pixel repeated in both directions
    HALVED = 2  # after it, four pixels summed: the gradient of that


def can_convolve(
    layer: nn.Conv2d, x: torch.Tensor, *, doubles: bool = False, converts: bool = False
) -> bool:
    """Whether there is a kernel for a convolution of images (N,C,H,W).

    Parameters
    ----------
    layer
        The convolution; those by 3x3 that keep the size have one.
    x
        The images; their sides even unless the layer `doubles` them first.
    doubles
        Whether each pixel is repeated in both directions first.
    converts
        Whether to compute in the images' dtype whatever that of the weights; else only
        if PyTorch would.
    """
    return (
        has_kernels(x)
        and keeps_size(layer)
        and x.shape[1] == layer.in_channels
        and layer.in_channels % MULTIPLE == layer.out_channels % MULTIPLE == 0
        and (doubles or (x.shape[2] % 2 == x.shape[3] % 2 == 0))
        and (converts or x.dtype is computed_in(layer))
        and (x.dtype is torch.float32 or _gains_in_bf16(x, doubles=doubles))
    )


def keeps_size(layer: nn.Conv2d) -> bool:
    """Whether a layer is an ordinary convolution by 3x3 with zeros around images."""
    return (
        (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        and (layer.dilation, layer.groups) == ((1, 1), 1)
        and layer.padding_mode == "zeros"
        and layer.bias is not None
    )


def _gains_in_bf16(x: torch.Tensor, *, doubles: bool) -> bool:
    """Whether our products of float32 are faster than oneDNN's of bf16.

    Those are twice as many a second, and with AMX several times as many. Ours are a
    quarter of them by large tiles, and of images that are doubled.
    """
    return (doubles or side_of(x, Scale.SAME) == LARGE) and not _has_amx()


@functools.cache
def _has_amx() -> bool:
    """Whether this CPU multiplies matrices of bf16 (AMX), which oneDNN makes use of."""
    return bool(capabilities().get("amx_bf16"))


def computed_in(layer: nn.Conv2d) -> torch.dtype:
    """Return what PyTorch computes a layer's convolution in."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return layer.weight.dtype


def convolve_by_tiles(
    layer: nn.Conv2d,
    x: torch.Tensor,
    shift: torch.Tensor | None,
    onto: torch.Tensor | None,
    *,
    doubles: bool,
) -> torch.Tensor:
    """Do what `models.convolution.convolve` does, where `can_convolve`."""
    return _Convolve.apply(x, layer.weight, layer.bias, shift, onto, doubles)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Context,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        shift: torch.Tensor | None,
        onto: torch.Tensor | None,
        doubles: bool,
    ) -> torch.Tensor:
        context.save_for_backward(x, weight)
        context.scale = Scale.DOUBLED if doubles else Scale.SAME
        context.dtypes = bias.dtype, None if shift is None else shift.dtype
        context.shifts = 0 if shift is None else len(shift)
        if shift is not None:
            bias = bias + shift
        side = side_of(x, context.scale)
        prepared = transformed(weight, side)
        return convolved(
            x, prepared, side, bias, len(weight), onto=onto, scale=context.scale
        )

    @staticmethod
    @once_differentiable
    def backward(context: Context, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = context.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = None
        if context.needs_input_grad[0]:
            scale = Scale.HALVED if context.scale is Scale.DOUBLED else Scale.SAME
            # PyTorch's gradient errs less than its forward pass, least for one image.
            side = SMALL if x.dtype is torch.float32 else side_of(dy, scale)
            backwards = transformed(weight, side, backwards=True)
            dx = convolved(dy, backwards, side, None, x.shape[1], scale=scale)
        dweight, dbias, dbiases = _weight_gradient(x, dy, context.scale)
        dshift = None
        if context.shifts:
            shared = context.shifts < len(x)
            dshift = (dbias[None] if shared else dbiases).to(context.dtypes[1])
        donto = dy if context.needs_input_grad[4] else None
        dbias = dbias.to(context.dtypes[0])
        return dx, dweight.to(weight.dtype), dbias, dshift, donto, None


def _weight_gradient(
    x: torch.Tensor, dy: torch.Tensor, scale: Scale
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of kernels (O,C,3,3), bias (O,) and its shares (N,O)."""
    images, outputs, height, width = dy.shape
    inputs, side = x.shape[1], side_of(dy, scale, images * height * width)
    tiles = height * width // (side - 2) ** 2
    images_of_part = max(-(-TILES // tiles), -(-images // PARTS), 1)
    parts = -(-images // images_of_part)
    library = on_threads()
    size = library.size_of_weight(inputs, outputs, side)
    sums = torch.empty(parts * size, dtype=torch.float32)
    dbias = torch.empty(outputs, dtype=torch.float32)
    dbiases = torch.empty(images, outputs, dtype=torch.float32)
    dweight = torch.empty(
        (outputs, inputs, 3, 3),
        dtype=torch.float32,
        memory_format=torch.channels_last,
    )
    library.convolve_gradient(
        *addresses(x, dy, dweight, dbias, dbiases, sums),
        *(images_of_part, images, height, width, inputs, outputs),
        *(side, scale, KINDS[x.dtype]),
    )
    return dweight, dbias, dbiases


def side_of(x: torch.Tensor, scale: Scale, terms: int | None = None) -> int:
    """Return the side of the tiles that images (N,C,H,W) are convolved by.

    Large tiles need fewer products, and lose digits in their transforms. In bf16 nobody
    misses those. In float32 sums of few `terms` (None: over the channels) would show
    it, while others lose as many in PyTorch's kernels. But for `terms`, it does not
    depend on the number of images, so that a result does not on its batch.
    """
    height, width = x.shape[2:]
    large = (
        scale is Scale.SAME
        and height % 4 == width % 4 == 0
        and height * width >= LARGE_FROM
        and (x.dtype is torch.bfloat16 or (terms or 9 * x.shape[1]) >= TERMS)
    )
    return LARGE if large else SMALL


def transformed(
    weight: torch.Tensor, side: int, *, backwards: bool = False
) -> torch.Tensor:
    """Return kernels (O,C,3,3) as `convolved` uses them for tiles of a side.

    If `backwards`, for the convolution that takes the gradient of the result to that of
    the images.
    """
    outputs, inputs = weight.shape[:2]
    weight = weight.detach().float().contiguous(memory_format=torch.channels_last)
    library = on_threads()
    size = library.size_of_weight(inputs, outputs, side)
    result = torch.empty(size, dtype=torch.float32)
    library.transform_weight(
        *addresses(weight, result), inputs, outputs, side, backwards
    )
    return result


def convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    side: int,
    bias: torch.Tensor | None,
    outputs: int,
    *,
    onto: torch.Tensor | None = None,
    scale: Scale = Scale.SAME,
) -> torch.Tensor:
    """Return what `convolve_by_tiles` does, without a gradient.

    Parameters
    ----------
    x
        Images (N,C,H,W), as `can_convolve` wants them.
    weight, side
        Kernels, `transformed` for tiles of that side, as `side_of` chooses it.
    bias
        (O,), or (N,O) or (1,O).
    outputs
        O.
    onto
        What the result is added to.
    scale
        Whether images are doubled first, or results halved.
    """
    images, inputs, height, width = x.shape
    size = height, width
    if scale is Scale.DOUBLED:
        size = height, width = 2 * height, 2 * width
    elif scale is Scale.HALVED:
        size = height // 2, width // 2
    y = torch.empty(
        (images, outputs, *size), dtype=x.dtype, memory_format=torch.channels_last
    )
    step = 0
    if bias is not None:
        if bias.dim() == 2 and len(bias) > 1:
            step, bias = outputs, bias.expand(images, outputs)
        if bias.dtype is not torch.float32:  # a call less in Python, many times a step
            bias = bias.float()
        bias = bias.contiguous()
    if onto is not None and (onto.shape, onto.dtype) != (y.shape, y.dtype):
        onto = onto.to(x.dtype).expand_as(y)
    if onto is not None:
        onto = onto.contiguous(memory_format=torch.channels_last)
    on_threads().convolve(
        *addresses(x, weight, bias),
        step,
        *addresses(onto, y),
        *(images, height, width, inputs, outputs),
        *(side, scale, KINDS[x.dtype]),
    )
    return y
