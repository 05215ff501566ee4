"""Statistics and the Fréchet distance, against torch-fidelity, scipy and arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import (
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from noisesteps.errors import StageError
from noisesteps.evaluation import Statistics, frechet_distance

NETWORK = ("efficientnet-lite0", "a" * 64)


def features(seed: int, count: int, dimensions: int, shift: float = 0.0) -> np.ndarray:
    """Correlated, non-negative features, as pooled activations are."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(dimensions, dimensions))
    drawn = random.normal(size=(count, dimensions)) @ mixing / np.sqrt(dimensions)
    return np.maximum(drawn + shift, 0).astype(np.float32)


def summary(values: np.ndarray) -> Statistics:
    return Statistics.of(values, *NETWORK)


@pytest.mark.parametrize("count", [2, 5, 20, 100])
@pytest.mark.parametrize("reference_count", [10, 100])
@pytest.mark.parametrize("dimensions", [1, 8, 64])
def test_distance_equals_torch_fidelity(count, reference_count, dimensions):
    ours, theirs = (
        features(1, count, dimensions, 0.5),
        features(2, reference_count, dimensions),
    )
    expected = torch_fidelity_distance(ours, theirs)
    direct = frechet_distance(ours, summary(theirs))
    full = frechet_distance(summary(ours), summary(theirs))
    assert direct == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert full == pytest.approx(expected, rel=1e-5, abs=1e-6)


def torch_fidelity_distance(first: np.ndarray, second: np.ndarray) -> float:
    stats = []
    for values in (first, second):
        entry = fid_features_to_statistics(torch.from_numpy(values.astype(np.float64)))
        stats.append(entry | {"sigma": np.atleast_2d(entry["sigma"])})
    return fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]


def test_distance_equals_the_formula_with_a_matrix_root():
    first, second = features(1, 60, 12, 0.3), features(2, 40, 12)
    a, b = summary(first), summary(second)
    root = sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(
        a.covariance + b.covariance - 2 * root
    )
    assert frechet_distance(first, b) == pytest.approx(expected, rel=1e-9)


def test_fewer_samples_than_dimensions_give_the_full_statistics_distance():
    samples, reference = features(1, 32, 256, 0.2), summary(features(2, 400, 256))
    low_rank = frechet_distance(samples, reference)
    assert low_rank == pytest.approx(
        frechet_distance(summary(samples), reference), rel=1e-9
    )
    assert low_rank == pytest.approx(
        frechet_distance(reference, summary(samples)), rel=1e-6
    )


def test_known_gaussians():
    """For diagonal covariances: the squares of the means' and deviations' distances."""
    first = Statistics(np.array([1.0, 2.0]), np.diag([4.0, 9.0]), 10, *NETWORK)
    second = Statistics(np.array([0.0, 4.0]), np.diag([1.0, 25.0]), 10, *NETWORK)
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + 1 + 4)


@pytest.mark.parametrize(("count", "dimensions"), [(50, 8), (8, 50)])
def test_identical_sets_are_at_no_distance(count, dimensions):
    values = features(3, count, dimensions)
    assert frechet_distance(values, summary(values)) == pytest.approx(0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    counts=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    dimensions=st.integers(2, 24),
    shift=st.floats(-1, 1),
)
def test_distance_is_symmetric_non_negative_and_blind_to_rotation(
    seed, counts, dimensions, shift
):
    random = np.random.default_rng(seed)
    first = random.normal(size=(counts[0], dimensions)) + shift
    second = random.normal(size=(counts[1], dimensions)) * 2
    rotation, _ = np.linalg.qr(random.normal(size=(dimensions, dimensions)))
    distance = frechet_distance(first, summary(second))
    assert distance >= 0
    assert frechet_distance(second, summary(first)) == pytest.approx(distance, rel=1e-5)
    turned = frechet_distance(first @ rotation, summary(second @ rotation))
    assert turned == pytest.approx(distance, rel=1e-5)


def test_statistics_are_numpy_moments_in_float64():
    values = features(4, 30, 6)
    statistics = summary(values)
    assert statistics.mean.dtype == statistics.covariance.dtype == np.float64
    np.testing.assert_allclose(
        statistics.covariance, np.cov(values.astype(np.float64).T, ddof=1)
    )
    assert statistics.images == 30


def test_statistics_survive_the_disk(tmp_path):
    saved = summary(features(5, 20, 7))
    saved.save(tmp_path / "reference.npz")
    loaded = Statistics.load(tmp_path / "reference.npz")
    np.testing.assert_array_equal(loaded.mean, saved.mean)
    np.testing.assert_array_equal(loaded.covariance, saved.covariance)
    assert (loaded.images, loaded.extractor, loaded.digest) == (20, *NETWORK)


def test_a_file_that_is_no_statistics_is_refused(tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(StageError, match=r"reference\.npz holds no statistics"):
        Statistics.load(path)
    for content in (b"", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(StageError, match="holds no statistics"):
            Statistics.load(path)
    np.savez(path, mean=np.zeros(2))
    with pytest.raises(StageError, match="holds no statistics"):
        Statistics.load(path)
    np.savez(path, mean=np.array([object()]), allow_pickle=True)
    with pytest.raises(StageError, match="holds no statistics"):
        Statistics.load(path)


def test_another_network_is_refused():
    values = features(6, 10, 4)
    for name, digest in (("inception-v3", "a" * 64), ("efficientnet-lite0", "b" * 64)):
        with pytest.raises(StageError, match=f"come from {name}"):
            frechet_distance(Statistics.of(values, name, digest), summary(values))


def test_other_dimensions_are_refused():
    with pytest.raises(StageError, match="4 dimensions, but the reference 5"):
        frechet_distance(features(6, 10, 4), summary(features(6, 10, 5)))


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_distance(count):
    few = features(7, count, 4)
    with pytest.raises(StageError, match=f"2 images or more, not {count}"):
        summary(few)
    with pytest.raises(StageError, match=f"2 images or more, not {count}"):
        frechet_distance(few, summary(features(8, 10, 4)))
