"""The extrapolated distance, on Gaussians whose Fréchet distance is known."""

import numpy as np
import pytest

from noisesteps.errors import StageError
from noisesteps.evaluation import (
    Statistics,
    frechet_distance,
    frechet_infinity,
    frechet_infinity_interval,
    infinity,
)
from noisesteps.uncertainty import Interval


class Gaussians:
    """Two Gaussians with diagonal covariances: their distance is arithmetic."""

    def __init__(self, dimensions: int, difference: float = 0.5):
        random = np.random.default_rng(dimensions)
        variances = 1 / np.arange(1, dimensions + 1)
        self.mean = difference * np.sqrt(variances) * random.normal(size=dimensions)
        self.deviations = np.sqrt(variances) * np.exp(
            difference * random.normal(0, 0.5, dimensions)
        )
        self.reference = Statistics(
            np.zeros(dimensions), np.diag(variances), 10**6, "none", ""
        )
        self.truth = np.square(self.mean).sum() + np.sum(
            (self.deviations - np.sqrt(variances)) ** 2
        )

    def draw(self, seed: int, *shape: int) -> np.ndarray:
        """Return features (*shape, D)."""
        random = np.random.default_rng(seed)
        return random.normal(self.mean, self.deviations, (*shape, len(self.mean)))

    def biases(self, count: int, studies: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how far off the distances, plain and extrapolated, of studies are."""
        random = np.random.default_rng(0)
        drawn = self.draw(count, studies, count)
        plain = [frechet_distance(values, self.reference) for values in drawn]
        far = [frechet_infinity(values, self.reference, random) for values in drawn]
        return np.array(plain) - self.truth, np.array(far) - self.truth


@pytest.mark.parametrize(("dimensions", "count"), [(4, 60), (8, 96), (24, 240)])
def test_the_extrapolated_distance_is_unbiased(dimensions, count):
    plain, far = Gaussians(dimensions).biases(count, studies=300)
    error = far.std() / np.sqrt(len(far))
    assert abs(far.mean()) < 3 * error
    assert plain.mean() > 5 * error


@pytest.mark.parametrize(("dimensions", "count"), [(64, 64), (256, 64), (256, 128)])
def test_with_few_samples_it_is_nearer_to_the_truth(dimensions, count):
    """Where a covariance of few samples is singular a part of the bias is left."""
    plain, far = Gaussians(dimensions).biases(count, studies=25)
    assert np.abs(far).mean() < 0.75 * np.abs(plain).mean()
    assert abs(far.mean()) > 3 * far.std() / np.sqrt(len(far))


def test_the_same_distribution_is_at_zero_and_may_be_below():
    found = Gaussians(8, difference=0).biases(96, studies=200)[1]
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    assert 0.2 < (found < 0).mean() < 0.8


def test_the_intercept_of_a_parabola_is_found():
    """Parts of unequal size count with their own 1/n."""

    def distance(rows):
        return 7 + 30 / len(rows) - 40 / len(rows) ** 2

    random = np.random.default_rng(0)
    assert infinity._extrapolate(np.arange(60), distance, random) == pytest.approx(7)

    def line(rows):
        return 7 + 30 / len(rows)

    assert infinity._extrapolate(np.arange(8), line, random) == pytest.approx(7)


@pytest.mark.parametrize(("count", "dimensions"), [(40, 64), (40, 24), (70, 24)])
def test_distances_of_subsets_are_frechet_distances(count, dimensions):
    random = np.random.default_rng(1)
    features = random.normal(3, 1, (count, dimensions)).astype(np.float32)
    others = random.normal(2.5, 1.5, (200, dimensions))
    reference = Statistics.of(others, "none", "")
    distance = infinity._distance_of_rows(features, reference)
    for size in (2, 7, 30, count):
        rows = random.permutation(count)[:size]
        expected = frechet_distance(features[rows], reference)
        assert distance(rows) == pytest.approx(expected, rel=1e-6)


def test_more_samples_than_dimensions_take_another_way_to_the_same_number():
    """Dimensions that are zero everywhere change no distance, but the way."""
    features = Gaussians(5).draw(2, 30)
    wide = np.pad(features, ((0, 0), (0, 25)))
    others = Gaussians(5).draw(3, 90)
    narrow = frechet_infinity(
        features, Statistics.of(others, "none", ""), np.random.default_rng(4)
    )
    padded = Statistics.of(np.pad(others, ((0, 0), (0, 25))), "none", "")
    found = frechet_infinity(wide, padded, np.random.default_rng(4))
    assert found == pytest.approx(narrow, rel=1e-4)


@pytest.mark.parametrize(
    ("dimensions", "count", "blocks"), [(8, 32, 3), (8, 48, 5), (32, 48, 4)]
)
def test_the_interval_covers_the_true_distance(dimensions, count, blocks):
    pair = Gaussians(dimensions)
    random = np.random.default_rng(5)
    found = [
        frechet_infinity_interval(list(study), pair.reference, random)
        for study in pair.draw(6, 150, blocks, count)
    ]
    share = np.mean([one.low <= pair.truth <= one.high for one in found])
    assert share == pytest.approx(0.95, abs=0.03)


def test_the_interval_is_the_jackknifes_around_all_samples():
    pair = Gaussians(6)
    study = pair.draw(7, 3, 40)
    found = frechet_infinity_interval(
        list(study), pair.reference, np.random.default_rng(8)
    )
    assert found.repeats == 3
    whole = frechet_infinity(
        np.concatenate(study), pair.reference, np.random.default_rng(8)
    )
    assert found.value == pytest.approx(whole)
    assert found.high - found.value == pytest.approx(found.value - found.low)
    wider = frechet_infinity_interval(
        list(study), pair.reference, np.random.default_rng(8), confidence=0.99
    )
    # Printed tables: t(0.975, 2) = 4.303 and t(0.995, 2) = 9.925.
    assert (wider.high - wider.low) / (found.high - found.low) == pytest.approx(
        9.925 / 4.303, rel=1e-3
    )


def test_one_block_has_no_interval():
    pair = Gaussians(6)
    study = pair.draw(9, 1, 40)
    found = frechet_infinity_interval(
        list(study), pair.reference, np.random.default_rng(0)
    )
    expected = frechet_infinity(study[0], pair.reference, np.random.default_rng(0))
    assert found == Interval(expected, None, None, 1)


def test_the_generator_decides_the_splits():
    pair = Gaussians(6)
    values = pair.draw(10, 40)
    one, same, other = (
        frechet_infinity(values, pair.reference, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    assert one == same != other


def test_too_few_samples_are_refused():
    pair = Gaussians(6)
    random = np.random.default_rng(0)
    with pytest.raises(StageError, match=r"6 images or more, not 5; raise sampling"):
        frechet_infinity(pair.draw(0, 5), pair.reference, random)
    with pytest.raises(StageError, match=r"6 images or more, not 4; raise sampling"):
        frechet_infinity_interval(list(pair.draw(0, 2, 2)), pair.reference, random)
    few = frechet_infinity_interval(list(pair.draw(0, 2, 3)), pair.reference, random)
    assert (few.low, few.high, few.repeats) == (None, None, 2)


def test_blocks_of_different_sizes_are_refused():
    pair = Gaussians(6)
    random = np.random.default_rng(0)
    for blocks in ([], [pair.draw(0, 20), pair.draw(1, 21)]):
        with pytest.raises(ValueError, match="blocks of one size"):
            frechet_infinity_interval(blocks, pair.reference, random)


def test_other_dimensions_are_refused():
    with pytest.raises(StageError, match="4 dimensions, but the reference 5"):
        frechet_infinity(
            Gaussians(4).draw(0, 9), Gaussians(5).reference, np.random.default_rng(0)
        )
