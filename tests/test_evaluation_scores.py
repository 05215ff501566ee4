"""The stages reference and score."""

import numpy as np
import pytest
import torch

from noisesteps.data.array import Images
from noisesteps.errors import StageError
from noisesteps.evaluation import (
    Extractor,
    Reference,
    Statistics,
    describe,
    frechet_distance,
    kernel_distance,
    precision_recall,
    score,
)
from noisesteps.seeds import numpy_generator

DIGEST = "c" * 64
KEY = (0, "score", "flowers", "linear", 5)


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


def described(extractor, train, held_out, count=10):
    dataset = Images(train, held_out)
    return describe(dataset, extractor, images=count, key=(0, "reference"))


def scored(samples, extractor, reference, count=10, seeds=1):
    return score(samples, extractor, reference, images=count, seeds=seeds, key=KEY)


def test_reference_describes_the_training_images(extractor):
    train = images(20)
    reference, rows, record = described(extractor, train, images(10, seed=1))
    assert [row["image"] for row in rows] == list(range(10))
    expected = Statistics.of(extractor.features(train), extractor.name, DIGEST)
    np.testing.assert_array_equal(reference.statistics.mean, expected.mean)
    np.testing.assert_array_equal(reference.statistics.covariance, expected.covariance)
    np.testing.assert_array_equal(reference.features, extractor.features(train))
    assert record["metric"] == "FD (EfficientNet-Lite0)"
    assert (record["reference_images"], record["held_out"]) == (20, 10)
    assert record["extractor_sha256"] == DIGEST


def test_the_floor_scores_disjoint_sets_of_held_out_images(extractor):
    """Held-out images sorted by class must not give one class alone."""
    held_out = np.concatenate([images(10, seed=1) // 4, images(15, seed=2)])
    reference, _, record = described(extractor, images(20), held_out)
    floor = record["floor"]
    assert len(floor["fid"]) == len(floor["kid"]) == 2  # of 25 images, 10 each
    ends = [
        frechet_distance(extractor.features(part), reference.statistics)
        for part in (held_out[:10], held_out[10:20])
    ]
    assert all(min(ends) < value < max(ends) for value in floor["fid"])
    assert described(extractor, images(20), held_out)[2] == record


def test_too_few_held_out_images_give_no_floor(extractor):
    _, _, record = described(extractor, images(20), images(3, seed=1))
    assert record["floor"] is None
    assert record["floor_reason"] == (
        "3 distinct images are held out, fewer than the 10 of sampling.images"
    )
    _, _, record = described(extractor, images(20), images(0))
    assert record["copies"] is None


def test_copies_are_counted_among_held_out_images_too(extractor):
    train, held_out = images(60), images(12, seed=1)
    held_out[7] = np.clip(train[9].astype(int) + 4, 0, 255)
    held_out[8] = np.clip(train[2][..., ::-1].astype(int) + 4, 0, 255)
    _, rows, record = described(extractor, train, held_out)
    assert (rows[7]["pixel_index"], rows[8]["pixel_index"]) == (9, 2)
    difference = held_out[7].astype(float) - train[9]
    assert rows[7]["pixel_distance"] == pytest.approx(np.linalg.norm(difference))
    assert rows[7]["pixel_relative"] < 0.5 < rows[0]["pixel_relative"]
    assert record["copies"]["pixel"]["copies"] == 2
    assert record["copies"]["feature"]["copies"] == 1  # not the mirrored one


def test_held_out_images_that_are_trained_on_too_are_no_real_images(extractor):
    """With them the floor would fall, and a model that memorises would look usual."""
    train, held_out = images(60), images(22, seed=1)
    with_equals = np.concatenate([held_out, train[:5], train[5:9, :, :, ::-1]])
    _, _, expected = described(extractor, train, held_out)
    _, rows, record = described(extractor, train, with_equals)
    assert (record["held_out"], record["duplicates"]) == (31, 9)
    for measure in ("fid", "kid", "precision", "recall"):
        assert record["floor"][measure] == pytest.approx(expected["floor"][measure])
    assert record["copies"] == expected["copies"]
    assert record["copies"]["pixel"]["images"] == 22
    assert len(rows) == 31  # each is named beside the training image that it equals
    _, _, record = described(extractor, train, train[:12])
    assert (record["floor"], record["copies"], record["duplicates"]) == (None, None, 12)


def test_every_score_is_of_images_of_its_own(extractor):
    reference, *_ = described(extractor, images(30), images(0))
    samples = images(45, seed=3)
    features, _, record = scored(samples, extractor, reference, seeds=4)
    np.testing.assert_array_equal(features, extractor.features(samples[:40]))
    blocks = np.split(features, 4)
    expected = [frechet_distance(block, reference.statistics) for block in blocks]
    assert record["fid"] == expected
    assert record["value"] == pytest.approx(np.mean(expected))
    assert (record["images"], record["seeds"]) == (10, 4)
    generator = numpy_generator(*KEY, "subsets", 2)
    kernel = kernel_distance(
        blocks[2], reference.features, subset_size=10, subsets=50, generator=generator
    )
    assert record["kid"][2] == kernel.mean
    equal = np.sort(generator.permutation(30)[:10])
    shape = precision_recall(blocks[2], reference.features[equal])
    assert (record["precision"][2], record["recall"][2]) == (
        shape.precision,
        shape.recall,
    )
    assert record["fid_infinity"]["repeats"] == 4


def test_the_first_score_stays_when_more_are_asked_for(extractor):
    reference, *_ = described(extractor, images(30), images(0))
    samples = images(20, seed=3)
    _, _, one = scored(samples, extractor, reference)
    _, _, two = scored(samples, extractor, reference, seeds=2)
    for measure in ("fid", "kid", "precision", "recall"):
        assert two[measure][0] == pytest.approx(one[measure][0])


def test_planted_copies_are_found(extractor):
    train, samples = images(30), images(10, seed=3)
    samples[4] = train[17]
    samples[6] = train[5, :, :, ::-1]  # training mirrors images
    reference, *_ = described(extractor, train, images(10, seed=4))
    _, rows, record = scored(samples, extractor, reference)
    assert (rows[4]["pixel_index"], rows[4]["pixel_distance"]) == (17, 0)
    assert (rows[4]["feature_index"], rows[6]["pixel_index"]) == (17, 5)
    assert rows[6]["pixel_distance"] == 0
    assert record["copies"]["pixel"]["copies"] == 2
    assert record["copies"]["feature"]["copies"] == 1
    assert [row["image"] for row in rows] == list(range(10))


def test_too_few_samples_are_refused(extractor):
    reference, *_ = described(extractor, images(20), images(0))
    with pytest.raises(StageError, match=r"9 images, fewer than .* = 10"):
        scored(images(9), extractor, reference)


def test_a_reference_of_other_weights_is_refused(extractor):
    features = extractor.features(images(20))
    statistics = Statistics.of(features, extractor.name, "d" * 64)
    with pytest.raises(StageError, match="run `noisesteps reference` again"):
        scored(images(10), extractor, Reference(statistics, features, images(20)))
