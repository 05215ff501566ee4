"""The stages reference and score."""

import numpy as np
import pytest
import torch

from noisesteps.errors import StageError
from noisesteps.evaluation import Extractor, Statistics, frechet_distance
from noisesteps.evaluation import reference as describe
from noisesteps.evaluation import score as measure

DIGEST = "c" * 64


@pytest.fixture
def extractor() -> Extractor:
    """Stand in for a network: 1,280 fixed projections of the pixels, quickly."""
    projection = torch.randn(
        3 * 8 * 8, 1280, generator=torch.Generator().manual_seed(0)
    )
    return Extractor(
        "efficientnet-lite0",
        DIGEST,
        batch_size=7,
        device=torch.device("cpu"),
        forward=lambda images: images.float().flatten(1) @ projection / 255,
    )


def images(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def test_reference_describes_the_training_images(extractor):
    train, held_out = images(20), images(10, seed=1)
    statistics, record = describe(train, held_out, extractor, 10)
    expected = Statistics.of(extractor.features(train), extractor.name, DIGEST)
    np.testing.assert_array_equal(statistics.mean, expected.mean)
    np.testing.assert_array_equal(statistics.covariance, expected.covariance)
    assert record == {
        "metric": "FD (EfficientNet-Lite0)",
        "reference_images": 20,
        "extractor": "efficientnet-lite0",
        "extractor_sha256": DIGEST,
        "floor": frechet_distance(extractor.features(held_out), statistics),
        "floor_images": 10,
        "floor_reason": None,
    }


def test_the_floor_takes_as_many_images_as_a_score(extractor):
    """Held-out images sorted by class must not give one class alone."""
    train = images(20)
    held_out = np.concatenate([images(10, seed=1) // 4, images(10, seed=2)])
    statistics, record = describe(train, held_out, extractor, 10)
    first = frechet_distance(extractor.features(held_out[:10]), statistics)
    last = frechet_distance(extractor.features(held_out[10:]), statistics)
    assert min(first, last) < record["floor"] < max(first, last)
    assert describe(train, held_out, extractor, 10)[1] == record


def test_too_few_held_out_images_give_no_floor(extractor):
    _, record = describe(images(20), images(3, seed=1), extractor, 10)
    assert record["floor"] is None
    assert record["floor_reason"] == (
        "3 images are held out, fewer than the 10 of sampling.images"
    )


def test_score_measures_the_first_samples(extractor):
    statistics, _ = describe(images(20), images(0), extractor, 10)
    samples = images(15, seed=3)
    features, record = measure(samples, extractor, statistics, 10)
    np.testing.assert_array_equal(features, extractor.features(samples[:10]))
    assert record == {
        "metric": "FD (EfficientNet-Lite0)",
        "value": frechet_distance(features, statistics),
        "images": 10,
        "reference_images": 20,
        "extractor": "efficientnet-lite0",
        "extractor_sha256": DIGEST,
    }


def test_too_few_samples_are_refused(extractor):
    statistics, _ = describe(images(20), images(0), extractor, 10)
    with pytest.raises(StageError, match="9 images, fewer than the 10"):
        measure(images(9), extractor, statistics, 10)


def test_a_reference_of_other_weights_is_refused(extractor):
    statistics = Statistics.of(extractor.features(images(20)), extractor.name, "d" * 64)
    with pytest.raises(StageError, match="run `noisesteps reference` again"):
        measure(images(10), extractor, statistics, 10)
