"""The copy detector, on sets with planted copies and on real duplicates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

import real_faces
from noisesteps.errors import StageError
from noisesteps.evaluation import (
    COPY_RATIO,
    CopyShare,
    copies,
    near_copies,
    nearer,
    nearest_relative,
)

needs_faces = real_faces.needs_faces
planted, to_image = real_faces.planted, real_faces.to_image


def images(seed: int, count: int, size: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    counts=st.tuples(st.integers(0, 20), st.integers(2, 40)),
    chunk=st.integers(1, 50),
)
def test_the_nearest_is_scipys_whatever_the_chunk(seed, counts, chunk):
    queries, references = images(seed, counts[0], 4), images(seed + 1, counts[1], 4)
    indices, distances, _ = nearest_relative(queries, references, chunk=chunk)
    expected = cdist(queries.reshape(-1, 48), references.reshape(-1, 48))
    assert indices.dtype == np.int64
    assert distances.dtype == np.float64
    assert indices.tolist() == expected.argmin(axis=1).tolist()
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("neighbours", [1, 10, 99])
def test_the_relative_distance_is_to_the_next_nearest(chunk, neighbours):
    random = np.random.default_rng(0)
    queries = random.normal(size=(30, 6)).astype(np.float32)
    references = random.normal(size=(60, 6)).astype(np.float32)
    indices, distances, relative = nearest_relative(
        queries, references, neighbours=neighbours, chunk=chunk
    )
    ordered = np.sort(cdist(queries, references), axis=1)
    around = ordered[:, 1 : neighbours + 1].mean(axis=1)
    np.testing.assert_allclose(relative, ordered[:, 0] / around, rtol=1e-6)
    np.testing.assert_array_equal(indices, cdist(queries, references).argmin(axis=1))
    np.testing.assert_allclose(distances, ordered[:, 0])


def test_queries_are_searched_in_blocks(monkeypatch):
    queries, references = images(1, 23), images(2, 40)
    whole = nearest_relative(queries, references)
    monkeypatch.setattr(copies, "QUERIES", 5)
    for one, other in zip(whole, nearest_relative(queries, references), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_memory_map_is_read_by_chunks(tmp_path):
    references = images(3, 50)
    np.save(tmp_path / "images.npy", references)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    queries = references[[7, 31]]
    indices, distances, _ = nearest_relative(queries, mapped, chunk=8)
    assert indices.tolist() == [7, 31]
    assert distances.tolist() == [0, 0]


def test_one_grey_level_is_seen():
    """Among bright images, where |x|² + |y|² - 2 x·y would round in float32."""
    references = np.full((3, 3, 64, 64), 255, np.uint8)
    references[1, 0, 0, 0] = 254
    references[2, 0, 0, :2] = 254
    indices, distances, _ = nearest_relative(references[[1]], references)
    assert (indices[0], distances[0]) == (1, 0)
    indices, distances, _ = nearest_relative(references[[2]], references[:2])
    assert (indices[0], distances[0]) == (1, 1)


@pytest.mark.parametrize("chunk", [2, 5, 256])
def test_of_equal_images_the_first_is_named(chunk):
    references = images(7, 5)[[3, 0, 1, 0, 2, 1, 0]]
    indices, *_ = nearest_relative(images(7, 2), references, chunk=chunk)
    assert indices.tolist() == [1, 2]


def test_a_copy_is_at_zero_in_features_too():
    features = np.random.default_rng(4).normal(50, 1, (300, 64)).astype(np.float32)
    indices, distances, relative = nearest_relative(features[::3], features)
    assert indices.tolist() == list(range(0, 300, 3))
    assert not distances.any()
    assert not relative.any()


def test_a_set_of_equal_images_is_all_copies():
    same = np.zeros((60, 3, 4, 4), np.uint8)
    assert nearest_relative(same[:2], same)[2].tolist() == [0, 0]


def test_the_nearer_of_two_answers_is_kept():
    first = (np.array([1, 2, 3]), np.array([5.0, 1.0, 2.0]))
    second = (np.array([7, 8, 9]), np.array([4.0, 3.0, 2.0]))
    indices, distances = nearer(first, second)
    assert indices.tolist() == [7, 2, 3]
    assert distances.tolist() == [4, 1, 2]


def test_wrong_sets_are_refused():
    few = images(5, 1)
    with pytest.raises(StageError, match="2 training images or more, not 1"):
        nearest_relative(few, few)
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), references \(3, 4, 4\)"):
        nearest_relative(few, images(6, 3, 4))


def test_the_share_has_clopper_and_pearsons_interval():
    """None of 100: 1 - 0.025^(1/100), which is 3.6 %. 5 of 100: from the tables."""
    assert near_copies(np.full(100, COPY_RATIO)) == CopyShare(
        0.0, 0.0, pytest.approx(1 - 0.025**0.01), 0, 100
    )
    found = near_copies(np.repeat([0.0, 0.49, 0.8], [1, 4, 95]))
    assert (found.value, found.copies, found.images) == (0.05, 5, 100)
    assert (found.low, found.high) == pytest.approx((0.01643, 0.11283), abs=1e-5)
    with pytest.raises(StageError, match="no generated image"):
        near_copies(np.zeros(0))


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    return real_faces.load()


def search(found: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, ...]:
    return nearer(
        nearest_relative(found, train), nearest_relative(found[..., ::-1], train)
    )


@needs_faces
def test_duplicates_in_a_real_archive_are_found(faces):
    train, held_out = faces
    indices, distances, relative = search(held_out, train)
    assert np.flatnonzero(distances == 0).tolist() == list(range(20))
    assert indices[:20].tolist() == list(range(20))
    share = near_copies(relative)
    assert 20 <= share.copies < 30  # the archive has near-duplicates, too


@needs_faces
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("exact", 1, 1),
        ("mirrored", 1, 1),
        ("noise of 10", 1, 1),
        ("noise of 20", 0.9, 1),
        ("brighter", 0.9, 1),
        ("blurred", 0.95, 1),
        ("shifted", 0, 0.3),  # not detected in pixels, as the documentation says
    ],
)
def test_planted_copies_are_found(faces, kind, low, high):
    train, _ = faces
    indices, _, relative = search(planted(train)[kind], train)
    assert low <= near_copies(relative).value <= high
    if low:
        assert (indices == np.arange(100, 200)).mean() > 0.9


@needs_faces
def test_a_mirrored_copy_needs_the_mirrored_search(faces):
    train, _ = faces
    relative = nearest_relative(planted(train)["mirrored"], train)[2]
    assert near_copies(relative).value < 0.1


@needs_faces
@pytest.mark.parametrize("kind", ["as it is", "noisy", "flat", "blurred"])
def test_what_is_no_copy_is_not_taken_for_one(faces, kind):
    """A plain distance takes blurred images for copies."""
    train, held_out = faces
    _, distances, relative = search(held_out, train)
    others = held_out[relative >= COPY_RATIO].astype(np.float64)
    made = {
        "as it is": others,
        "noisy": others + np.random.default_rng(3).normal(0, 20, others.shape),
        "flat": np.ones_like(others) * others.mean(axis=(2, 3), keepdims=True),
        "blurred": gaussian_filter(others, (0, 0, 3, 3)),
    }[kind]
    _, plain, found = search(to_image(made), train)
    assert near_copies(found).copies <= 1
    if kind == "blurred":
        nearly_nothing = np.quantile(distances[relative >= COPY_RATIO], 0.01)
        assert (plain < nearly_nothing).mean() > 0.05
