"""The kernels of the network's layers, against PyTorch's own in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from noise import drawn, error, images
from noisesteps.models import UNet, kernels
from noisesteps.models.blocks import Attention, attend
from noisesteps.models.fused import attend_side_by_side, normalise
from noisesteps.models.kernels import has_kernels
from noisesteps.models.unet import sinusoidal_embedding

pytestmark = pytest.mark.skipif(
    kernels.load() is None, reason="no kernels; test_models_kernels.py says whether so"
)
ROUNDING = 2**-8  # a bfloat16's, relative: twice the half of its last digit
SMALLEST = 2e-5
DTYPES = [torch.float32, torch.bfloat16]


def layer_of(groups, channels):
    layer = torch.nn.GroupNorm(groups, channels)
    layer.weight.data, layer.bias.data = (
        drawn(channels, seed=1),
        drawn(channels, seed=2),
    )
    return layer


def exactly(layer, x, activates):
    """Return normalised images and the gradient's leaves, in float64."""
    leaves = [x.detach().double().contiguous()]
    leaves += [parameter.detach().double() for parameter in (layer.weight, layer.bias)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    result = F.group_norm(leaves[0], layer.num_groups, *leaves[1:], layer.eps)
    return (F.silu(result) if activates else result), leaves


def assert_rounded(result, exact, terms=1, mean=0):
    """Compare what was summed up of `terms` numbers and rounded to its dtype.

    The `mean` that was taken off was rounded to float32.
    """
    rounding = ROUNDING if result.dtype is torch.bfloat16 else 1e-5
    smallest = terms**0.5 * SMALLEST * max(exact.abs().mean().item(), 1.0)
    smallest += mean * 2**-21
    torch.testing.assert_close(result.double(), exact, rtol=rounding, atol=smallest)


# Normalisation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activates", [True, False])
@pytest.mark.parametrize(
    ("side", "mean"),
    [(1, 0), (4, 0), (4, 3), (8, 3), (16, 0), (16, 300), (32, 3), (32, 300)],
)
@pytest.mark.parametrize(("groups", "channels"), [(4, 24), (2, 16), (8, 128)])
def test_normalisation_and_its_gradient_are_exact_but_for_rounding(
    dtype, activates, mean, side, groups, channels
):
    layer = layer_of(groups, channels)
    x = images(3, channels, side, side, mean=mean, dtype=dtype)
    exact, leaves = exactly(layer, x, activates)
    gradient = images(*x.shape, seed=3, dtype=dtype)
    exact.backward(gradient.double())
    x.requires_grad_()
    result = normalise(layer, x, activates=activates)
    result.backward(gradient)
    assert result.dtype is dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert_rounded(result, exact, mean=mean)
    assert_rounded(x.grad, leaves[0].grad, mean=mean)
    assert_rounded(layer.weight.grad, leaves[1].grad, terms=x.numel() / channels)
    assert_rounded(layer.bias.grad, leaves[2].grad, terms=x.numel() / channels)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 4),
    groups=st.integers(1, 3),
    width=st.integers(1, 20),
    height=st.integers(2, 9),  # PyTorch refuses a single pixel of a single image
    breadth=st.integers(1, 9),
    activates=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_images_of_any_shape_are_normalised(
    count, groups, width, height, breadth, activates, dtype
):
    layer = layer_of(groups, groups * width)
    x = images(count, groups * width, height, breadth, dtype=dtype)
    result = normalise(layer, x, activates=activates)
    exact, _ = exactly(layer, x, activates)
    assert_rounded(result, exact)


def test_weights_and_gradients_of_another_kind_are_converted():
    """The kernels take addresses: a converted copy has to last until they end."""
    layer, x = layer_of(4, 24).bfloat16(), images(3, 24, 8, 8).requires_grad_()
    exact, leaves = exactly(layer, x, True)
    gradient = drawn(3, 24, 8, 8, seed=3).bfloat16()  # contiguous
    exact.backward(gradient.double())
    result = normalise(layer, x)
    result.backward(gradient)
    assert_rounded(result, exact)
    assert_rounded(x.grad, leaves[0].grad)
    for parameter, leaf in zip(layer.parameters(), leaves[1:], strict=True):
        assert parameter.grad.dtype is torch.bfloat16
        assert_rounded(parameter.grad, leaf.grad, terms=192)


