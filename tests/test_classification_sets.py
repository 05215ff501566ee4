"""Origin, Synthesis, Mix and the test set."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesteps.classification import LabelledSet, build_sets
from noisesteps.data.array import Images
from noisesteps.errors import StageError


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


def values(labelled: LabelledSet) -> np.ndarray:
    return labelled.images[:, 0, 0, 0]


def test_the_sets_hold_what_their_names_say():
    built = build_sets(*pools(), images_per_class=6, seed=0)
    assert list(built) == ["origin", "synthesis", "mix", "test"]
    sizes = {name: np.bincount(one.labels).tolist() for name, one in built.items()}
    assert sizes == {
        "origin": [6, 6],
        "synthesis": [6, 6],
        "mix": [12, 12],
        "test": [4, 4],
    }
    assert built["origin"].classes == ("flowers", "butterflies")
    assert values(built["synthesis"]).tolist() == [*range(60, 66), *range(160, 166)]
    both = [*values(built["origin"]), *values(built["synthesis"])]
    assert values(built["mix"]).tolist() == both


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
        assert counts[0] == counts[1] == {"mix": 6, "test": min(held_out)}.get(name, 3)
        assert len(set(values(one).tolist())) == len(one)
        assert (values(one) // 100).tolist() == one.labels.tolist()
        starts = {"train": 0, "held_out": 30, "generated": 60}
        for value, source in zip(values(one).tolist(), one.sources, strict=True):
            part, index = source.rstrip("]").split("[")
            assert value % 100 == starts[part] + int(index)
    assert not set(values(built["origin"])) & set(values(built["test"]))
    assert all(source.startswith("held_out") for source in built["test"].sources)


def test_the_seed_chooses():
    first, again, other = (
        build_sets(*pools((90, 90)), images_per_class=5, seed=seed)
        for seed in (1, 1, 2)
    )
    for name in first:
        np.testing.assert_array_equal(first[name].images, again[name].images)
        assert first[name].sources == again[name].sources
    assert first["origin"].sources != other["origin"].sources
    assert first["synthesis"].sources == other["synthesis"].sources


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": (9, 5)}, "butterflies has 5 train images, but .* need 6; lower"),
        (
            {"generated": (5, 6)},
            "flowers has 5 generated images, .* `noisesteps sample`",
        ),
        ({"held_out": (5, 0)}, "butterflies has 0 held-out images, .* need 1; hold"),
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
