"""Precision and recall, against torch-fidelity and sets whose answer is known."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch_fidelity import metric_prc

from noisesteps.errors import StageError
from noisesteps.evaluation import (
    PrecisionRecall,
    neighbour_radii,
    precision_recall,
)

# The function of the same name hides the module behind it.
ROOM = importlib.import_module("noisesteps.evaluation.precision_recall")


def features(seed: int, count: int, dimensions: int, spread: float = 1.0) -> np.ndarray:
    """Features far from zero, where products in float32 round most."""
    random = np.random.default_rng(seed)
    return random.normal(5, spread, (count, dimensions)).astype(np.float32)


def torch_fidelity(samples, reference, neighbours: int) -> PrecisionRecall:
    found = metric_prc.prc_features_to_metric(
        torch.from_numpy(samples.astype(np.float64)),
        torch.from_numpy(reference.astype(np.float64)),
        prc_neighborhood=neighbours,
        prc_batch_size=10_000,
        save_cpu_ram=False,
        verbose=False,
    )
    return PrecisionRecall(
        found[metric_prc.KEY_METRIC_PRECISION], found[metric_prc.KEY_METRIC_RECALL]
    )


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("counts", [(20, 300), (300, 20), (64, 1500)])
@pytest.mark.parametrize("dimensions", [2, 16, 400])
def test_shares_equal_torch_fidelity(counts, dimensions, neighbours):
    samples = features(1, counts[0], dimensions, 0.9)
    reference = features(2, counts[1], dimensions)
    found = precision_recall(samples, reference, neighbours)
    expected = torch_fidelity(samples, reference, neighbours)
    assert found.precision == pytest.approx(expected.precision, abs=1e-6)
    assert found.recall == pytest.approx(expected.recall, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    counts=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    dimensions=st.integers(1, 12),
    shift=st.floats(-2, 2),
)
def test_precision_is_the_recall_of_the_sets_exchanged(seed, counts, dimensions, shift):
    random = np.random.default_rng(seed)
    first = random.normal(size=(counts[0], dimensions)).astype(np.float32)
    second = random.normal(shift, 1, (counts[1], dimensions)).astype(np.float32)
    found, turned = precision_recall(first, second), precision_recall(second, first)
    assert found == PrecisionRecall(turned.recall, turned.precision)
    assert 0 <= found.precision <= 1


def test_a_set_covers_itself_and_nothing_far():
    values = features(3, 50, 8)
    assert precision_recall(values, values) == PrecisionRecall(1.0, 1.0)
    assert precision_recall(values + 100, values) == PrecisionRecall(0.0, 0.0)


def test_a_collapsed_model_is_precise_and_recalls_little():
    """One of two clusters is generated: each sample looks real, half is missing."""
    random = np.random.default_rng(4)
    reference = random.normal(size=(400, 4))
    reference[200:] += 50
    samples = random.normal(0, 0.5, (200, 4))
    found = precision_recall(samples, reference)
    assert found.precision > 0.95
    assert found.recall < 0.5


def test_precision_by_hand():
    """Real 0, 1, 3 with k = 1 have radii 1, 1, 2; so [-1, 5] is covered."""
    reference = np.array([[0.0], [1.0], [3.0]])
    samples = np.array([[-0.9], [-1.1], [4.9], [5.1]])
    assert neighbour_radii(reference, 1).tolist() == [1, 1, 2]
    # The samples' own radii are 0.2: no ball of theirs reaches a real image.
    assert precision_recall(samples, reference, 1) == PrecisionRecall(0.5, 0.0)


@pytest.mark.parametrize("block", [7, 64, 1024])
def test_radii_are_those_of_a_tree(block, monkeypatch):
    monkeypatch.setattr(ROOM, "BLOCK", block)
    values = features(5, 200, 6)
    values[:3] = values[100]  # equal features are neighbours at distance zero
    distances, _ = cKDTree(values.astype(np.float64)).query(values, k=4)
    np.testing.assert_allclose(neighbour_radii(values, 3), distances[:, 3], atol=2e-3)


@pytest.mark.parametrize("block", [7, 64])
def test_blocks_do_not_change_the_shares(block, monkeypatch):
    samples, reference = features(6, 60, 8), features(7, 150, 8)
    whole = precision_recall(samples, reference)
    monkeypatch.setattr(ROOM, "BLOCK", block)
    assert precision_recall(samples, reference) == whole


def test_given_radii_are_used():
    samples, reference = features(8, 40, 8), features(9, 90, 8)
    radii = neighbour_radii(reference, 3)
    whole = precision_recall(samples, reference)
    assert precision_recall(samples, reference, reference_radii=radii) == whole
    none = precision_recall(samples, reference, reference_radii=radii * 0)
    assert none == PrecisionRecall(0.0, whole.recall)


def test_too_few_images_are_refused():
    few, many = features(10, 3, 4), features(11, 30, 4)
    for sides in ((few, many), (many, few)):
        with pytest.raises(StageError, match=r"more than 3 images .* not 3"):
            precision_recall(*sides)


def test_other_dimensions_are_refused():
    with pytest.raises(StageError, match="4 dimensions, but the reference 5"):
        precision_recall(features(1, 9, 4), features(1, 9, 5))
