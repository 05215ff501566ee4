"""Copies: which generated images are training images, give or take a little.

A model that memorises makes them, and no other score here shows it: a training image
is as real as an image can be. So each generated image's nearest training image is
looked up, and the share of near-copies is compared with that among real images, which
the model never saw. A near-copy is an image much nearer to one training image than to
the next ones (`nearest_relative`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noisesteps.errors import StageError
from noisesteps.evaluation.distances import squared_distances
from noisesteps.uncertainty import exact_interval

COPY_RATIO = 0.5  # of the distance to the next nearest (`nearest_relative`)
QUERIES = 512  # at a time


@dataclass(frozen=True)
class CopyShare:
    """How many images are near-copies.

    Attributes
    ----------
    value
        Share of the images, in [0, 1].
    low, high
        Clopper and Pearson's 95 % interval of the share among all images that the
        model would generate; it holds for any number of images.
    copies, images
        The counts that the share is made of.
    """

    value: float
    low: float
    high: float
    copies: int
    images: int


def nearest_relative(
    queries: np.ndarray,
    references: np.ndarray,
    *,
    neighbours: int = 50,
    chunk: int = 256,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find each query's nearest reference, and how far apart from the next ones it is.

    A flat or blurred image is near to *every* image. So the distance is divided by
    the mean distance of the `neighbours` next nearest, after Carlini et al. (2023,
    "Extracting training data from diffusion models", section 5.1), who call an image
    extracted where the quotient is below `COPY_RATIO`.

    Measured on real images of 32 × 32 (2,000 references): in pixels, `COPY_RATIO`
    found all copies with noise up to 20 grey levels, 10 % brighter or blurred by half
    a pixel; but 0 to 40 % of those shifted by one pixel, and mirrored ones only where
    the mirrored queries were asked for too (see `nearer`). In features of
    EfficientNet-Lite0 it found mirrored and shifted copies (88 % or more) and not
    those with noise. Neither took blurred, noisy or flat images for copies, of which
    a threshold on the distance itself took up to 86 %. So look in both spaces.

    Parameters
    ----------
    queries
        (N, ...): features (N, D) or images (N, C, H, W).
    references
        (M, ...) of the same shape behind the first axis; a memory map is read by
        chunks.
    neighbours
        How many of the next nearest references; where there are fewer, all.
    chunk
        References at a time. In memory are 512 queries and one chunk in float64: for
        images of 128 × 128 pixels 0.3 GB. For uint8 the result does not depend on it,
        since whole numbers do not round.

    Returns
    -------
    indices
        int64 (N,): the nearest reference; for uint8 the first of several.
    distances
        float64 (N,): root of the summed squares, in the units of the values.
    relative
        float64 (N,): the quotient, from 0 (an exact copy) to 1.

    Raises
    ------
    StageError
        If there are fewer than two references.
    ValueError
        If the shapes differ.
    """
    if len(references) < 2:
        raise StageError(
            "Near-copies are told by their distance to 2 training images or more, not "
            f"{len(references)}; keep more images."
        )
    others = min(neighbours, len(references) - 1)
    indices, distances, squares = _search(queries, references, chunk, others)
    around = np.sqrt(np.sort(squares, axis=1)[:, 1:]).mean(axis=1)
    relative = np.divide(distances, around, np.zeros(len(distances)), where=around > 0)
    return indices, distances, relative


def nearer(
    first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """Keep for each query the nearer of two answers, the first if equal.

    Asked for the images and for their mirror images it finds mirrored copies too, which
    a model makes that saw its training images mirrored. Do the same to the real images
    that the share is compared with.
    """
    closer = second[1] < first[1]
    return tuple(
        np.where(closer, other, one) for one, other in zip(first, second, strict=True)
    )


def near_copies(relative: np.ndarray) -> CopyShare:
    """Return the share of images whose relative distance is below `COPY_RATIO`.

    Assumes that the images are independent draws of one model.

    Parameters
    ----------
    relative
        What `nearest_relative` found for the images, (N,); at 0 is an exact copy.

    Raises
    ------
    StageError
        If there is no image.
    """
    if not len(relative):
        raise StageError("There is no generated image to look for copies among.")
    copies, count = int(np.sum(relative < COPY_RATIO)), len(relative)
    low, high = exact_interval(copies, count)
    return CopyShare(copies / count, low, high, copies, count)


def _search(
    queries: np.ndarray, references: np.ndarray, chunk: int, others: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indices and distances, and the squares (N, 1 + others) of the nearest."""
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"queries are {queries.shape[1:]}, references {references.shape[1:]}"
        )
    indices = np.zeros(len(queries), np.int64)
    distances = np.zeros(len(queries))
    squares = np.zeros((len(queries), 1 + others))
    for start in range(0, len(queries), QUERIES):
        block = slice(start, start + QUERIES)
        rows = _rows(queries[block])
        indices[block], squares[block] = _search_block(rows, references, chunk, others)
        distances[block] = _distances(rows, references, indices[block])
    return indices, distances, squares


def _search_block(
    rows: np.ndarray, references: np.ndarray, chunk: int, others: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest and the smallest squares, of rows (N, D)."""
    indices = np.zeros(len(rows), np.int64)
    smallest = np.full((len(rows), 1 + others), np.inf)
    for start in range(0, len(references), chunk):
        squares = squared_distances(rows, _rows(references[start : start + chunk]))
        closest = squares.argmin(axis=1)
        found = np.take_along_axis(squares, closest[:, None], axis=1)[:, 0]
        indices = np.where(found < smallest.min(axis=1), start + closest, indices)
        smallest = np.partition(np.hstack([smallest, squares]), others)[:, : others + 1]
    return indices, smallest


def _rows(values: np.ndarray) -> np.ndarray:
    return np.reshape(values, (len(values), -1)).astype(np.float64)


def _distances(
    rows: np.ndarray, references: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """Return the distance of each row to its reference, by their difference.

    The product form rounds where values are not whole: a copy would be near zero.
    """
    return np.array(
        [
            np.linalg.norm(row - _rows(references[index : index + 1])[0])
            for row, index in zip(rows, indices, strict=True)
        ],
        np.float64,
    )
