"""The Fréchet distance of some samples to cached statistics, beside torch-fidelity."""

from __future__ import annotations

import numpy as np
import torch
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from benchmarks.rows import Row, make_row
from benchmarks.settings import SEED, Settings
from benchmarks.timing import Work, alternate, compare
from noisesteps.evaluation import Statistics, frechet_distance
from noisesteps.seeds import numpy_generator

DIMENSIONS, SAMPLES, REFERENCE = 2048, 128, 8192
TOLERANCE = 1e-6  # relative


def measure(settings: Settings) -> list[Row]:
    """Time both from the samples' features to the distance, and compare its value."""
    samples, reference = features(DIMENSIONS, SAMPLES, REFERENCE)
    cached = Statistics.of(reference, "benchmark", "")
    theirs = {"mu": cached.mean, "sigma": cached.covariance}
    works = {
        "ours": Work(lambda: frechet_distance(samples, cached)),
        "peer": Work(lambda: torch_fidelity(samples, theirs)),
    }
    times = alternate(works, settings.rounds, settings.seconds)
    value = torch_fidelity(samples, theirs)
    difference = abs(frechet_distance(samples, cached) - value) / value
    same = difference <= TOLERANCE
    return [
        make_row(
            settings,
            "frechet",
            f"Fréchet distance, {SAMPLES} samples to statistics, {DIMENSIONS} features",
            "torch-fidelity",
            compare(times["ours"], times["peer"]),
            goal=100.0 if same else None,
            goal_text="≥ 100×, same to 1e-6",
            note=f"relative difference of the distances {difference:.1e}"
            + ("" if same else f", above {TOLERANCE:g}: NOT the same"),
        )
    ]


def features(
    dimensions: int, samples: int, reference: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return two float64 sets of correlated, non-negative features, as Inception's are.

    Shapes (samples, dimensions) and (reference, dimensions).
    """
    generator = numpy_generator(SEED, "benchmark", "features")
    scales = np.geomspace(1, 1e-2, dimensions)
    mixing = generator.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)

    def draw(count: int, shift: float) -> np.ndarray:
        latent = generator.normal(shift, 1, (count, dimensions)) * scales
        return np.maximum(latent @ mixing, 0)

    return draw(samples, 0.3), draw(reference, 0.0)


def torch_fidelity(samples: np.ndarray, reference: dict[str, np.ndarray]) -> float:
    """Return torch-fidelity's distance of features (N,D) to cached statistics."""
    statistics = fid_features_to_statistics(torch.from_numpy(samples))
    result = fid_statistics_to_metric(statistics, reference, verbose=False)
    return result[KEY_METRIC_FID]
