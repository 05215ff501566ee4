"""Linear layers of pixels for sampling, by the kernels of `models.kernels` in fp32.

PyTorch's are as fast where there is a gradient.
"""

from __future__ import annotations

import torch

from noisesteps.models.kernels import MULTIPLE, addresses, has_kernels, on_threads


def can_multiply(x: torch.Tensor, outputs: int) -> bool:
    """Whether there is a kernel for pixels of images (N,C,H,W) to so many outputs."""
    return (
        x.dtype is torch.float32
        and x.shape[1] % MULTIPLE == outputs % MULTIPLE == 0
        and has_kernels(x)
    )


def packed(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight (O,C) as `multiplied` uses it."""
    outputs, inputs = weight.shape
    weight = weight.detach().float().contiguous()
    result = torch.empty(outputs * inputs, dtype=torch.float32)
    on_threads().pack_weight(*addresses(weight, result), inputs, outputs)
    return result


def multiplied(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    onto: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute x W' + b of each pixel, and add it onto what is given.

    Parameters
    ----------
    x
        Images (N,C,H,W): see `can_multiply`.
    weight
        W, `packed`.
    bias
        Float32, (O,).
    onto
        What the result is added to, float32 and in its shape.

    Returns
    -------
    torch.Tensor
        Shape (N,O,H,W), in channels last.
    """
    images, inputs, height, width = x.shape
    y = torch.empty(
        (images, len(bias), height, width),
        dtype=torch.float32,
        memory_format=torch.channels_last,
    )
    if onto is not None:
        onto = onto.contiguous(memory_format=torch.channels_last)
    on_threads().linear(
        *addresses(x, weight, bias, onto, y),
        *(images * height * width, inputs, len(bias)),
    )
    return y
