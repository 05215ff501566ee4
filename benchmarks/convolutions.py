"""The convolutions of our network and nothing else.

A bound on programs that call PyTorch's convolutions as they are, with no weights that
were reordered beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.settings import Settings
from benchmarks.timing import Work
from noisesteps.devices import DTYPES, synchronize

LAYOUTS = (torch.contiguous_format, torch.channels_last)
TRIALS = 5  # of each convolution in each layout, before the clock runs


def convolutions(
    settings: Settings, precision: str, *, batch: int, training: bool
) -> Work:
    """All convolutions of one step, each in the layout that it is faster in.

    Weights are of the precision already, no gradient is added to another, and images
    come in the layout that they are wanted in: all of that costs a program time.
    """
    calls = [
        _fastest(
            settings.on,
            # The network's input wants no gradient.
            partial(_there_and_back, to_input=index > 0) if training else _there,
            layer,
            shape,
            DTYPES[precision],
        )
        for index, (layer, shape) in enumerate(layers(settings, batch))
    ]

    def step() -> None:
        for call in calls:
            call()

    return Work(step, device=settings.on)


def layers(settings: Settings, batch: int) -> list[tuple[nn.Conv2d, torch.Size]]:
    """Return the network's convolutions in their order, with their inputs' shapes."""
    network = settings.network().to("meta")
    found: list[tuple[nn.Conv2d, torch.Size]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda layer, inputs: found.append((layer, inputs[0].shape))
            )
    size = settings.image_size
    network(torch.empty(batch, 3, size, size, device="meta"), 0)
    return found


def _fastest(
    device: torch.device,
    make: Callable[[nn.Conv2d, torch.Tensor], Callable[[], object]],
    layer: nn.Conv2d,
    shape: torch.Size,
    dtype: torch.dtype,
) -> Callable[[], object]:
    """Return what `make` makes of a convolution and its input in the faster layout."""
    calls = []
    for layout in LAYOUTS:
        own = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
        ).to(device, dtype, memory_format=layout)
        x = torch.randn(shape, device=device).to(dtype, memory_format=layout)
        calls.append(make(own, x))
    return min(calls, key=lambda call: _seconds(call, device))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of a few trials, after one that is not counted.

    A `Work` collects garbage before each turn, which takes longer than a convolution.
    """
    call()
    times = []
    for _ in range(TRIALS):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _there(layer: nn.Conv2d, x: torch.Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: layer(x))


def _there_and_back(
    layer: nn.Conv2d, x: torch.Tensor, *, to_input: bool
) -> Callable[[], object]:
    x.requires_grad_(to_input)
    gradient = torch.randn_like(layer(x))

    def call() -> None:
        for leaf in (x, *layer.parameters()):
            leaf.grad = None
        layer(x).backward(gradient)

    return call
