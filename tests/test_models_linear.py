"""Linear layers of pixels, against PyTorch's own in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from noise import drawn, error, images
from noisesteps.models import kernels
from noisesteps.models.linear import can_multiply, multiplied, packed

pytestmark = pytest.mark.skipif(
    kernels.load() is None, reason="no kernels; test_models_kernels.py says whether so"
)


plain = partial(images, dtype=torch.float32)


def layer_of(inputs, outputs):
    return drawn(outputs, inputs, seed=1) / inputs**0.5, drawn(outputs, seed=2)


@settings(deadline=None)
@given(
    count=st.integers(0, 3),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    adds=st.booleans(),
)
def test_it_errs_no_more_than_pytorchs(count, size, inputs, outputs, adds):
    inputs, outputs = 16 * inputs, 16 * outputs
    x, (weight, bias) = plain(count, inputs, *size), layer_of(inputs, outputs)
    onto = plain(count, outputs, *size, seed=3) if adds else torch.zeros(())
    assert can_multiply(x, outputs)
    found = multiplied(x, packed(weight), bias, onto if adds else None)
    theirs, exact = (
        F.conv2d(x.to(dtype), weight.to(dtype)[..., None, None], bias.to(dtype)) + onto
        for dtype in (torch.float32, torch.float64)
    )
    assert found.shape == exact.shape
    if count:
        assert error(found, exact) < 2 * error(theirs, exact) + 2e-7


def test_neither_threads_nor_other_pixels_change_a_bit(set_threads):
    x, (weight, bias) = plain(1000, 48, 1, 1), layer_of(48, 80)
    found = []
    for threads in (1, 2, 64):
        set_threads(threads)
        found.append(multiplied(x, packed(weight), bias))
    alone = [multiplied(pixel, packed(weight), bias) for pixel in x.split(1)]
    found.append(torch.cat(alone))
    assert all(torch.equal(found[0], more) for more in found[1:])


@pytest.mark.parametrize(
    ("x", "outputs", "expected"),
    [
        (plain(2, 32, 5, 5), 48, True),
        (plain(2, 24, 5, 5), 48, False),
        (plain(2, 32, 5, 5), 24, False),
        (torch.zeros(2, 32, 5, 5), 48, False),
        (images(2, 32, 5, 5), 48, False),
        (plain(2, 32, 5, 5).to("meta"), 48, False),
    ],
)
def test_other_pixels_have_no_kernel(x, outputs, expected):
    assert can_multiply(x, outputs) is expected
