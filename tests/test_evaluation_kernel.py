"""The kernel distance, against torch-fidelity, the definition and known Gaussians."""

import numpy as np
import pytest
import torch
from torch_fidelity import metric_kid

from noisesteps.errors import StageError
from noisesteps.evaluation import KernelDistance, kernel_distance


def features(seed: int, count: int, dimensions: int, shift: float = 0.0) -> np.ndarray:
    """Non-negative float32 features, as pooled activations are."""
    drawn = np.random.default_rng(seed).normal(shift, 1, (count, dimensions))
    return np.maximum(drawn, 0).astype(np.float32)


@pytest.mark.parametrize("counts", [(40, 200), (200, 40), (60, 60)])
@pytest.mark.parametrize("dimensions", [1, 16, 300])
def test_distance_equals_torch_fidelity(counts, dimensions):
    """The same subsets: ours draws them from torch-fidelity's old kind of generator."""
    ours = features(1, counts[0], dimensions, 0.5)
    theirs = features(2, counts[1], dimensions)
    expected = metric_kid.kid_features_to_metric(
        torch.from_numpy(ours.astype(np.float64)),
        torch.from_numpy(theirs.astype(np.float64)),
        kid_subsets=20,
        kid_subset_size=30,
        rng_seed=7,
        verbose=False,
    )
    found = kernel_distance(
        ours,
        theirs,
        subset_size=30,
        subsets=20,
        generator=np.random.RandomState(7),
    )
    assert found.mean == pytest.approx(expected[metric_kid.KEY_METRIC_KID_MEAN])
    assert found.std == pytest.approx(expected[metric_kid.KEY_METRIC_KID_STD])


def measure(
    samples: np.ndarray,
    reference: np.ndarray,
    subset_size: int,
    subsets: int,
    seed: int = 0,
) -> KernelDistance:
    return kernel_distance(
        samples,
        reference,
        subset_size=subset_size,
        subsets=subsets,
        generator=np.random.default_rng(seed),
    )


def test_distance_is_the_definition():
    """One subset of everything, summed pair by pair."""
    samples, reference = features(3, 5, 4, 0.3), features(4, 5, 4)

    def kernel(first, second):
        return (float(np.dot(first.astype(float), second.astype(float))) / 4 + 1) ** 3

    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(
        kernel(side[i], side[j])
        for side in (samples, reference)
        for i, j in pairs
        if i != j
    )
    between = sum(kernel(samples[i], reference[j]) for i, j in pairs)
    found = measure(samples, reference, subset_size=5, subsets=1)
    assert found.mean == pytest.approx(within / 20 - 2 * between / 25)
    assert found.std == 0


def test_distance_is_unbiased_at_any_number_of_images():
    """In one dimension the moments of both Gaussians give the distance exactly."""
    expected = sum(
        weight * (first - second) ** 2
        for weight, first, second in zip(
            (3, 3, 1), moments(0.5, 1.5), moments(0, 1), strict=True
        )
    )
    random = np.random.default_rng(5)
    for count in (4, 32):
        found = [
            measure(
                random.normal(0.5, 1.5, (count, 1)),
                random.normal(0, 1, (count, 1)),
                subset_size=count,
                subsets=1,
            ).mean
            for _ in range(4000)
        ]
        error = np.std(found) / np.sqrt(len(found))
        assert np.mean(found) == pytest.approx(expected, abs=3 * error)
        assert 3 * error < expected / 2


def moments(mean: float, deviation: float) -> tuple[float, float, float]:
    r"""Return E[x], E[x²], E[x³]: :math:`(xy + 1)^3 = 1 + 3xy + 3x²y² + x³y³`."""
    return (
        mean,
        mean**2 + deviation**2,
        mean**3 + 3 * mean * deviation**2,
    )


def test_a_further_set_is_further():
    reference = features(6, 300, 32)
    near, far = (
        measure(features(7, 100, 32, shift), reference, 50, 20).mean
        for shift in (0.05, 0.5)
    )
    assert far > 10 * abs(near)


def test_the_generator_decides_the_subsets():
    samples, reference = features(8, 50, 8), features(9, 80, 8)
    assert measure(samples, reference, 20, 5) == measure(samples, reference, 20, 5)
    assert measure(samples, reference, 20, 5) != measure(samples, reference, 20, 5, 1)


def test_too_few_images_are_refused():
    few, many = features(10, 9, 4), features(11, 30, 4)
    for sides in ((few, many), (many, few)):
        with pytest.raises(StageError, match=r"subsets of 10 images .* not 9"):
            measure(*sides, subset_size=10, subsets=2)


def test_other_dimensions_are_refused():
    with pytest.raises(StageError, match="4 dimensions, but the reference 5"):
        measure(features(1, 9, 4), features(1, 9, 5), 5, 1)


@pytest.mark.parametrize(("size", "subsets"), [(1, 5), (5, 0)])
def test_no_subsets_are_refused(size, subsets):
    values = features(1, 9, 4)
    with pytest.raises(ValueError, match="give no distance"):
        measure(values, values, size, subsets)
