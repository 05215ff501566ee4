"""How many operations a second the machine itself can do, and how many a network asks.

Measured in the same run as everything else, with the same threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.timing import Work, alternate, best
from noisesteps.devices import DTYPES
from noisesteps.seeds import torch_generator

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
# A convolution as U-Nets have them: images, channels, side of the image, kernel.
CONVOLUTION = {"cpu": (16, 128, 32, 3), "cuda": (16, 256, 64, 3)}


def measure(settings: Settings) -> list[Row]:
    """Return a row for each precision and operation; no peer, no goal."""
    rows = []
    for operation, flops in peaks(settings).items():
        kind, precision = operation
        rows.append(
            make_row(
                settings,
                f"peak-{kind}-{precision}",
                f"machine's peak, {kind}, {precision}",
                ours_s=_flops(settings)[kind] / flops,
                note=f"{flops / 1e9:,.0f} GFLOP/s",
            )
        )
    return rows


@functools.cache
def peaks(settings: Settings) -> dict[tuple[str, str], float]:
    """Return operations a second by (operation, precision): the best of the rounds."""
    works = {
        (kind, precision): Work(make(settings, DTYPES[precision]), device=settings.on)
        for kind, make in (("matmul", _matmul), ("convolution", _convolution))
        for precision in settings.precisions
    }
    times = alternate(works, settings.rounds, settings.seconds)
    flops = _flops(settings)
    return {name: flops[name[0]] / best(times[name]) for name in works}


def _flops(settings: Settings) -> dict[str, int]:
    side = SIDE[settings.on.type]
    images, channels, pixels, kernel = CONVOLUTION[settings.on.type]
    return {
        "matmul": 2 * side**3,
        "convolution": 2 * images * (channels * pixels * kernel) ** 2,
    }


def _matmul(settings: Settings, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    side = SIDE[settings.on.type]
    one, other = (_noise(settings, side, side).to(dtype) for _ in range(2))
    result = torch.empty_like(one)
    return lambda: torch.mm(one, other, out=result)


def _convolution(settings: Settings, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    images, channels, pixels, kernel = CONVOLUTION[settings.on.type]
    x = _noise(settings, images, channels, pixels, pixels)
    weight = _noise(settings, channels, channels, kernel, kernel)
    x, weight = (
        tensor.to(dtype, memory_format=torch.channels_last) for tensor in (x, weight)
    )

    def convolve() -> torch.Tensor:
        with torch.inference_mode():
            return F.conv2d(x, weight, padding=kernel // 2)

    return convolve


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
