"""The two stages that score: statistics of real images, distance of generated ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from noisesteps.errors import StageError
from noisesteps.evaluation.extractors import Extractor
from noisesteps.evaluation.frechet import frechet_distance
from noisesteps.evaluation.statistics import Statistics
from noisesteps.seeds import numpy_generator


def reference(
    train: np.ndarray, held_out: np.ndarray, extractor: Extractor, images: int
) -> tuple[Statistics, dict[str, Any]]:
    """Compute the statistics that samples are compared with, and their floor.

    The floor is the distance of `images` real held-out images to the statistics: a
    distance between few images is biased upwards, and this shows by how much. A model
    that scores below it has likely memorised training images.
    Where fewer are held out it is None, and `floor_reason` says so.

    Parameters
    ----------
    train, held_out
        uint8 (N, 3, H, W) images of one data set.
    extractor
        The network that computes the features.
    images
        How many images a model's score is computed from (`sampling.images`).

    Returns
    -------
    Statistics
        Of all training images.
    dict
        The values of `reference.json`, less the data set and the provenance.

    Raises
    ------
    StageError
        If there are fewer than two training images.
    """
    statistics = Statistics.of(
        extractor.features(train), extractor.name, extractor.digest
    )
    floor, reason = None, None
    if len(held_out) >= images:
        features = extractor.features(_subset(held_out, images))
        floor = frechet_distance(features, statistics)
    else:
        reason = (
            f"{len(held_out)} images are held out, fewer than the {images} of "
            "sampling.images"
        )
    record = _record(statistics, extractor) | {
        "floor": floor,
        "floor_images": images,
        "floor_reason": reason,
    }
    return statistics, record


def score(
    samples: np.ndarray, extractor: Extractor, reference: Statistics, images: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Measure the distance of the first `images` samples to the training images.

    Parameters
    ----------
    samples
        uint8 (N, 3, H, W) generated images.
    extractor
        The network that computed the reference's features too.
    reference
        Statistics of the data set that the model was trained on.
    images
        How many samples to score (`sampling.images`).

    Returns
    -------
    numpy.ndarray
        float32 (images, D): the features that were scored.
    dict
        The values of `score.json`, less the run's coordinates and the provenance.

    Raises
    ------
    StageError
        If there are too few samples, or if the reference is another network's.
    """
    reference.require_extractor(extractor.name, extractor.digest)
    if len(samples) < images:
        raise StageError(
            f"The run has {len(samples)} images, fewer than the {images} of "
            "sampling.images; run `noisesteps sample` for it again."
        )
    features = extractor.features(samples[:images])
    value = frechet_distance(features, reference)
    record = _record(reference, extractor) | {"value": value, "images": images}
    return features, record


def _subset(images: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` images at random, the same ones in every study.

    Archives are often sorted by class: the first images would be of one kind.
    """
    chosen = numpy_generator("reference", "floor").permutation(len(images))[:count]
    return images[np.sort(chosen)]


def _record(reference: Statistics, extractor: Extractor) -> dict[str, Any]:
    return {
        "metric": extractor.metric,
        "reference_images": reference.images,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
    }
