"""The layers of our network and nothing else: what a program could come to.

Two bounds on programs that do one layer after the other: one does the convolutions
alone, the other the normalisations, the attention and the optimiser's step too. Each
layer is done in the fastest of a few ways: either layout of memory, in channels last by
our own kernels where there are any, and, without gradients, as the sampler prepares it.
The rest of a step takes no time: joining images, adding them after the convolutions,
the time embedding, converting weights, adding gradients to one another, the loss, the
noise.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from benchmarks.settings import GRADIENT_CLIP, LEARNING_RATE, Settings
from benchmarks.timing import Work
from noisesteps.devices import DTYPES, synchronize
from noisesteps.models import prepared
from noisesteps.models.blocks import Attention, Upsample
from noisesteps.models.convolution import convolve
from noisesteps.models.fused import normalise
from noisesteps.training.optimizer import Adam

CONVOLUTIONS = (nn.Conv2d, Upsample)
LAYERS = (*CONVOLUTIONS, nn.GroupNorm, Attention)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
TRIALS = 5  # of each layer in each way, before the clock runs

Call = Callable[[], object]


@dataclass(frozen=True)
class Layer:
    """A layer of the network, where it stands.

    Attributes
    ----------
    module
        The layer itself.
    shape
        That of its input.
    first
        Whether its input is the network's, which wants no gradient.
    activates
        Whether SiLU follows, as after every normalisation but those of attention.
    """

    module: nn.Module
    shape: torch.Size
    first: bool = False
    activates: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        match self.module:
            case nn.Conv2d():
                return convolve(self.module, x)
            case nn.GroupNorm():
                return normalise(self.module, x, activates=self.activates)
            case Attention():
                return x + self.module.mix(x)  # its normalisation is a layer of its own
        return self.module(x)


class Inputs:
    """Images of normal noise, the same for all layers that want the same kind.

    In a network, what a layer is given was just written, and is in the cache.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self._found: dict[tuple, torch.Tensor] = {}

    def of(self, layer: Layer, layout: torch.memory_format) -> torch.Tensor:
        """Return the layer's input in a layout."""
        key = (layer.shape, layout)
        if key not in self._found:
            noise = torch.randn(layer.shape, device=self.device)
            self._found[key] = noise.to(self.dtype, memory_format=layout)
        return self._found[key]


def convolutions(
    settings: Settings, precision: str, *, batch: int, training: bool
) -> Work:
    """All convolutions of one step, each in the way that is fastest here."""
    calls = _calls(settings, DTYPES[precision], CONVOLUTIONS, batch, training)
    return Work(partial(_do, calls), device=settings.on)


def layers(settings: Settings, precision: str, *, batch: int, training: bool) -> Work:
    """Them, the normalisations with their activation, attention, and the optimiser."""
    calls = _calls(settings, DTYPES[precision], LAYERS, batch, training)
    if training:
        calls.append(_optimiser(settings))
    return Work(partial(_do, calls), device=settings.on)


def _do(calls: list[Call]) -> None:
    for call in calls:
        call()


def _calls(
    settings: Settings,
    dtype: torch.dtype,
    kinds: tuple[type[nn.Module], ...],
    batch: int,
    training: bool,
) -> list[Call]:
    ways = _training_ways if training else _forward_ways
    inputs = Inputs(settings.on, dtype)
    return [
        min(ways(layer, inputs), key=partial(_seconds, device=settings.on))
        for layer in found(settings, kinds, batch)
    ]


def found(
    settings: Settings, kinds: tuple[type[nn.Module], ...], batch: int
) -> list[Layer]:
    """Return the network's layers of some kinds, in the order they are called in."""
    network, shapes = settings.network(), settings.network().to("meta")
    ours = dict(network.named_modules())
    result: list[Layer] = []

    def note(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        layer = ours[name]
        activates = isinstance(layer, nn.GroupNorm) and not name.endswith("group_norm")
        result.append(Layer(layer, inputs[0].shape, name == "conv_in", activates))

    for name, module in shapes.named_modules():
        inside = isinstance(ours.get(name.rpartition(".")[0]), Upsample)
        if isinstance(module, kinds) and not inside:
            module.register_forward_pre_hook(partial(note, name))
    size = settings.image_size
    shapes(torch.empty(batch, 3, size, size, device="meta"), 0)
    return result


def _forward_ways(layer: Layer, inputs: Inputs) -> Iterator[Call]:
    """Yield a layer without gradients: in both layouts, and as a sampler prepares it.

    Weights are of the precision already, and images in the layout that is wanted.
    """
    ways = [(layout, _placed(layer, inputs, layout)) for layout in LAYOUTS]
    if inputs.device.type == "cpu":
        ways.append((torch.channels_last, _frozen(layer, inputs.dtype)))
    for layout, way in ways:
        yield torch.inference_mode()(partial(way, inputs.of(layer, layout)))


def _training_ways(layer: Layer, inputs: Inputs) -> Iterator[Call]:
    """Yield a layer and its gradients in both layouts."""
    for layout in LAYOUTS:
        way = _placed(layer, inputs, layout)
        x = inputs.of(layer, layout).requires_grad_(not layer.first)
        leaves = (x, *way.module.parameters())
        yield partial(_train, way, x, leaves, torch.randn_like(way(x)))


def _train(
    way: Layer,
    x: torch.Tensor,
    leaves: tuple[torch.Tensor, ...],
    gradient: torch.Tensor,
) -> None:
    for leaf in leaves:
        leaf.grad = None
    way(x).backward(gradient)


def _placed(layer: Layer, inputs: Inputs, layout: torch.memory_format) -> Layer:
    module = copy.deepcopy(layer.module).to(inputs.device)
    # A normalisation's weights stay float32 in a program; CUDA's kernel has one dtype.
    if inputs.device.type == "cuda" or not isinstance(module, nn.GroupNorm):
        module.to(inputs.dtype, memory_format=layout)
    return replace(layer, module=module)


@torch.inference_mode()
def _frozen(layer: Layer, dtype: torch.dtype) -> Callable[[torch.Tensor], object]:
    match layer.module:
        case Attention():
            attention = prepared.SelfAttention(layer.module, dtype)
            attention.norm = nn.Identity()
            return attention
        case Upsample():
            return prepared.Upsampling(layer.module, dtype)
        case nn.GroupNorm():
            return prepared.Normalisation(layer.module, activates=layer.activates)
        case nn.Conv2d(kernel_size=(1, 1)):
            return prepared.Shortcut(layer.module, dtype)
        case _:
            return prepared.Convolution(layer.module, dtype)


def _optimiser(settings: Settings) -> Call:
    """Clip the gradients, where their norm asks for it, and take Adam's step."""
    network = settings.network().to(settings.on)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-5)  # no need to clip them
    optimizer = Adam(network, LEARNING_RATE)

    def call() -> None:
        optimizer.clip(GRADIENT_CLIP)
        optimizer.step()

    return call


def _seconds(call: Call, device: torch.device) -> float:
    """Return the shortest of a few trials, after one that is not counted.

    A `Work` collects garbage before each turn, which takes longer than a layer.
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
