"""The Fréchet distance between two sets of features."""

from __future__ import annotations

import numpy as np

from noisesteps.errors import StageError
from noisesteps.evaluation.statistics import Statistics, require_two


def frechet_distance(samples: np.ndarray | Statistics, reference: Statistics) -> float:
    r"""Return the squared Fréchet distance of two Gaussians fitted to features.

    .. math::
        D^2 = \|m_1 - m_2\|^2 + \mathrm{tr}(S_1) + \mathrm{tr}(S_2)
              - 2\,\mathrm{tr}\big((S_1 S_2)^{1/2}\big)

    with means m and covariances S (dissertation, section 3.3; Heusel et al. 2017).

    Any factor F with :math:`S_1 = F F^T` gives the last trace without a matrix root:
    the non-zero eigenvalues of :math:`S_1 S_2 = F F^T S_2` are those of the symmetric
    :math:`F^T S_2 F`, so the trace is the sum of their square roots. For n samples in
    D > n dimensions F is the D × n matrix of the centred features over √(n - 1): an
    n × n problem, and exact, where S₁ itself would be singular. Otherwise F comes from
    the eigenvectors of S₁.

    Parameters
    ----------
    samples
        Features (N, D), or their statistics.
    reference
        Statistics to measure the distance to.

    Returns
    -------
    float
        Never negative: what rounding leaves below zero is zero.

    Raises
    ------
    StageError
        If there are fewer than two samples, or if the two sides come from different
        extractors.
    """
    if isinstance(samples, Statistics):
        reference.require_extractor(samples.extractor, samples.digest)
        mean, factor = samples.mean, _root(samples.covariance)
    else:
        mean, factor = _mean_and_factor(samples)
    if mean.shape != reference.mean.shape:
        raise StageError(
            f"The features have {len(mean)} dimensions, but the reference "
            f"{len(reference.mean)}; run `noisesteps reference` again."
        )
    eigenvalues = np.linalg.eigvalsh(factor.T @ reference.covariance @ factor)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    traces = np.square(factor).sum() + np.trace(reference.covariance)
    distance = np.square(mean - reference.mean).sum() + traces - 2 * trace_of_root
    return max(float(distance), 0.0)


def _mean_and_factor(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of features (N, D), and F with F F^T their covariance."""
    require_two(features)
    features = np.asarray(features, np.float64)
    count, dimensions = features.shape
    mean = features.mean(axis=0)
    factor = (features - mean).T / np.sqrt(count - 1)
    return mean, factor if count < dimensions else _root(factor @ factor.T)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Return F (D, rank) with F F^T the covariance, null directions left out."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    rounding = len(covariance) * np.finfo(np.float64).eps * eigenvalues.max()
    kept = eigenvalues > rounding
    return vectors[:, kept] * np.sqrt(eigenvalues[kept])
