"""The sets that classifiers learn from and are tested on (dissertation, 3.4.6).

A class is a data set. Origin holds training images, Synthesis generated images, Mix
both. Mix is larger than Origin, so a gain may come from more updates or from variety of
any kind: two controls of Mix's size tell, Origin twice and Origin augmented. The test
set holds images that no diffusion model saw, as many of each class.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noisesteps.classification.augmentation import augment
from noisesteps.data.array import Images, unseen
from noisesteps.errors import StageError
from noisesteps.files import write_array, write_text
from noisesteps.seeds import numpy_generator

COLUMNS = ("index", "label", "class", "source")
PARTS = {"held_out": "distinct held-out"}  # where a part's name is no word
REMEDIES = {
    "train": "lower classification.images_per_class or train on more images",
    "generated": "run `noisesteps sample` for it again",
    "held_out": "hold some of its images out",
}


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Images with their classes.

    Attributes
    ----------
    images
        uint8 (N, 3, H, W), RGB.
    labels
        int64 (N,): positions in `classes`.
    classes
        Names of the classes.
    sources
        Where each image comes from: `train[17]`, `held_out[3]` or `generated[0]`,
        counted within its data set's part or its run; `augmented[17]` is a version of
        `train[17]`.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, folder: str | Path) -> None:
        """Write `labels.csv` and `images.npy` to `folder`."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, label in enumerate(self.labels.tolist()):
            writer.writerow((index, label, self.classes[label], self.sources[index]))
        write_text(Path(folder, "labels.csv"), table.getvalue())
        write_array(Path(folder, "images.npy"), self.images)

    @classmethod
    def load(cls, folder: str | Path) -> LabelledSet:
        """Read a set that `save` wrote; the images are a memory map.

        Raises
        ------
        StageError
            If a file is missing or damaged, or the two do not belong together.
        """
        images, labels = Path(folder, "images.npy"), Path(folder, "labels.csv")
        try:
            with labels.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            names = {int(row["label"]): row["class"] for row in rows}
            loaded = cls(
                np.load(images, mmap_mode="r", allow_pickle=False),
                np.array([int(row["label"]) for row in rows], np.int64),
                tuple(names[label] for label in range(len(names))),
                tuple(row["source"] for row in rows),
            )
        except (OSError, ValueError, KeyError, EOFError, TypeError) as error:
            raise StageError(
                f"{folder} holds no set; run `noisesteps sets` again."
            ) from error
        if len(loaded.images) != len(loaded):
            raise StageError(
                f"{folder} has {len(loaded.images)} images, but {len(loaded)} labels; "
                "run `noisesteps sets` again."
            )
        return loaded


def build_set(
    name: str,
    real: Mapping[str, Images],
    generated: Mapping[str, np.ndarray],
    images_per_class: int,
    seed: int,
) -> LabelledSet:
    """Choose the images of one set.

    Parameters
    ----------
    name
        `origin`: `images_per_class` training images a class, chosen by seed;
        `synthesis`: the first `images_per_class` generated images a class;
        `mix`: both of them;
        `origin_repeated`: Origin's images twice;
        `origin_augmented`: Origin's images and one augmented version of each;
        `test`: as many held-out images of each class as the smallest class has, chosen
        by seed among those that are no training images too (`data.unseen`).
    real
        Each class's training and held-out images; the order numbers the labels.
    generated
        Each class's generated images, uint8 (N, 3, H, W); only `synthesis` and `mix`
        read them.
    images_per_class
        Images a class in Origin and in Synthesis.
    seed
        The study's seed.

    Raises
    ------
    StageError
        If a class has too few images, or if images differ in size.
    """
    if name == "test":
        return _test_set(real, seed)
    train = {part: images.train for part, images in real.items()}
    if name == "synthesis":
        return _synthesis(train, generated, images_per_class, seed)
    origin = _build(train, "train", images_per_class, seed)
    match name:
        case "origin":
            return origin
        case "origin_repeated":
            return _join(origin, origin)
        case "origin_augmented":
            return _join(origin, _augmented(origin, seed))
        case "mix":
            made = _synthesis(train, generated, images_per_class, seed)
            return _join(origin, made)
    raise ValueError(f"there is no set {name}")


def _test_set(real: Mapping[str, Images], seed: int) -> LabelledSet:
    held_out = {part: images.held_out for part, images in real.items()}
    distinct = {part: unseen(images) for part, images in real.items()}
    smallest = max(1, min(len(positions) for positions in distinct.values()))
    return _build(held_out, "held_out", smallest, seed, distinct)


def _synthesis(
    train: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    count: int,
    seed: int,
) -> LabelledSet:
    generated = {name: generated[name] for name in train}
    _require_one_size(train, generated)
    return _build(generated, "generated", count, seed)


def _augmented(origin: LabelledSet, seed: int) -> LabelledSet:
    """Return one augmented version of every image, in the same order.

    Each draws by its own key, so it does not depend on which others were chosen.
    """
    versions = [
        augment(image, numpy_generator(seed, "augment", origin.classes[label], source))
        for image, label, source in zip(
            origin.images, origin.labels, origin.sources, strict=True
        )
    ]
    sources = tuple(source.replace("train", "augmented") for source in origin.sources)
    return LabelledSet(np.stack(versions), origin.labels, origin.classes, sources)


def _build(
    pools: Mapping[str, np.ndarray],
    part: str,
    count: int,
    seed: int,
    eligible: Mapping[str, np.ndarray] | None = None,
) -> LabelledSet:
    """Take `count` images of every class, of all or of those at `eligible`."""
    _require_one_size(pools)
    if eligible is None:
        eligible = {name: np.arange(len(images)) for name, images in pools.items()}
    for name, positions in eligible.items():
        if len(positions) < count:
            raise StageError(
                f"{name} has {len(positions)} {PARTS.get(part, part)} images, but the "
                f"classifiers need {count}; {REMEDIES[part]}."
            )
    chosen = {
        name: _choose(positions, count, part, name, seed)
        for name, positions in eligible.items()
    }
    return LabelledSet(
        np.concatenate([pools[name][rows] for name, rows in chosen.items()]),
        np.repeat(np.arange(len(pools)), count),
        tuple(pools),
        tuple(f"{part}[{row}]" for rows in chosen.values() for row in rows),
    )


def _choose(
    positions: np.ndarray, count: int, part: str, name: str, seed: int
) -> np.ndarray:
    """Return `count` of `positions`, ascending."""
    if part == "generated":
        return positions[:count]
    order = numpy_generator(seed, "sets", name, part).permutation(len(positions))
    return np.sort(positions[order[:count]])


def _join(first: LabelledSet, second: LabelledSet) -> LabelledSet:
    return LabelledSet(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.labels, second.labels]),
        first.classes,
        first.sources + second.sources,
    )


def _require_one_size(*pools: Mapping[str, np.ndarray]) -> None:
    shapes = {images.shape[1:] for pool in pools for images in pool.values()}
    if len(shapes) > 1:
        sizes = " and ".join(f"{shape[1]}×{shape[2]}" for shape in sorted(shapes))
        raise StageError(
            f"The images of {', '.join(pools[0])} differ in size ({sizes}); run "
            "`noisesteps preprocess` and `noisesteps sample` again."
        )
