"""How many operations a second the machine itself can do, and how many a network asks.

Measured in the same run as everything else, with the same threads.
"""

from __future__ import annotations

import functools
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import take_turns
from benchmarks.groups import Later
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.timing import Measured, Work, best
from noisesteps.devices import DTYPES
from noisesteps.seeds import torch_generator

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
# A convolution as U-Nets have them: images, channels, side of the image, kernel.
CONVOLUTION = {"cpu": (16, 128, 32, 3), "cuda": (16, 256, 64, 3)}


def measure(settings: Settings) -> list[Row]:
    """Return a row for each precision and operation; no peer, no goal."""
    found, flops = _measured(settings), peaks(settings)
    return [
        make_row(
            settings,
            f"peak-{kind}-{precision}",
            f"machine's peak, {kind}, {precision}",
            ours_s=best(took.seconds),
            ours_bytes=took.most_bytes,
            note=f"{flops[kind, precision] / 1e9:,.0f} GFLOP/s",
        )
        for (kind, precision), took in found.items()
    ]


def peaks(settings: Settings) -> dict[tuple[str, str], float]:
    """Return operations a second by (operation, precision): the best of the rounds."""
    flops = _flops(settings)
    return {
        (kind, precision): flops[kind] / best(took.seconds)
        for (kind, precision), took in _measured(settings).items()
    }


@functools.cache
def _measured(settings: Settings) -> dict[tuple[str, str], Measured]:
    sizes = {
        "matmul": SIDE[settings.on.type],
        "convolution": CONVOLUTION[settings.on.type],
    }
    makers = {
        (kind, precision): partial(Later("peak", kind), settings, precision, size)
        for kind, size in sizes.items()
        for precision in settings.precisions
    }
    return take_turns(settings, "peak", makers)


def _flops(settings: Settings) -> dict[str, int]:
    side = SIDE[settings.on.type]
    images, channels, pixels, kernel = CONVOLUTION[settings.on.type]
    return {
        "matmul": 2 * side**3,
        "convolution": 2 * images * (channels * pixels * kernel) ** 2,
    }


def matmul(settings: Settings, precision: str, side: int) -> Work:
    """Multiply two square matrices."""
    one, other = (_noise(settings, side, side).to(DTYPES[precision]) for _ in range(2))
    result = torch.empty_like(one)
    return Work(lambda: torch.mm(one, other, out=result), device=settings.on)


def convolution(
    settings: Settings, precision: str, size: tuple[int, int, int, int]
) -> Work:
    """Convolve images in channels last; `size` is as that of `CONVOLUTION`."""
    images, channels, pixels, kernel = size
    x = _noise(settings, images, channels, pixels, pixels)
    weight = _noise(settings, channels, channels, kernel, kernel)
    x, weight = (
        tensor.to(DTYPES[precision], memory_format=torch.channels_last)
        for tensor in (x, weight)
    )

    def convolve() -> torch.Tensor:
        with torch.inference_mode():
            return F.conv2d(x, weight, padding=kernel // 2)

    return Work(convolve, device=settings.on)


def _noise(settings: Settings, *shape: int) -> torch.Tensor:
    generator = torch_generator("benchmark", "peak")
    return torch.randn(shape, generator=generator).to(settings.on)


def operations(settings: Settings, peer: str, batch: int, training: bool) -> int:
    """Count the operations of a network, forward, and backward where it trains.

    Ours is diffusers' network in all shapes, so one count serves both: that of its
    definition, whatever ours saves in upsampling.

    Parameters
    ----------
    peer
        `lucidrains`, or anything else for ours and diffusers'.
    """
    from benchmarks import peers  # whose libraries take seconds to import

    meta = torch.device("meta")
    network: nn.Module
    if peer == "lucidrains":
        network = peers.lucidrains_network(settings, "meta")
    else:
        network = peers.UNet2DModel(**settings.network().diffusers_config()).to(meta)
    x = torch.empty(batch, 3, settings.image_size, settings.image_size, device=meta)
    t = torch.zeros(batch, dtype=torch.int64, device=meta)
    with FlopCounterMode(display=False) as counter:
        result = network(x, t)
        if training:
            getattr(result, "sample", result).sum().backward()
    return counter.get_total_flops()
