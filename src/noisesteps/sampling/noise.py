"""One stream of noise for each image, whatever batch it is generated in."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from noisesteps.seeds import Key, torch_generator


class ImageNoise:
    """Standard normal noise for a batch, row i from the stream of its own image.

    The streams run on the CPU, so that every device gets the same noise.

    Parameters
    ----------
    key
        What the streams derive from; image i uses `torch_generator(*key, i)`.
    indices
        The images of the batch.
    shape
        Shape (C,H,W) of one image.
    device, memory_format
        Where the noise is needed, and in which layout.
    """

    def __init__(
        self,
        key: tuple[Key, ...],
        indices: Iterable[int],
        shape: tuple[int, int, int],
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        self._streams = [torch_generator(*key, index) for index in indices]
        self._shape = shape
        self._device = device
        self._memory_format = memory_format
        self._copied: torch.cuda.Event | None = None

    def draw(self) -> torch.Tensor:
        """Return the next float32 noise (N,C,H,W) of every image."""
        if self._copied:
            # No more than a step ahead of the device: noise would pile up.
            self._copied.synchronize()
        # From pinned memory the copy does not wait for the work queued on the device.
        pinned = self._device.type == "cuda"
        noise = torch.empty((len(self._streams), *self._shape), pin_memory=pinned)
        for row, stream in zip(noise, self._streams, strict=True):
            row.normal_(generator=stream)
        moved = noise.to(
            self._device, non_blocking=True, memory_format=self._memory_format
        )
        if pinned:
            self._copied = torch.cuda.current_stream(self._device).record_event()
        return moved
