"""The generated data sets: deterministic, varied, told apart by shape."""

from __future__ import annotations

import numpy as np
import pytest

from noisesteps.config import Preprocess, Toy
from noisesteps.data import prepare
from noisesteps.data.array import manifest
from noisesteps.data.toys import DRAWINGS
from noisesteps.seeds import numpy_generator

FORMATS = sorted(DRAWINGS)


def drawings(kind: str, count: int, size: int = 16) -> np.ndarray:
    draw = DRAWINGS[kind]
    return np.stack([draw(numpy_generator(1, kind, i), size) for i in range(count)])


def make(folder, kind, seed=0, **counts):
    counts = {"train": 6, "held_out": 3, **counts}
    dataset = Toy(format=kind, **counts)
    prepare(kind, dataset, Preprocess(image_size=16), seed, None, folder)
    return np.load(folder / "images.npy")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [8, 16, 32, 128])
def test_drawings_have_the_size_asked_for(kind, size):
    image = DRAWINGS[kind](numpy_generator(0), size)
    assert image.shape == (3, size, size) and image.dtype == np.uint8


@pytest.mark.parametrize("kind", FORMATS)
def test_drawings_depend_on_seed_and_index_alone(tmp_path, kind):
    images = make(tmp_path / "a", kind)
    assert images.shape == (9, 3, 16, 16)
    np.testing.assert_array_equal(images, make(tmp_path / "b", kind))
    more = make(tmp_path / "c", kind, train=5, held_out=9)
    np.testing.assert_array_equal(images, more[:9])
    assert (images != make(tmp_path / "d", kind, seed=1)).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_no_drawing_occurs_twice(tmp_path, kind):
    make(tmp_path, kind, train=150, held_out=50)
    rows = manifest(tmp_path)
    assert len({row["sha256"] for row in rows}) == 200
    assert [row["split"] for row in rows] == ["train"] * 150 + ["held_out"] * 50


def test_shapes_tell_them_apart_and_mean_colours_do_not():
    """A linear classifier on pixels beats one on mean colours by far."""
    images = np.concatenate([drawings(kind, 300) for kind in FORMATS]) / 255
    target = np.repeat([-1.0, 1.0], 300)
    learn = np.arange(600) % 3 > 0
    mean = images.mean(axis=(2, 3))
    colours = np.concatenate([mean, mean**2], axis=1)
    halves = images.mean(axis=1).reshape(600, 8, 2, 8, 2).mean(axis=(2, 4))
    by_colour = accuracy(colours, target, learn)
    by_shape = accuracy(halves.reshape(600, -1), target, learn)
    assert by_colour < 0.8
    assert by_shape > 0.95


def accuracy(features, target, learn):
    """Fit least squares on one part, return the accuracy on the other."""
    features = np.column_stack([features, np.ones(len(features))])
    weights = np.linalg.lstsq(features[learn], target[learn], rcond=None)[0]
    return np.mean(np.sign(features[~learn] @ weights) == target[~learn])