def test_a_constant_image_becomes_the_bias():
    layer, x = layer_of(2, 16), images(1, 16, 4, 4).fill_(7)
    result = normalise(layer, x, activates=False)
    assert_rounded(result, layer.bias.double()[None, :, None, None].expand(x.shape))


@pytest.mark.parametrize("activates", [True, False])
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_no_number_stays_to_be_found(activates, odd):
    layer, x = layer_of(2, 16), images(2, 16, 8, 8)
    x[1, 3, 4, 4] = odd
    x.requires_grad_()
    result = normalise(layer, x, activates=activates)
    assert result[0].isfinite().all()
    assert result[1, :8].isnan().all()
    result.sum().backward()
    assert x.grad[0].isfinite().all() and not x.grad[1].isfinite().all()
    assert not layer.weight.grad.isfinite().all()


def test_large_numbers_are_activated_as_they_are():
    layer = torch.nn.GroupNorm(1, 8)
    layer.weight.data.fill_(1e4)
    x = images(1, 8, 4, 4)
    result = normalise(layer, x, activates=True)
    assert_rounded(result, exactly(layer, x, True)[0])


# Attention


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.1, 1, 30])
@pytest.mark.parametrize("pixels", [1, 3, 16, 64, 100])
def test_attention_and_its_gradient_are_exact_but_for_rounding(pixels, scale, dtype):
    """The largest scores are thousands: a softmax without its maximum overflows."""
    count, heads = 2, 3
    given = (drawn(count, pixels, 3, heads, 8) * scale).to(dtype)
    gradient = drawn(count, pixels, heads * 8, seed=1).to(dtype)
    exact_leaf = given.double().requires_grad_()
    exact = attend(*exact_leaf.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
    exact.backward(gradient.double())
    leaf = given.flatten(2).requires_grad_()
    result = attend_side_by_side(leaf, heads)
    result.backward(gradient)
    # Scores of about the scale's square are exponents, in float32.
    relative = ROUNDING if dtype is torch.bfloat16 else 1e-5
    for found, expected in ((result, exact), (leaf.grad, exact_leaf.grad.flatten(2))):
        tolerance = (SMALLEST + scale**2 * 2**-19) * expected.abs().max().item()
        torch.testing.assert_close(
            found.double(), expected, rtol=relative, atol=tolerance
        )


def test_attention_takes_gradients_in_any_layout():
    given = drawn(2, 16, 48).bfloat16()
    gradient = drawn(16, 2, 16, seed=1).bfloat16().transpose(0, 1)
    found = []
    for one in (gradient, gradient.contiguous()):
        leaf = given.clone().requires_grad_()
        attend_side_by_side(leaf, 2).backward(one)
        found.append(leaf.grad)
    assert torch.equal(*found)


def test_no_images_are_no_trouble():
    layer, x = layer_of(2, 16), images(0, 16, 4, 4).requires_grad_()
    normalise(layer, x).sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.any()
    projected = torch.empty(0, 16, 48, dtype=torch.bfloat16, requires_grad=True)
    attend_side_by_side(projected, 2).sum().backward()
    assert projected.grad.shape == projected.shape


def test_attention_to_what_is_no_number_is_none():
    given = drawn(2, 16, 3, 2, 8).bfloat16()
    given[1, 5, 1, 0, 3] = float("nan")  # of a key, which every pixel looks at
    result = attend_side_by_side(given.flatten(2), 2)
    assert result[0].isfinite().all()
    assert result[1, :, :8].isnan().all()
    assert result[1, :, 8:].isfinite().all()


@pytest.mark.parametrize("side", [4, 8])
def test_a_layer_of_attention_errs_no_more_than_pytorchs(side):
    layer = Attention(32, groups=4)
    x = drawn(4, 32, side, side)
    exact = layer(x)

    def error(layout):
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            result = layer(x.to(torch.bfloat16, memory_format=layout))
        return (result - exact).square().mean()

    ours, theirs = error(torch.channels_last), error(torch.contiguous_format)
    assert 0 < ours < 1.05 * theirs


# Where they are used


@pytest.mark.parametrize(
    ("dtype", "layout", "expected"),
    [
        (torch.bfloat16, torch.channels_last, True),
        (torch.bfloat16, torch.contiguous_format, False),
        (torch.float32, torch.channels_last, True),
        (torch.float32, torch.contiguous_format, False),
        (torch.float16, torch.channels_last, False),
    ],
)
def test_there_are_kernels_for_channels_last(dtype, layout, expected):
    x = drawn(2, 8, 4, 4).to(dtype, memory_format=layout)
    assert has_kernels(x) is expected
    assert not has_kernels(x.to("meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalisation_keeps_dtype_and_layout(dtype, layout):
    layer = layer_of(4, 16)
    x = drawn(2, 16, 8, 8).to(dtype, memory_format=layout)
    result = normalise(layer, x)
    assert result.dtype is dtype
    assert result.is_contiguous(memory_format=layout)
    exact, _ = exactly(layer, x, True)
    torch.testing.assert_close(result.double(), exact, rtol=2**-7, atol=2e-3)


def gradients(network, x, layout, **keywords):
    network.to(memory_format=layout).zero_grad()
    with torch.autocast("cpu", **keywords):
        predicted = network(x.to(memory_format=layout), 3)
    predicted.float().square().sum().backward()
    return torch.cat([weight.grad.flatten() for weight in network.parameters()])


def test_the_networks_gradients_in_fp32_are_close_to_those_in_float64():
    network, x = UNet.preset("toy-16", 16, seed=1), drawn(8, 3, 16, 16)
    double = copy.deepcopy(network).double()
    sinusoids = sinusoidal_embedding(torch.tensor([3]), 16).double()
    predicted = double(x.double(), embedding=F.silu(double.time_embedding(sinusoids)))
    predicted.square().sum().backward()
    exact = torch.cat([weight.grad.flatten() for weight in double.parameters()])
    errors = [
        error(gradients(network, x, layout, enabled=False), exact)
        for layout in (torch.channels_last, torch.contiguous_format)
    ]
    assert 0 < errors[0] < 2 * errors[1]


@pytest.mark.parametrize(("preset", "size"), [("tiny", 8), ("toy-16", 16)])
def test_the_networks_gradients_err_no_more_than_with_pytorchs_kernels(preset, size):
    """Of several networks and images: of one, either may be the better by chance."""
    layouts, errors = (torch.channels_last, torch.contiguous_format), [0.0, 0.0]
    for seed in range(6):
        network, x = UNet.preset(preset, size, seed=seed), drawn(8, 3, size, size)
        exact = gradients(network, x, torch.contiguous_format, enabled=False)
        for index, layout in enumerate(layouts):
            found = gradients(network, x, layout, dtype=torch.bfloat16)
            errors[index] += (found - exact).square().sum().item()
    assert 0 < errors[0] < errors[1]


@pytest.mark.parametrize("in_bf16", [True, False])
def test_recomputing_gives_the_same_bits(in_bf16):
    network, x = UNet.preset("toy-16", 16, seed=1), drawn(4, 3, 16, 16)
    keywords = {"dtype": torch.bfloat16, "enabled": in_bf16}
    kept = gradients(network, x, torch.channels_last, **keywords)
    network.recompute_activations()
    again = gradients(network, x, torch.channels_last, **keywords)
    assert torch.equal(kept, again)


def test_the_number_of_threads_changes_no_bit(set_threads):
    found = []
    for threads in (1, 2, 64):
        set_threads(threads)
        layer, leaf = layer_of(4, 16), images(5, 16, 8, 8).requires_grad_()
        projected = images(3, 48, 4, 4).permute(0, 2, 3, 1).flatten(1, 2)
        projected = projected.contiguous().requires_grad_()
        normalise(layer, leaf).square().sum().backward()
        attend_side_by_side(projected, 2).square().sum().backward()
        leaves = (leaf, *layer.parameters(), projected)
        found.append([one.grad for one in leaves])
    for more in found[1:]:
        assert all(map(torch.equal, found[0], more))
