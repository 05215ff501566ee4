"""The two stages that score: real images described, generated ones measured.

A score is a Fréchet or kernel distance, a precision or a recall between `images`
features and those of the training images. Every score is taken `seeds` times, each
time from other images, so that its spread is known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from noisesteps.errors import StageError
from noisesteps.evaluation.copies import copy_threshold, near_copies, nearer, nearest
from noisesteps.evaluation.extractors import Extractor
from noisesteps.evaluation.frechet import frechet_distance
from noisesteps.evaluation.infinity import frechet_infinity_interval
from noisesteps.evaluation.kernel import kernel_distance
from noisesteps.evaluation.precision_recall import precision_recall
from noisesteps.evaluation.statistics import Statistics
from noisesteps.seeds import Key, numpy_generator

CLOSEST = 8  # pairs of real images that are kept to be looked at
FLOOR_SETS = 8  # of held-out images, where there are so many
KERNEL_SUBSETS = 100  # as torch-fidelity
KERNEL_SUBSET_SIZE = 1000  # as torch-fidelity; fewer where there are fewer images
SPACES = ("feature", "pixel")  # in which the nearest training image is looked for


@dataclass(frozen=True, eq=False)
class Reference:
    """What generated images are compared with.

    Attributes
    ----------
    statistics
        Of the features of all training images.
    features
        float32 (N, D): the training images' features.
    images
        uint8 (N, 3, H, W): the training images.
    """

    statistics: Statistics
    features: np.ndarray
    images: np.ndarray


def describe(
    train: np.ndarray,
    held_out: np.ndarray,
    extractor: Extractor,
    *,
    images: int,
    key: tuple[Key, ...],
) -> tuple[Reference, dict[str, Any]]:
    """Compute what samples are compared with, and how real images compare with it.

    The floor is what `images` real held-out images score: distances between few images
    are biased, and this shows by how much. It is taken from as many disjoint sets of
    held-out images as there are, 8 at most; where there is not one, it is None and
    `floor_reason` says so. The distance of every held-out image to its nearest
    training image tells how near a picture comes that copies nothing.

    Parameters
    ----------
    train, held_out
        uint8 (N, 3, H, W) images of one data set.
    extractor
        The network that computes the features.
    images
        `sampling.images`.
    key
        Seeds the choice of images: (seed, "reference", dataset).

    Returns
    -------
    Reference
        The training images and their features.
    dict
        The values of `reference.json`, less the data set and the provenance.

    Raises
    ------
    StageError
        If there are fewer than two training images.
    """
    features = extractor.features(train)
    statistics = Statistics.of(features, extractor.name, extractor.digest)
    reference = Reference(statistics, features, train)
    order = numpy_generator(*key, "floor").permutation(len(held_out))
    real = extractor.features(held_out)[order]
    blocks = [
        real[start : start + images]
        for start in range(0, len(real) - images + 1, images)
    ][:FLOOR_SETS]
    record = _record(statistics, extractor) | {
        "images": images,
        "held_out": len(held_out),
        "floor": _measure(blocks, reference, key) if blocks else None,
        "floor_reason": None if blocks else _too_few(len(held_out), images),
        "nearest": _real_distances(real, held_out[order], order, reference),
    }
    return reference, record


def score(
    samples: np.ndarray,
    extractor: Extractor,
    reference: Reference,
    thresholds: dict[str, float | None],
    *,
    images: int,
    seeds: int,
    key: tuple[Key, ...],
) -> tuple[np.ndarray, list[dict[str, Any]], dict[str, Any]]:
    """Compare the first `images` × `seeds` samples with the training images.

    Parameters
    ----------
    samples
        uint8 (N, 3, H, W) generated images.
    extractor
        The network that computed the reference's features too.
    reference
        The data set that the model was trained on.
    thresholds
        For `feature` and `pixel`, the distance below which an image is a near-copy;
        None where no real image was held out.
    images, seeds
        `sampling.images` and `sampling.seeds`.
    key
        Seeds the subsets: (seed, "score", dataset, schedule, steps).

    Returns
    -------
    numpy.ndarray
        float32 (images × seeds, D): the features that were scored.
    list of dict
        The rows of `nearest.csv`: for each image its nearest training image and the
        distance to it, by features and by pixels.
    dict
        The values of `score.json`, less the run's coordinates and the provenance.

    Raises
    ------
    StageError
        If there are too few samples, or if the reference is another network's.
    """
    reference.statistics.require_extractor(extractor.name, extractor.digest)
    if len(samples) < images * seeds:
        raise StageError(
            f"The run has {len(samples)} images, fewer than sampling.images × "
            f"sampling.seeds = {images * seeds}; run `noisesteps sample` for it again."
        )
    features = extractor.features(samples[: images * seeds])
    measured = _measure(np.split(features, seeds), reference, key)
    neighbours = _neighbours(features, samples[: images * seeds], reference)
    copies = {
        space: asdict(near_copies(neighbours[f"{space}_distance"], threshold))
        for space, threshold in thresholds.items()
        if threshold is not None
    }
    record = _record(reference.statistics, extractor) | {
        "value": float(np.mean(measured["fid"])),
        "images": images,
        "seeds": seeds,
        **measured,
        "copies": copies,
    }
    rows = zip(*(column.tolist() for column in neighbours.values()), strict=True)
    return features, [dict(zip(neighbours, row, strict=True)) for row in rows], record


def _measure(
    blocks: list[np.ndarray], reference: Reference, key: tuple[Key, ...]
) -> dict[str, Any]:
    """Score every block of features (N, D) by itself, and all together at infinity."""
    rows = [
        _measure_block(block, reference, numpy_generator(*key, "subsets", number))
        for number, block in enumerate(blocks)
    ]
    measured: dict[str, Any] = {
        name: [row[name] for row in rows]
        for name in ("fid", "kid", "precision", "recall")
    }
    infinity = frechet_infinity_interval(
        blocks, reference.statistics, numpy_generator(*key, "infinity")
    )
    return measured | {"fid_infinity": asdict(infinity)}


def _measure_block(
    features: np.ndarray, reference: Reference, generator: np.random.Generator
) -> dict[str, float]:
    size = min(KERNEL_SUBSET_SIZE, len(features), len(reference.features))
    kernel = kernel_distance(
        features,
        reference.features,
        subset_size=size,
        subsets=KERNEL_SUBSETS,
        generator=generator,
    )
    # As many real as generated images: with more, recall would fall and precision rise.
    equal = generator.permutation(len(reference.features))[: len(features)]
    shape = precision_recall(features, reference.features[np.sort(equal)])
    return {
        "fid": frechet_distance(features, reference.statistics),
        "kid": kernel.mean,
        "precision": shape.precision,
        "recall": shape.recall,
    }


def _neighbours(
    features: np.ndarray, images: np.ndarray, reference: Reference
) -> dict[str, np.ndarray]:
    """Find the nearest training image of every image, by features and by pixels.

    Training mirrors images, so the mirror image of a copy is a copy: its pixels are
    looked for too. The features of mirror images are much alike.
    """
    found = {
        "feature": nearest(features, reference.features),
        "pixel": nearer(
            nearest(images, reference.images),
            nearest(images[..., ::-1], reference.images),
        ),
    }
    columns: dict[str, np.ndarray] = {"image": np.arange(len(images))}
    for space, (indices, distances) in found.items():
        columns |= {f"{space}_index": indices, f"{space}_distance": distances}
    return columns


def _real_distances(
    features: np.ndarray, images: np.ndarray, order: np.ndarray, reference: Reference
) -> dict[str, Any]:
    """Say how near real held-out images come to the training images.

    `order` holds the number that each of the images has among those held out.
    """
    if not len(features):
        return dict.fromkeys(SPACES)
    found = _neighbours(features, images, reference)
    return {
        space: asdict(copy_threshold(found[f"{space}_distance"]))
        | {"closest": _closest(found, space, order)}
        for space in SPACES
    }


def _closest(
    found: dict[str, np.ndarray], space: str, order: np.ndarray
) -> list[dict[str, Any]]:
    """List the nearest pairs of a held-out and a training image, nearest first.

    Images that are in the training set too, pixel by pixel, are left out.
    """
    distances = found[f"{space}_distance"]
    places = np.argsort(distances, kind="stable")
    new = places[found["pixel_distance"][places] > 0]
    return [
        {
            "held_out": int(order[place]),
            "train": int(found[f"{space}_index"][place]),
            "distance": float(distances[place]),
        }
        for place in new[:CLOSEST]
    ]


def _too_few(held_out: int, images: int) -> str:
    return f"{held_out} images are held out, fewer than the {images} of sampling.images"


def _record(reference: Statistics, extractor: Extractor) -> dict[str, Any]:
    return {
        "metric": extractor.metric,
        "reference_images": reference.images,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
    }
