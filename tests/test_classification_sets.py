"""Origin, Synthesis, Mix, the two controls and the test set."""

import csv
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional

from noisesteps.classification import LabelledSet, build_set
from noisesteps.classification.augmentation import (
    ROTATION,
    SMALLEST_CROP,
    augment,
)
from noisesteps.config import SetName
from noisesteps.data.array import Images
from noisesteps.errors import StageError

NAMES = (*get_args(SetName), "test")
CONTROLS = ("mix", "origin_repeated", "origin_augmented")


def marked(count: int, first: int, size: int = 2) -> np.ndarray:
    """Return images that each hold one value of their own: first, first + 1, ..."""
    values = np.arange(first, first + count, dtype=np.uint8)
    return np.tile(values[:, None, None, None], (1, 3, size, size))


def pools(train=(9, 12), held_out=(5, 4), generated=(6, 8)):
    """Give flowers the values 0 to 99, butterflies 100 to 199."""
    real, made = {}, {}
    for label, name in enumerate(("flowers", "butterflies")):
        start = 100 * label
        real[name] = Images(
            marked(train[label], start), marked(held_out[label], start + 30)
        )
        made[name] = marked(generated[label], start + 60)
    return real, made


def build_sets(real, generated, **choices) -> dict[str, LabelledSet]:
    return {name: build_set(name, real, generated, **choices) for name in NAMES}


def values(labelled: LabelledSet) -> np.ndarray:
    return labelled.images[:, 0, 0, 0]


