"""Ordinary augmentation: what a set of images can be enlarged by without a model."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

FLIP = 0.5  # probability
ROTATION = 15  # degrees, at most, to either side
SMALLEST_CROP = 0.8  # of the image's side


def augment(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return one version of an image: cropped, rotated and, by chance, mirrored.

    A square with `SMALLEST_CROP` of the side or more, wherever it lies, is turned about
    its centre by up to `ROTATION` degrees, enlarged to the old size and, with
    probability `FLIP`, mirrored left to right. One bicubic interpolation does all of
    it, since each further one would blur small images. Past the border the image's
    reflection is seen, so no corner is blank.

    Parameters
    ----------
    image
        uint8 (3, S, S), RGB.
    generator
        Draws the side, the place, the angle and the mirroring: five numbers.

    Returns
    -------
    numpy.ndarray
        uint8 (3, S, S).
    """
    size = image.shape[-1]
    scale = generator.uniform(SMALLEST_CROP, 1)
    room = (1 - scale) * size / 2
    right, down = generator.uniform(-room, room), generator.uniform(-room, room)
    angle = math.radians(generator.uniform(-ROTATION, ROTATION))
    mirror = -1 if generator.random() < FLIP else 1
    margin = _margin(size)
    borders = ((margin, margin), (margin, margin), (0, 0))
    padded = Image.fromarray(np.pad(image.transpose(1, 2, 0), borders, mode="reflect"))
    # Pillow's AFFINE maps a place of the output to the place of the input it shows.
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    half, centre = size / 2, margin + size / 2
    seen = (
        *(mirror * cos, -sin, centre + right - half * (mirror * cos - sin)),
        *(mirror * sin, cos, centre + down - half * (mirror * sin + cos)),
    )
    version = padded.transform(
        (size, size), Image.Transform.AFFINE, seen, Image.Resampling.BICUBIC
    )
    return np.ascontiguousarray(np.asarray(version).transpose(2, 0, 1))


def _margin(size: int) -> int:
    """Count the pixels that a turned square can look past the border.

    Two more are for the interpolation, which reads two pixels to every side.
    """
    turn = math.radians(ROTATION)
    return math.ceil(size * (math.cos(turn) + math.sin(turn) - 1) / 2) + 2
