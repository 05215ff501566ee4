"""Linear layers of pixels for sampling, by the kernels of `models.kernels` in fp32.

PyTorch's are as fast where there is a gradient.
"""

from __future__ import annotations

import torch

from noisesteps.models.kernels import MULTIPLE, addresses, load, on_threads


def can_multiply(x: torch.Tensor, outputs: int) -> bool:
    """Whether there is a kernel for pixels (..., C), and so many outputs."""
    return (
        x.dtype is torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous()
        and x.shape[-1] % MULTIPLE == outputs % MULTIPLE == 0
        and not torch.compiler.is_compiling()
        and load() is not None
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
    """Compute x W' + b, and add it onto what is given.

    Parameters
    ----------
    x
        Pixels (..., C): see `can_multiply`.
    weight
        W, `packed`.
    bias
        Float32, (O,).
    onto
        What the result is added to, float32 and in its shape.

    Returns
    -------
    torch.Tensor
        Shape (..., O).
    """
    inputs, outputs = x.shape[-1], len(bias)
    y = x.new_empty(*x.shape[:-1], outputs)
    if onto is not None:
        onto = onto.contiguous()
    on_threads().linear(
        *addresses(x, weight, bias, onto, y), x.numel() // inputs, inputs, outputs
    )
    return y
