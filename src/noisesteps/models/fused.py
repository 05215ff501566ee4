"""Convolution, normalisation with its activation, and attention, on a CPU.

By the kernels of `models.kernels` for images in channels last, in fp32 and bf16;
elsewhere, and while PyTorch compiles, by PyTorch's own.
"""

from __future__ import annotations

import ctypes
import functools
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from noisesteps.models import kernels

HEAD_CHANNELS = 8
KINDS = {torch.float32: 0, torch.bfloat16: 1}  # as the kernels count them
MULTIPLE = 16  # that channels have to be of, to be convolved by ours
# The gradient of a convolution keeps the sums of parts of a batch apart, so that they
# can be taken side by side: at most so many, of so many tiles at least.
PARTS, TILES = 4, 32
Context = Any  # keeps what a backward pass needs


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


def has_kernels(x: torch.Tensor) -> bool:
    """Whether images (N,C,H,W) are of a kind that there are kernels for."""
    return (
        x.dtype in KINDS
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and kernels.load() is not None
    )


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
    doubles, converts
        Whether each pixel is repeated first, and the weight converted to the images'
        dtype. Else that is what PyTorch has to compute in.
    """
    return (
        layer.kernel_size == (3, 3)
        and (layer.stride, layer.padding) == ((1, 1), (1, 1))
        and layer.in_channels % MULTIPLE == layer.out_channels % MULTIPLE == 0
        and (doubles or (x.shape[2] % 2 == x.shape[3] % 2 == 0))
        and (converts or x.dtype is _computed_in(layer))
        and has_kernels(x)
        and (x.dtype is torch.float32 or _gains_in_bf16(x, doubles=doubles))
    )


def _gains_in_bf16(x: torch.Tensor, *, doubles: bool) -> bool:
    """Whether our products of float32 are faster than oneDNN's of bf16.

    Those are twice as many a second, and with AMX several times as many. Ours are a
    quarter of them, but for few pixels, whose kernels are half of the work.
    """
    return (doubles or x.shape[2] * x.shape[3] >= LARGE_FROM) and not _has_amx()


@functools.cache
def _has_amx() -> bool:
    """Whether this CPU multiplies matrices of bf16 (AMX), which oneDNN makes use of."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _computed_in(layer: nn.Conv2d) -> torch.dtype:
    """Return what PyTorch computes a layer's convolution in."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return layer.weight.dtype


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
        return _Convolve.apply(x, layer.weight, layer.bias, shift, onto, doubles)
    x = doubled(x) if doubles else x
    multiplies = is_product(layer, x)
    y = multiplied(x, layer.weight, layer.bias) if multiplies else layer(x)
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


def is_product(layer: nn.Conv2d, x: torch.Tensor) -> bool:
    """Whether a convolution is a product of matrices, which is faster as such."""
    return layer.kernel_size == (1, 1) and x.dtype is torch.float32 and has_kernels(x)


def multiplied(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Convolve images (N,C,H,W) in channels last by kernels (O,C,1,1)."""
    pixels = x.permute(0, 2, 3, 1)
    return F.linear(pixels, weight.flatten(1), bias).permute(0, 3, 1, 2)


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
            # PyTorch's own errs less here than forward, of one image least.
            side = SMALL if x.dtype is torch.float32 else side_of(dy, scale)
            backwards = transformed(weight, side, backwards=True)
            dx = convolved(dy, backwards, side, None, x.shape[1], scale=scale)
        dweight, dbiases = _weight_gradient(x, dy, context.scale)
        dbias = dbiases.sum(0)
        dshift = None
        if context.shifts:
            shared = context.shifts < len(x)
            dshift = (dbias[None] if shared else dbiases).to(context.dtypes[1])
        donto = dy if context.needs_input_grad[4] else None
        dbias = dbias.to(context.dtypes[0])
        return dx, dweight.to(weight.dtype), dbias, dshift, donto, None


