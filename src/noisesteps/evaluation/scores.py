"""The two stages that score: real images described, generated ones measured.

A score is a Fréchet or kernel distance, a precision or a recall between `images`
features and those of the training images. Every score is taken `seeds` times, each
time from other images, so that its spread is known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from noisesteps.data.array import Images, unseen
from noisesteps.errors import StageError
from noisesteps.evaluation.copies import near_copies, nearer, nearest_relative
from noisesteps.evaluation.extractors import Extractor
from noisesteps.evaluation.frechet import frechet_distance
from noisesteps.evaluation.infinity import frechet_infinity_interval
from noisesteps.evaluation.kernel import kernel_distance
from noisesteps.evaluation.precision_recall import precision_recall
from noisesteps.evaluation.statistics import Statistics
from noisesteps.seeds import Key, numpy_generator

FLOOR_SETS = 8  # of held-out images, where there are so many
KERNEL_SUBSETS = 50
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
    dataset: Images,
    extractor: Extractor,
    *,
    images: int,
    key: tuple[Key, ...],
) -> tuple[Reference, list[dict[str, Any]], dict[str, Any]]:
    """Compute what samples are compared with, and how real images compare with it.

    The floor is what `images` real held-out images score: distances between few images
    are biased, and this shows by how much. It is taken from as many disjoint sets of
    held-out images as there are, 8 at most; where there is not one, it is None and
    `floor_reason` says so. The share of near-copies among the held-out images tells
    how many there are without a model that memorises. Neither counts a held-out image
    that is a training image too (`data.unseen`): they are the record's `duplicates`.

    Parameters
    ----------
    dataset
        Training and held-out images.
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
    list of dict
        The rows of `nearest.csv`: for each held-out image its nearest training image.
    dict
        The values of `reference.json`, less the data set and the provenance.

    Raises
    ------
    StageError
        If there are fewer than two training images.
    """
    features = extractor.features(dataset.train)
    statistics = Statistics.of(features, extractor.name, extractor.digest)
    reference = Reference(statistics, features, dataset.train)
    real = extractor.features(dataset.held_out)
    neighbours = _neighbours(real, dataset.held_out, reference)
    distinct = unseen(dataset)
    order = numpy_generator(*key, "floor").permutation(len(distinct))
    real = real[distinct[order]]
    blocks = [
        real[start : start + images]
        for start in range(0, len(real) - images + 1, images)
    ][:FLOOR_SETS]
    record = _record(statistics, extractor) | {
        "images": images,
        "held_out": len(dataset.held_out),
        "duplicates": len(dataset.held_out) - len(distinct),
        "floor": _measure(blocks, reference, key) if blocks else None,
        "floor_reason": None if blocks else _too_few(len(distinct), images),
        "copies": _copies(
            {name: found[distinct] for name, found in neighbours.items()}
        ),
    }
    return reference, _rows(neighbours), record


def score(
    samples: np.ndarray,
    extractor: Extractor,
    reference: Reference,
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
    record = _record(reference.statistics, extractor) | {
        "value": float(np.mean(measured["fid"])),
        "images": images,
        "seeds": seeds,
        **measured,
        "copies": _copies(neighbours),
    }
    return features, _rows(neighbours), record


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
        "feature": nearest_relative(features, reference.features),
        "pixel": nearer(
            nearest_relative(images, reference.images),
            nearest_relative(images[..., ::-1], reference.images),
        ),
    }
    columns: dict[str, np.ndarray] = {"image": np.arange(len(images))}
    for space, (indices, distances, relative) in found.items():
        columns |= {
            f"{space}_index": indices,
            f"{space}_distance": distances,
            f"{space}_relative": relative,
        }
    return columns


def _rows(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _copies(neighbours: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Count the near-copies in both spaces; of no image there is no share."""
    if not len(neighbours["image"]):
        return None
    return {
        space: asdict(near_copies(neighbours[f"{space}_relative"])) for space in SPACES
    }


def _too_few(distinct: int, images: int) -> str:
    return (
        f"{distinct} distinct images are held out, fewer than the {images} of "
        "sampling.images"
    )


def _record(reference: Statistics, extractor: Extractor) -> dict[str, Any]:
    return {
        "metric": extractor.metric,
        "reference_images": reference.images,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
    }
