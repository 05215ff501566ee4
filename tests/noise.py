"""Normal noise to compute on."""

from __future__ import annotations

import torch


def drawn(*shape, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) + mean


def images(*shape, dtype=torch.bfloat16, **keywords):
    """Return noise in channels last."""
    return drawn(*shape, **keywords).to(dtype, memory_format=torch.channels_last)


def error(found, exact):
    """Return how far off numbers are, beside how large they are."""
    return ((found.double() - exact).square().mean() / exact.square().mean()).sqrt()