def _weight_gradient(
    x: torch.Tensor, dy: torch.Tensor, scale: Scale
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of kernels (O,C,3,3) and, image by image, bias (N,O)."""
    images, outputs, height, width = dy.shape
    inputs, side = x.shape[1], side_of(dy, scale, images * height * width)
    tiles = height * width // (side - 2) ** 2
    images_of_part = max(-(-TILES // tiles), -(-images // PARTS), 1)
    parts = -(-images // images_of_part)
    library = _kernels()
    size = library.size_of_weight(inputs, outputs, side)
    sums, dbiases = torch.empty(parts * size), torch.empty(images, outputs)
    dweight = torch.empty((outputs, inputs, 3, 3), memory_format=torch.channels_last)
    library.convolve_gradient(
        *_addresses(x, dy, dweight, dbiases, sums),
        *(images_of_part, images, height, width, inputs, outputs),
        *(side, scale, KINDS[x.dtype]),
    )
    return dweight, dbiases


def side_of(x: torch.Tensor, scale: Scale, terms: int | None = None) -> int:
    """Return the side of the tiles that images (N,C,H,W) are convolved by.

    Large tiles need fewer products, and lose digits in their transforms. In bf16 nobody
    misses those. In float32 sums of few `terms` (None: over the channels) would show
    it, while others lose as many in PyTorch's kernels. It does not depend on the number
    of images, so that a result does not on its batch.
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
    library = _kernels()
    result = torch.empty(library.size_of_weight(inputs, outputs, side))
    library.transform_weight(
        *_addresses(weight, result), inputs, outputs, side, backwards
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
    """Return what `convolve` does, by the kernels, without a gradient.

    Parameters
    ----------
    weight, side
        Kernels, `transformed` for tiles of that side, as `side_of` chooses it.
    bias
        (O,), or (N,O) or (1,O).
    outputs
        O.
    """
    images, inputs, height, width = x.shape
    if scale is Scale.DOUBLED:
        height, width = 2 * height, 2 * width
    halves = scale is Scale.HALVED
    y = torch.empty(
        (images, outputs, height >> halves, width >> halves),
        dtype=x.dtype,
        memory_format=torch.channels_last,
    )
    differs = False
    if bias is not None:
        bias = bias.float().contiguous()
        differs = bias.dim() == 2 and len(bias) == images
    if onto is not None:
        onto = onto.to(x.dtype).contiguous(memory_format=torch.channels_last)
    _kernels().convolve(
        *_addresses(x, weight, bias),
        outputs if differs else 0,
        *_addresses(onto, y),
        *(images, height, width, inputs, outputs),
        *(side, scale, KINDS[x.dtype]),
    )
    return y


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
        x, weight, bias, moments = context.saved_tensors
        dtypes = weight.dtype, bias.dtype
        weight, bias = weight.float(), bias.float()
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        images, channels = x.shape[:2]
        slopes = torch.empty(1 + images, 2, channels)
        _kernels().normalise_gradient(
            *_addresses(x, dy, dx, weight, bias, moments, slopes),
            *(images, x.shape[2] * x.shape[3], channels, moments.shape[2]),
            *(context.activates, KINDS[x.dtype]),
        )
        dweight, dbias = slopes[0].unbind()
        return dx, dweight.to(dtypes[0]), dbias.to(dtypes[1]), None, None


def normalised(
    layer: nn.GroupNorm, x: torch.Tensor, activates: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `normalise` does, by the kernels, without a gradient.

    And the groups' means and the inverses of their deviations, float32 (2,N,groups).
    """
    y = torch.empty_like(x)
    images, channels = x.shape[:2]
    moments = torch.empty(2, images, layer.num_groups)
    weight, bias = layer.weight.float(), layer.bias.float()
    _kernels().normalise(
        *_addresses(x, y, weight, bias, moments),
        *(images, x.shape[2] * x.shape[3], channels, layer.num_groups),
        *(layer.eps, activates, KINDS[x.dtype]),
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
        projected, levels = context.saved_tensors
        dmixed = dmixed.contiguous()
        dprojected = torch.empty_like(projected)
        _kernels().attend_gradient(
            *_addresses(projected, levels, dmixed, dprojected),
            *levels.shape[1:],
            KINDS[projected.dtype],
        )
        return dprojected, None


def attended(projected: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `attend_side_by_side` does, without a gradient.

    And of each softmax the highest score and the sum under it, float32 (2,N,heads,L).
    """
    images, pixels, channels = projected.shape
    mixed = projected.new_empty(images, pixels, channels // 3)
    levels = torch.empty(2, images, heads, pixels)
    _kernels().attend(
        *_addresses(projected, mixed, levels),
        *(images, heads, pixels, KINDS[projected.dtype]),
    )
    return mixed, levels


def _kernels() -> ctypes.CDLL:
    """Return the kernels, on as many threads as PyTorch's own use."""
    library = kernels.load()
    kernels.use_threads(library, torch.get_num_threads())
    return library


def _addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    """Return where tensors lie; whoever calls holds them until the kernel has ended."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