def test_the_sets_hold_what_their_names_say():
    built = build_sets(*pools(), images_per_class=6, seed=0)
    sizes = {name: np.bincount(one.labels).tolist() for name, one in built.items()}
    assert sizes == {
        "origin": [6, 6],
        "synthesis": [6, 6],
        "mix": [12, 12],
        "origin_repeated": [12, 12],
        "origin_augmented": [12, 12],
        "test": [4, 4],
    }
    assert built["origin"].classes == ("flowers", "butterflies")
    assert values(built["synthesis"]).tolist() == [*range(60, 66), *range(160, 166)]
    both = [*values(built["origin"]), *values(built["synthesis"])]
    assert values(built["mix"]).tolist() == both
    twice = [*values(built["origin"])] * 2
    assert values(built["origin_repeated"]).tolist() == twice
    # Every picture is of one colour, which no flip, crop or rotation changes.
    assert values(built["origin_augmented"]).tolist() == twice
    assert built["origin_augmented"].sources == built["origin"].sources + tuple(
        source.replace("train", "augmented") for source in built["origin"].sources
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    train=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    held_out=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_sets_are_balanced_labelled_and_apart(seed, train, held_out):
    built = build_sets(*pools(train, held_out), images_per_class=3, seed=seed)
    for name, one in built.items():
        counts = np.bincount(one.labels, minlength=2)
        expected = min(held_out) if name == "test" else 6 if name in CONTROLS else 3
        assert counts[0] == counts[1] == expected
        copies = 2 if name in CONTROLS and name != "mix" else 1
        assert len(set(values(one).tolist())) == len(one) / copies
        assert (values(one) // 100).tolist() == one.labels.tolist()
        starts = {"train": 0, "augmented": 0, "held_out": 30, "generated": 60}
        for value, source in zip(values(one).tolist(), one.sources, strict=True):
            part, index = source.rstrip("]").split("[")
            assert value % 100 == starts[part] + int(index)
    for name in ("origin", *CONTROLS):
        assert not set(values(built[name])) & set(values(built["test"]))
    assert all(source.startswith("held_out") for source in built["test"].sources)


def test_a_held_out_image_that_is_trained_on_too_tests_nothing():
    real, _ = pools(train=(9, 12), held_out=(5, 5))
    random = np.random.default_rng(0)
    train, held_out = (
        random.integers(0, 256, (count, 3, 2, 2), dtype=np.uint8) for count in (9, 6)
    )
    held_out[1], held_out[3] = train[4], train[7, :, :, ::-1]
    real["flowers"] = Images(train, held_out)
    built = build_set("test", real, {}, images_per_class=3, seed=0)
    expected = tuple(f"held_out[{place}]" for place in (0, 2, 4, 5))
    assert built.sources[:4] == expected
    np.testing.assert_array_equal(built.images[:4], held_out[[0, 2, 4, 5]])
    assert np.bincount(built.labels).tolist() == [4, 4]


def test_the_seed_chooses():
    first, again, other = (
        build_sets(*pools((30, 30)), images_per_class=5, seed=seed)
        for seed in (1, 1, 2)
    )
    for name in first:
        np.testing.assert_array_equal(first[name].images, again[name].images)
        assert first[name].sources == again[name].sources
    assert first["origin"].sources != other["origin"].sources
    assert first["synthesis"].sources == other["synthesis"].sources


def photographs(count=20, size=24) -> dict[str, Images]:
    """Return noise with a bright half, in which every change can be seen."""
    real = {}
    for place, name in enumerate(("flowers", "butterflies")):
        random = np.random.default_rng(place)
        shape = (count, 3, size, size)
        images = random.integers(0, 100, shape, dtype=np.uint8)
        images[..., : size // 2] += 150
        real[name] = Images(images, images[:2])
    return real


def test_augmented_images_follow_from_the_seed_alone():
    real = photographs()
    before = torch.get_rng_state()
    first = build_set("origin_augmented", real, {}, images_per_class=8, seed=1)
    torch.manual_seed(99)
    np.random.seed(99)
    state = torch.get_rng_state()
    again = build_set("origin_augmented", real, {}, images_per_class=8, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    np.testing.assert_array_equal(first.images, again.images)
    assert first.images.dtype == np.uint8
    assert first.images.shape == (32, 3, 24, 24)
    more = build_set("origin_augmented", real, {}, images_per_class=9, seed=1)
    where = {
        key: row for row, key in enumerate(zip(more.labels, more.sources, strict=True))
    }
    same = [where[key] for key in zip(first.labels, first.sources, strict=True)]
    np.testing.assert_array_equal(first.images, more.images[same])
    other = build_set("origin_augmented", real, {}, images_per_class=20, seed=2)
    whole = build_set("origin_augmented", real, {}, images_per_class=20, seed=1)
    np.testing.assert_array_equal(other.images[:40], whole.images[:40])
    assert not any(map(np.array_equal, other.images[40:], whole.images[40:]))


def test_no_version_equals_its_image_and_no_two_are_changed_alike():
    real = photographs()
    built = build_set("origin_augmented", real, {}, images_per_class=20, seed=0)
    real_half, versions = np.split(built.images, 2)
    assert not any(map(np.array_equal, real_half, versions))
    one = np.broadcast_to(real_half[0], real_half.shape)
    random = np.random.default_rng(0)
    assert len({augment(image, random).tobytes() for image in one}) == len(one)


class Drawn:
    """Stand in for a generator with numbers of the test's choice."""

    def __init__(self, scale=1.0, right=0.0, down=0.0, angle=0.0, flip=0.9):
        self.uniforms, self.flip = [scale, right, down, angle], flip

    def uniform(self, low, high):
        drawn = self.uniforms.pop(0)
        assert low <= drawn <= high
        return drawn

    def random(self):
        assert not self.uniforms
        return self.flip


def waves(size: int) -> np.ndarray:
    """Return a smooth picture that differs in every direction and colour."""
    y, x = np.mgrid[:size, :size] / size
    planes = [np.sin(5 * x + y), np.cos(4 * y - x), np.sin(3 * x * y + 2 * y)]
    return np.uint8(np.round(127.5 + 100 * np.stack(planes)))


def furthest(one: np.ndarray, other: np.ndarray, border: int = 0) -> int:
    """Return the largest difference of a pixel that is not near the border."""
    inside = np.s_[:, border : one.shape[1] - border, border : one.shape[2] - border]
    return np.abs(one[inside].astype(int) - other[inside].astype(int)).max()


def test_a_mirrored_version_is_the_mirror_image():
    image = photographs()["flowers"].train[0]
    np.testing.assert_array_equal(augment(image, Drawn()), image)
    np.testing.assert_array_equal(augment(image, Drawn(flip=0.4)), image[..., ::-1])


def test_a_crop_is_pillows():
    image = waves(40)
    box = (7, 1, 39, 33)  # 32 of 40 pixels, 3 to the right and 3 up of the middle
    picture = Image.fromarray(image.transpose(1, 2, 0))
    resized = picture.resize((40, 40), Image.Resampling.BICUBIC, box=box)
    version = augment(image, Drawn(scale=0.8, right=3, down=-3))
    assert furthest(version, np.asarray(resized).transpose(2, 0, 1)) <= 2
    wrong = augment(image, Drawn(scale=0.8, right=-3, down=-3))
    assert furthest(wrong, np.asarray(resized).transpose(2, 0, 1)) > 20


@pytest.mark.parametrize("flip", [0.4, 0.9])
@pytest.mark.parametrize("angle", [ROTATION, -ROTATION, 4])
def test_a_rotation_is_torchvisions(angle, flip):
    image = waves(48)
    turned = functional.rotate(
        torch.from_numpy(image), angle, functional.InterpolationMode.BILINEAR
    ).numpy()
    if flip < 0.5:
        turned = turned[..., ::-1]
    # torchvision leaves the corners blank, so they are left out.
    assert furthest(augment(image, Drawn(angle=angle, flip=flip)), turned, 8) <= 2


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(8, 130),
    scale=st.floats(SMALLEST_CROP, 1),
    right=st.sampled_from([-1, 1]),
    down=st.sampled_from([-1, 1]),
    angle=st.floats(-ROTATION, ROTATION),
)
def test_no_corner_is_blank(size, scale, right, down, angle):
    """In the worst places too, every pixel shows the picture or its reflection."""
    room = (1 - scale) * size / 2
    drawn = Drawn(scale, right * room, down * room, angle)
    assert (augment(np.full((3, size, size), 255, np.uint8), drawn) == 255).all()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": (9, 5)}, "butterflies has 5 train images, but .* need 6; lower"),
        (
            {"generated": (5, 6)},
            "flowers has 5 generated images, .* `noisesteps sample`",
        ),
        (
            {"held_out": (5, 0)},
            "butterflies has 0 distinct held-out images, .* need 1; hold",
        ),
    ],
)
def test_too_few_images_are_named(sizes, message):
    with pytest.raises(StageError, match=message):
        build_sets(*pools(**sizes), images_per_class=6, seed=0)


def test_images_of_different_sizes_are_refused():
    real, made = pools()
    made["flowers"] = marked(6, 60, size=4)
    with pytest.raises(StageError, match=r"differ in size \(2×2 and 4×4\)"):
        build_sets(real, made, images_per_class=6, seed=0)


def test_a_set_survives_the_disk(tmp_path):
    saved = build_sets(*pools(), images_per_class=6, seed=0)["mix"]
    saved.save(tmp_path)
    loaded = LabelledSet.load(tmp_path)
    np.testing.assert_array_equal(loaded.images, saved.images)
    np.testing.assert_array_equal(loaded.labels, saved.labels)
    assert loaded.labels.dtype == saved.labels.dtype == np.int64
    assert (loaded.classes, loaded.sources) == (saved.classes, saved.sources)
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[6] == {
        "index": "6", "label": "1", "class": "butterflies", "source": saved.sources[6]
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images.npy",
        "labels.csv",
    ]


def test_a_damaged_set_is_refused(tmp_path):
    with pytest.raises(StageError, match="holds no set"):
        LabelledSet.load(tmp_path)
    one = build_sets(*pools(), images_per_class=6, seed=0)["test"]
    one.save(tmp_path)
    np.save(tmp_path / "images.npy", one.images[:3])
    with pytest.raises(StageError, match="3 images, but 8 labels"):
        LabelledSet.load(tmp_path)
    (tmp_path / "images.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(StageError, match="holds no set"):
        LabelledSet.load(tmp_path)
    one.save(tmp_path)
    (tmp_path / "labels.csv").write_text("index,class\n0,flowers\n")
    with pytest.raises(StageError, match="holds no set"):
        LabelledSet.load(tmp_path)
