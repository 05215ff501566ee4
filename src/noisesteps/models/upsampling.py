"""Upsampling, and the convolution after it, at half the resolution.

Of the nine pixels under a kernel after each pixel was repeated in both directions, at
most four differ: four convolutions by 2x2 before do with 4 of 9 products. For PyTorch's
kernels in 16 bits; that of `models.kernels` does with fewer still.
"""

from __future__ import annotations

import torch

# Fewer pixels a side, and the margin outweighs what halving saves; fewer channels, and
# interleaving does.
HALVED_SIZE = 8
HALVED_CHANNELS = 32


def is_worth_halving(x: torch.Tensor) -> bool:
    """Whether to convolve images (N,C,H,W) before they are doubled; measured."""
    return x.shape[1] >= HALVED_CHANNELS and min(x.shape[2:]) >= HALVED_SIZE


def half_resolution_weight(weight: torch.Tensor) -> torch.Tensor:
    """Sum the taps of a 3x3 kernel that see the same pixel of a doubled image.

    In each direction, an even pixel of the doubled image sees one pixel before its own
    and then its own twice, an odd one its own twice and then the one after it.

    Parameters
    ----------
    weight
        Shape (O,C,3,3).

    Returns
    -------
    torch.Tensor
        Shape (4*O,C,2,2): for even and odd columns, each for even and odd rows.
    """
    rows = _summed_taps(weight, 2)  # (2,O,C,2,3)
    return _summed_taps(rows, 4).flatten(0, 2)


def _summed_taps(weight: torch.Tensor, dim: int) -> torch.Tensor:
    """Return two taps instead of three along `dim`, of even pixels and of odd ones."""
    first, second, third = weight.unbind(dim)
    even = torch.stack([first, second + third], dim)
    odd = torch.stack([first + second, third], dim)
    return torch.stack([even, odd])


def interleave(x: torch.Tensor) -> torch.Tensor:
    """Interleave what `half_resolution_weight` gives for images padded by 1.

    (N,4*O,H+1,W+1) to (N,O,2*H,2*W), in the memory layout of `x`.
    """
    last = not x.is_contiguous()
    height, width = x.shape[2] - 1, x.shape[3] - 1
    rows, columns = (1, 2) if last else (2, 3)
    even, odd = (
        [part.permute(0, 2, 3, 1) if last else part for part in half.chunk(2, dim=1)]
        for half in x.chunk(2, dim=1)
    )

    def joined(row: int) -> torch.Tensor:
        """Interleave the columns of the even or odd rows."""
        parts = [
            half[row].narrow(rows, row, height).narrow(columns, column, width)
            for column, half in enumerate((even, odd))
        ]
        return torch.stack(parts, columns + 1)

    both = torch.stack([joined(0), joined(1)], rows + 1)
    both = both.flatten(rows, rows + 1).flatten(columns, columns + 1)
    return both.permute(0, 3, 1, 2) if last else both
