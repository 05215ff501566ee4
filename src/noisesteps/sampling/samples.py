"""Generated images, and those of a sampling that is not over yet, on the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisesteps.training import checkpoint as checkpoints

# A process that is killed loses at most so much finished work, and a batch.
SECONDS_BETWEEN = 30.0


@dataclass(frozen=True)
class Samples:
    """Generated images and what they cost.

    Attributes
    ----------
    images
        uint8 (N,3,H,W), RGB.
    batch_seconds
        Wall time of each batch, the device's work included. What ran out of memory, or
        was stopped, is not counted.
    batch_size
        Images in a batch: `sampling.batch_size`, or the last half of it that fitted.
    peak_memory_bytes
        Allocated on CUDA, or the process's resident memory elsewhere.
    """

    images: np.ndarray
    batch_seconds: list[float]
    batch_size: int
    peak_memory_bytes: int

    @classmethod
    def none(cls, shape: tuple[int, int, int], batch_size: int) -> Samples:
        """Return no images of `shape` (C,H,W)."""
        return cls(np.empty((0, *shape), np.uint8), [], batch_size, 0)

    def more(self, batch: np.ndarray, seconds: float, memory_bytes: int) -> Samples:
        """Return these images and one more batch, uint8 (N,C,H,W)."""
        return Samples(
            np.concatenate([self.images, batch]),
            [*self.batch_seconds, seconds],
            self.batch_size,
            max(self.peak_memory_bytes, memory_bytes),
        )


class Partial:
    """The finished batches of one sampling, in a file of the form of a checkpoint.

    Parameters
    ----------
    path
        The file; no rule of the workflow declares it, as with checkpoints.
    origin
        Everything that the images depend on, as JSON values by name. Images of another
        origin are not used.
    """

    def __init__(self, path: str | Path, origin: Mapping[str, Any]):
        self.path = Path(path)
        self.origin = origin
        self._saved = time.monotonic()

    def load(self) -> Samples | None:
        """Return what an earlier attempt finished, if this one can go on from it."""
        found = checkpoints.find(self.path, self.origin, "sampling")
        if found is None:
            return None
        return Samples(found.tensors["images"].numpy(), **found.record["cost"])

    def save(self, samples: Samples) -> None:
        """Replace the file by one with these batches.

        Raises
        ------
        StageError
            If it cannot be written, for example because the disk is full.
        """
        cost = {
            "batch_seconds": samples.batch_seconds,
            "batch_size": samples.batch_size,
            "peak_memory_bytes": samples.peak_memory_bytes,
        }
        tensors = {"images": torch.from_numpy(samples.images)}
        checkpoints.save(self.path, tensors, {"origin": self.origin, "cost": cost})
        self._saved = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last file is so old that finished batches should be saved."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN

    def remove(self) -> None:
        """Remove the file, once all images are where they belong."""
        self.path.unlink(missing_ok=True)
