"""From noise to images: the loop of ancestral and of DDIM sampling.

Ho et al. 2020, algorithm 2; Song et al. 2021 (DDIM), equation (12).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch

from noisesteps.config import Sampling
from noisesteps.devices import (
    DTYPES,
    compile_for_device,
    memory_format,
    synchronize,
    warn_if_slow,
)
from noisesteps.diffusion import Diffusion
from noisesteps.errors import StageError
from noisesteps.models import UNet
from noisesteps.sampling.noise import ImageNoise
from noisesteps.sampling.samples import Partial, Samples
from noisesteps.seeds import Key
from noisesteps.signals import Interrupted, StopRequest
from noisesteps.training.progress import peak_memory

logger = logging.getLogger("noisesteps.sampling")

Progress = Callable[[int, int], None]
# Noise in images, and the step of the process they are at, to the noise predicted.
Predict = Callable[[torch.Tensor, int], torch.Tensor]


def generate(
    network: UNet,
    diffusion: Diffusion,
    sampling: Sampling,
    *,
    images: int,
    key: tuple[Key, ...],
    device: torch.device,
    first: int = 0,
    progress: Progress | None = None,
    partial: Partial | None = None,
) -> Samples:
    """Generate images number `first` to `first + images - 1` of a model.

    An image depends on its number and the key alone: not on `images`, `first` or
    `sampling.batch_size`. To the last bit this holds as far as the convolutions and
    normalisations sum in one order whatever the batch; some kernels do not, and then
    an image can differ by rounding, that is by one grey level in few pixels. A batch
    that does not fit into the device's memory can therefore be halved, and is.

    Parameters
    ----------
    network
        A trained U-Net; moved to `device`, in the layout that is fastest there.
    diffusion
        The process that it was trained with.
    sampling
        `batch_size`, `method`, `sampling_steps`, `precision` and `compile`; its
        `images` is ignored in favour of `images`.
    images
        How many images to generate.
    key
        `(seed, "sample", dataset, schedule, steps)`; image i draws its noise from
        `torch_generator(*key, i)`.
    device
        Where the network runs.
    first
        Number of the first image.
    progress
        Called with (images done, images in all) after each batch. None: a bar on a
        terminal, log lines elsewhere.
    partial
        Where finished batches are kept, and gone on from: after SIGTERM or SIGINT all
        of them. None: nothing is kept, and signals do what they did before.

    Returns
    -------
    Samples
        The images and the time each batch took.

    Raises
    ------
    ConfigError
        If `sampling.sampling_steps` exceeds T.
    Interrupted
        After SIGTERM or SIGINT, with `partial`; the batch under way is lost.
    StageError
        If the network's predictions are not finite, the device's memory too small for
        one image, or `partial` cannot be written.
    """
    process = diffusion.respaced(sampling.sampling_steps or diffusion.steps)
    warn_if_slow(device, sampling.precision, "sampling.precision")
    layout = memory_format(device, DTYPES[sampling.precision], training=False)
    network.to(device=device, memory_format=layout)
    shape = (3, network.image_size, network.image_size)
    found = partial.load() if partial else None
    found = found or Samples.none(shape, sampling.batch_size)
    with (
        torch.inference_mode(),
        _reporter(images, progress) as report,
        _autocast(device, sampling),
        StopRequest() if partial else nullcontext() as stop,
    ):
        predict = _predictor(network, process, sampling, images, device)
        while (start := len(found.images)) < images:
            count = min(found.batch_size, images - start)
            began = time.perf_counter()
            rows = range(first + start, first + start + count)
            noise = ImageNoise(key, rows, shape, device, layout)
            try:
                x = _denoise(predict, process, sampling.method, noise, stop)
                if x is None:
                    raise _interrupted(found, images, partial, stop)
                batch = to_uint8(x).cpu().numpy()
            except torch.OutOfMemoryError:
                found = replace(found, batch_size=_halved(count, device))
                continue
            synchronize(device)
            seconds = time.perf_counter() - began
            found = found.more(batch, seconds, peak_memory(device))
            report(start + count, images)
            if partial and partial.is_due:
                partial.save(found)
    return found


def _interrupted(
    found: Samples, images: int, partial: Partial, stop: StopRequest
) -> Interrupted:
    """Keep the batches that are finished, and say how to go on."""
    if len(found.images):
        partial.save(found)
    return Interrupted(
        f"Sampling was stopped by {stop.name} after {len(found.images)} of {images} "
        "images; run the same command again and it goes on from there.",
        stop.number,
    )


def _halved(size: int, device: torch.device) -> int:
    """Return the size of the next try after a batch that did not fit."""
    if size == 1:
        raise StageError(
            f"One image does not fit into the memory of {device}; free some, or choose "
            "another --device."
        )
    logger.warning(
        "sampling.batch_size: %d images do not fit into the memory of %s; going on "
        "with %d at a time",
        *(size, device, size // 2),
    )
    return size // 2


def _predictor(
    network: UNet,
    process: Diffusion,
    sampling: Sampling,
    images: int,
    device: torch.device,
) -> Predict:
    """Do once what does not change from step to step."""
    if sampling.compiles(images, process.steps):
        compile_for_device(network, "sampling.compile")
    elif device.type == "cpu":
        return network.frozen(process.timesteps, DTYPES[sampling.precision])
    with torch.autocast(device.type, enabled=False):
        embeddings = network.embed_timesteps(process.timesteps.to(device))
    return lambda x, t: network(x, embedding=embeddings[t : t + 1])


def _denoise(
    predict: Predict,
    process: Diffusion,
    method: str,
    noise: ImageNoise,
    stop: StopRequest | None,
) -> torch.Tensor | None:
    """Run the reverse process from x_T to x_0 in [-1, 1] for one batch.

    None if it was asked to stop on the way.
    """
    x = noise.draw()
    for t in reversed(range(process.steps)):
        if stop:
            return None
        predicted = predict(x, t)
        if method == "ddim":
            x = process.ddim_step(predicted, t, x)
        else:
            x = process.step(predicted, t, x, noise.draw() if t else None)
    if not torch.isfinite(x).all():
        raise StageError(
            "the network predicts values that are not finite numbers; set "
            "sampling.precision: fp32, or train the model again."
        )
    return x


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Turn [-1, 1] into 0 to 255, clamped and rounded to the nearest."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _autocast(device: torch.device, sampling: Sampling) -> AbstractContextManager:
    if sampling.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[sampling.precision])


@contextmanager
def _reporter(images: int, progress: Progress | None) -> Iterator[Progress]:
    """Yield what to call after each batch."""
    if progress is not None:
        yield progress
        return
    if not sys.stderr.isatty():
        yield lambda done, total: logger.info("sampled %d of %d images", done, total)
        return
    from tqdm import tqdm

    with tqdm(total=images, desc="sampling", unit="image", leave=False) as bar:
        yield lambda done, total: bar.update(done - bar.n)
