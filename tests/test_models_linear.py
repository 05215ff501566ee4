"""Linear layers of pixels, against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from noise import drawn, error
from noisesteps.models import kernels
from noisesteps.models.linear import can_multiply, multiplied, packed

pytestmark = pytest.mark.skipif(
    kernels.load() is None, reason="no kernels; test_models_kernels.py says whether so"
)


def layer_of(inputs, outputs):
    return drawn(outputs, inputs, seed=1) / inputs**0.5, drawn(outputs, seed=2)


@settings(deadline=None)
@given(
    images=st.integers(0, 3),
    pixels=st.integers(1, 120),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    adds=st.booleans(),
)
def test_it_errs_no_more_than_pytorchs(images, pixels, inputs, outputs, adds):
    inputs, outputs = 16 * inputs, 16 * outputs
    x, (weight, bias) = drawn(images, pixels, inputs), layer_of(inputs, outputs)
    onto = drawn(images, pixels, outputs, seed=3) if adds else torch.zeros(())
    assert can_multiply(x, outputs)
    found = multiplied(x, packed(weight), bias, onto if adds else None)
    theirs, exact = (
        F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype)) + onto
        for dtype in (torch.float32, torch.float64)
    )
    assert found.shape == exact.shape
    if images:
        assert error(found, exact) < 2 * error(theirs, exact) + 2e-7


def test_neither_threads_nor_other_pixels_change_a_bit(set_threads):
    x, (weight, bias) = drawn(1000, 48), layer_of(48, 80)
    found = []
    for threads in (1, 2, 64):
        set_threads(threads)
        found.append(multiplied(x, packed(weight), bias))
    alone = [multiplied(pixel[None], packed(weight), bias) for pixel in x]
    found.append(torch.cat(alone))
    assert all(torch.equal(found[0], more) for more in found[1:])


@pytest.mark.parametrize(
    ("x", "outputs", "expected"),
    [
        (torch.zeros(5, 32), 48, True),
        (torch.zeros(5, 24), 48, False),
        (torch.zeros(5, 32), 24, False),
        (torch.zeros(32, 5).t(), 48, False),
        (torch.zeros(5, 32).bfloat16(), 48, False),
        (torch.zeros(5, 32, device="meta"), 48, False),
    ],
)
def test_other_pixels_have_no_kernel(x, outputs, expected):
    assert can_multiply(x, outputs) is expected
