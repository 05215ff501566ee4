"""The convolutions of our network and nothing else.

A bound on programs that call PyTorch's convolutions as they are, with no weights that
were reordered beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
        # The network's input wants no gradient.
        _fastest(settings, layer, shape, precision, index > 0 if training else None)
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
    settings: Settings,
    layer: nn.Conv2d,
    shape: torch.Size,
    precision: str,
    to_input: bool | None,
) -> Callable[[], object]:
    """Return the call of a convolution in the faster layout.

    Parameters
    ----------
    to_input
        Whether the gradient goes on to the input; None computes no gradients.
    """
    calls = [
        _call(settings.on, layer, shape, DTYPES[precision], layout, to_input)
        for layout in LAYOUTS
    ]
    return min(calls, key=lambda call: _seconds(call, settings.on))


def _call(
    device: torch.device,
    layer: nn.Conv2d,
    shape: torch.Size,
    dtype: torch.dtype,
    layout: torch.memory_format,
    to_input: bool | None,
) -> Callable[[], object]:
    own = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
    ).to(device, dtype, memory_format=layout)
    x = torch.randn(shape, device=device).to(dtype, memory_format=layout)
    if to_input is None:
        return torch.no_grad()(lambda: own(x))
    x.requires_grad_(to_input)
    gradient = torch.randn_like(own(x))

    def there_and_back() -> None:
        for leaf in (x, *own.parameters()):
            leaf.grad = None
        own(x).backward(gradient)

    return there_and_back


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of a few trials, after one that is not counted."""
    call()
    times = []
    for _ in range(TRIALS):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
