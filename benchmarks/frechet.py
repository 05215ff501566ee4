"""The Fréchet distance of some samples to cached statistics, beside torch-fidelity."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.contestants import as_a_stage, take_turns
from benchmarks.groups import Later
from benchmarks.rows import Row, make_row
from benchmarks.settings import SEED, Settings
from benchmarks.timing import Work
from noisesteps.evaluation import Statistics, frechet_distance
from noisesteps.seeds import numpy_generator

DIMENSIONS, SAMPLES, REFERENCE = 2048, 128, 8192
TOLERANCE = 1e-6  # relative


def measure(settings: Settings) -> list[Row]:
    """Time both from the samples' features to the distance, and compare its value."""
    found = take_turns(
        settings,
        "frechet",
        {
            "ours": partial(as_a_stage, Later("frechet", "ours")),
            "torch-fidelity": Later("frechet", "peer"),
        },
    )
    value = peer().call()
    difference = abs(ours().call() - value) / value
    same = difference <= TOLERANCE
    return [
        make_row(
            settings,
            "frechet",
            f"Fréchet distance, {SAMPLES} samples to statistics, {DIMENSIONS} features",
            "torch-fidelity",
            (found["ours"], found["torch-fidelity"]),
            goal=100.0 if same else None,
            goal_text="≥ 100×, same to 1e-6",
            note=f"relative difference of the distances {difference:.1e}"
            + ("" if same else f", above {TOLERANCE:g}: NOT the same"),
        )
    ]


def ours() -> Work:
    samples, cached = _given()
    return Work(lambda: frechet_distance(samples, cached))


def peer() -> Work:
    samples, cached = _given()
    theirs = {"mu": cached.mean, "sigma": cached.covariance}
    return Work(lambda: torch_fidelity(samples, theirs))


def _given() -> tuple[np.ndarray, Statistics]:
    samples, reference = features(DIMENSIONS, SAMPLES, REFERENCE)
    return samples, Statistics.of(reference, "benchmark", "")


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
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    statistics = fid_features_to_statistics(torch.from_numpy(samples))
    result = fid_statistics_to_metric(statistics, reference, verbose=False)
    return result[KEY_METRIC_FID]
