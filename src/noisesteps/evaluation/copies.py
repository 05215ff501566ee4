"""Copies: which generated images are training images, give or take a little.

A model that memorises makes them, and no other score here shows it: a training image
is as real as an image can be. So each generated image's nearest training image is
looked up, and counted as a near-copy if it is nearer than real images, which the model
never saw, almost ever are to a training image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from noisesteps.errors import StageError
from noisesteps.evaluation.distances import squared_distances

REAL_SHARE = 0.01
QUERIES = 512  # at a time


@dataclass(frozen=True)
class CopyThreshold:
    """How near a real image that was held out comes to a training image.

    Attributes
    ----------
    distance
        Below it lie `expected` of the real images that are no duplicates; None where
        there are none.
    expected
        The share of further real images that is expected below `distance`: 0.01, or
        1 / (images + 1) where fewer than 99 images leave nothing lower to choose.
    duplicates
        How many held-out images equal a training image (distance 0). They are left
        out: the archive's own copies would hide the model's.
    images
        How many real images `distance` is made of.
    """

    distance: float | None
    expected: float | None
    duplicates: int
    images: int


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


def nearest(
    queries: np.ndarray, references: np.ndarray, *, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's nearest reference in Euclidean distance.

    Exact for uint8, whatever `chunk` is: whole numbers do not round in float64. In
    pixels an image is near its copy with noise, a changed brightness or a small
    defect, but not near its mirror image nor its copy shifted by a few pixels. Since
    training mirrors images, ask for the mirrored queries too and keep the `nearer`.
    A flat image is near to much: pixels alone prove no copy.

    Parameters
    ----------
    queries
        (N, ...): features (N, D) or images (N, C, H, W).
    references
        (M, ...) of the same shape behind the first axis; a memory map is read by
        chunks.
    chunk
        References at a time. In memory are 512 queries and one chunk in float64: for
        images of 128 × 128 pixels 0.3 GB.

    Returns
    -------
    indices
        int64 (N,): the nearest reference; for uint8 the first of several.
    distances
        float64 (N,): root of the summed squares, in the units of the values.

    Raises
    ------
    StageError
        If there is no reference.
    ValueError
        If the shapes differ.
    """
    if not len(references):
        raise StageError("There is no training image to look for copies of.")
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"queries are {queries.shape[1:]}, references {references.shape[1:]}"
        )
    blocks = [
        _nearest(_rows(queries[start : start + QUERIES]), references, chunk)
        for start in range(0, len(queries), QUERIES)
    ]
    indices = np.concatenate([np.zeros(0, np.int64)] + [block[0] for block in blocks])
    return indices, np.concatenate([np.zeros(0)] + [block[1] for block in blocks])


def _nearest(
    rows: np.ndarray, references: np.ndarray, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest reference of each row (N, D), float64."""
    indices = np.zeros(len(rows), np.int64)
    smallest = np.full(len(rows), np.inf)
    for start in range(0, len(references), chunk):
        squares = squared_distances(rows, _rows(references[start : start + chunk]))
        closest = squares.argmin(axis=1)
        found = np.take_along_axis(squares, closest[:, None], axis=1)[:, 0]
        better = found < smallest
        indices[better] = start + closest[better]
        smallest[better] = found[better]
    return indices, _distances(rows, references, indices)


def nearer(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Keep for each query the nearer of two answers of `nearest`, the first if equal.

    `nearer(nearest(images, training), nearest(images[..., ::-1], training))` finds
    mirrored copies too. Do the same to the real images that set the threshold.
    """
    closer = second[1] < first[1]
    return (
        np.where(closer, second[0], first[0]),
        np.where(closer, second[1], first[1]),
    )


def copy_threshold(
    real_distances: np.ndarray, duplicates: np.ndarray | None = None
) -> CopyThreshold:
    """Choose the distance below which an image counts as a near-copy.

    It is the 1 % quantile of the distances of real images that were held out to their
    nearest training image, estimated such that 1 % of *further* real images are
    expected below it. A model without memory, as good as the data, has about that
    share of "copies".

    Assumes that held-out and training images are drawn alike: near-duplicates between
    them (frames of one film, editions of one picture) lower the threshold.

    Parameters
    ----------
    real_distances
        What `nearest` found for held-out images, (n,).
    duplicates
        bool (n,): which of them equal a training image; by default those at distance
        0. Pass `pixel_distances == 0` with distances of features: a network rounds, so
        that features of equal images may differ a little.
    """
    real_distances = np.asarray(real_distances, np.float64)
    if duplicates is None:
        duplicates = real_distances == 0
    distinct = real_distances[~duplicates]
    count = int(np.sum(duplicates))
    if not len(distinct):
        return CopyThreshold(None, None, count, 0)
    # Weibull's plotting position: the k-th smallest of n has k / (n + 1) of further
    # draws below it, whatever the distribution.
    distance = np.quantile(distinct, REAL_SHARE, method="weibull")
    expected = max(REAL_SHARE, 1 / (len(distinct) + 1))
    return CopyThreshold(float(distance), expected, count, len(distinct))


def near_copies(distances: np.ndarray, threshold: float) -> CopyShare:
    """Return the share of images nearer to a training image than the threshold.

    Assumes that the images are independent draws of one model.

    Parameters
    ----------
    distances
        What `nearest` found for generated images, (N,).
    threshold
        `CopyThreshold.distance`. A distance of 0 is a copy whatever it is.

    Raises
    ------
    StageError
        If there is no image.
    """
    distances = np.asarray(distances)
    if not len(distances):
        raise StageError("There is no generated image to look for copies among.")
    copies = int(((distances < threshold) | (distances == 0)).sum())
    test = stats.binomtest(copies, len(distances))
    ends = test.proportion_ci(0.95, method="exact")
    share = copies / len(distances)
    return CopyShare(share, float(ends.low), float(ends.high), copies, len(distances))


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
