"""Euclidean distances between the rows of two arrays."""

from __future__ import annotations

import numpy as np


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return squared distances (N, M) of rows (N, D) and (M, D), as one product.

    By |x|² + |y|² - 2 x·y, in the dtype of the rows: exact for whole numbers in
    float64, otherwise off by rounding relative to |x|² + |y|². Never negative.
    """
    distances = first @ second.T
    distances *= -2
    distances += np.einsum("nd,nd->n", first, first)[:, None]
    distances += np.einsum("nd,nd->n", second, second)
    return np.maximum(distances, 0, out=distances)
