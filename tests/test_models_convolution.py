"""Convolutions by 3x3, against PyTorch's own in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noise import drawn, error, images
from noisesteps.models import kernels, tiles
from noisesteps.models.convolution import convolve
from noisesteps.models.few_channels import can_convolve_to_few
from noisesteps.models.tiles import LARGE, SMALL, Scale, can_convolve, side_of

pytestmark = pytest.mark.skipif(
    kernels.load() is None, reason="no kernels; test_models_kernels.py says whether so"
)
DTYPES = [torch.float32, torch.bfloat16]
CHANNELS_LAST = torch.channels_last


def convolution(inputs, outputs):
    layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
    layer.weight.data = drawn(outputs, inputs, 3, 3, seed=1) / inputs**0.5
    layer.bias.data = drawn(outputs, seed=2)
    return layer.to(memory_format=torch.channels_last)


def convolved_by_pytorch(layer, x, shift, onto, doubles, dtype):
    """Return a result and the gradient's leaves, by PyTorch's kernels in a dtype."""
    leaves = [x, layer.weight, layer.bias, shift, onto]
    leaves = [
        None if leaf is None else leaf.detach().to(dtype).contiguous().requires_grad_()
        for leaf in leaves
    ]
    x, weight, bias, shift, onto = leaves
    x = F.interpolate(x, scale_factor=2.0) if doubles else x
    y = F.conv2d(x, weight, bias, padding=1)
    y = y if shift is None else y + shift[:, :, None, None]
    return (y if onto is None else y + onto), leaves


def convolved_by_ours(layer, x, shift, onto, doubles):
    """Return a result and the gradient's leaves; bf16 as in training, by autocast."""
    leaves = [
        leaf if leaf is None else leaf.detach().requires_grad_()
        for leaf in (x, shift, onto)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype is torch.bfloat16):
        assert can_convolve(layer, x, doubles=doubles)
        y = convolve(layer, leaves[0], shift=leaves[1], onto=leaves[2], doubles=doubles)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype is x.dtype
    return y, [leaves[0], layer.weight, layer.bias, *leaves[1:]]


def results_and_gradients(found, gradient):
    """Return the result and the gradients of x, weight, bias, shift and onto."""
    result, leaves = found
    result.backward(gradient.to(result.dtype))
    return [result, *(None if leaf is None else leaf.grad for leaf in leaves)]


def assert_errs_no_more_than_pytorchs(layer, x, shift, onto, doubles):
    """Compare the result and every gradient with those in float64, and PyTorch's.

    PyTorch's kernels sum in other orders, and ours have fewer products to sum: each
    may be the better by chance.
    """
    given = (layer, x, shift, onto, doubles)
    whole = convolved_by_pytorch(*given, torch.float64)
    gradient = images(*whole[0].shape, seed=5, dtype=torch.float32)
    for our, their, exact in zip(
        results_and_gradients(convolved_by_ours(*given), gradient),
        results_and_gradients(convolved_by_pytorch(*given, torch.float32), gradient),
        results_and_gradients(whole, gradient),
        strict=True,
    ):
        if our is not None:
            assert our.shape == exact.shape
            assert error(our, exact) < 2 * error(their, exact) + 2e-7


def assert_errs_by_one_rounding(layer, x, shift, onto, doubles):
    """Compare the result and every gradient with those in float64.

    What has the dtype bf16 is rounded once: by 2^-8 at most, and by less than half of
    that in the mean over many. Nothing is before. The gradients of weights and bias are
    sums in float32.
    """
    given = (layer, x, shift, onto, doubles)
    exact = convolved_by_pytorch(*given, torch.float64)
    gradient = images(*exact[0].shape, seed=5)
    found = results_and_gradients(convolved_by_ours(*given), gradient)
    for index, (our, true) in enumerate(
        zip(found, results_and_gradients(exact, gradient), strict=True)
    ):
        if our is not None:
            assert our.shape == true.shape
            of_weights = index in (2, 3)
            rounding = 2**-9 if our.numel() > 1000 else 2**-8
            assert our.dtype is (torch.float32 if of_weights else torch.bfloat16)
            assert error(our, true) < (1.5e-6 if of_weights else rounding)


SHAPES = [(1, 2, 16, 16), (3, 4, 128, 64), (16, 4, 16, 32), (5, 8, 48, 16)]
SHAPES += [(2, 32, 16, 48), (3, 6, 64, 16), (9, 8, 32, 32)]
sizes = pytest.mark.parametrize(("count", "side", "inputs", "outputs"), SHAPES)


@pytest.mark.parametrize("doubles", [False, True])
@sizes
def test_convolution_and_its_gradients_err_no_more_than_pytorchs(
    count, side, inputs, outputs, doubles
):
    layer = convolution(inputs, outputs)
    x = images(count, inputs, side, side, dtype=torch.float32)
    side *= 1 + doubles
    onto = images(count, outputs, side, side, seed=3, dtype=torch.float32)
    shift = drawn(count, outputs, seed=4)
    assert_errs_no_more_than_pytorchs(layer, x, shift, onto, doubles)


@pytest.fixture
def in_bf16_too(monkeypatch):
    """Convolve images of any size in bf16, on any CPU that there are kernels for."""
    monkeypatch.setattr(tiles, "_gains_in_bf16", lambda x, doubles: True)


@pytest.mark.parametrize("doubles", [False, True])
@sizes
def test_convolution_in_bf16_and_its_gradients_are_rounded_once(
    in_bf16_too, count, side, inputs, outputs, doubles
):
    layer = convolution(inputs, outputs)
    x = images(count, inputs, side, side)
    side *= 1 + doubles
    onto = images(count, outputs, side, side, seed=3)
    shift = drawn(count, outputs, seed=4).bfloat16()
    assert_errs_by_one_rounding(layer, x, shift, onto, doubles)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # alike for all
)
@given(
    dtype=st.sampled_from(DTYPES),
    count=st.integers(1, 9),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 9),
    doubles=st.booleans(),
    shift=st.sampled_from([None, "one", "each"]),
    adds=st.booleans(),
)
def test_images_of_any_even_sides_are_convolved(
    in_bf16_too, dtype, count, inputs, outputs, height, width, doubles, shift, adds
):
    layer = convolution(16 * inputs, 16 * outputs)
    shape = (height, width) if doubles else (2 * height, 2 * width)
    x = images(count, 16 * inputs, *shape, dtype=dtype)
    if shift is not None:
        shift = drawn(count if shift == "each" else 1, 16 * outputs, seed=4).to(dtype)
    onto = None
    if adds:
        onto = drawn(count, 16 * outputs, 2 * height, 2 * width, seed=3).to(dtype)
    bf16 = dtype is torch.bfloat16
    check = assert_errs_by_one_rounding if bf16 else assert_errs_no_more_than_pytorchs
    check(layer, x, shift, onto, doubles)


@pytest.mark.parametrize(
    ("dtype", "channels", "size", "scale", "large"),
    [
        (torch.float32, 32, (8, 8), Scale.SAME, True),
        (torch.float32, 16, (8, 8), Scale.SAME, False),
        (torch.bfloat16, 16, (8, 8), Scale.SAME, True),
        (torch.bfloat16, 64, (4, 4), Scale.SAME, False),
        (torch.bfloat16, 64, (8, 10), Scale.SAME, False),
        (torch.bfloat16, 64, (8, 8), Scale.DOUBLED, False),
    ],
)
def test_tiles_are_large_where_that_is_faster_and_as_exact(
    dtype, channels, size, scale, large
):
    assert side_of(images(1, channels, *size, dtype=dtype), scale) == (
        LARGE if large else SMALL
    )


def test_weights_in_bf16_have_gradients_in_bf16(in_bf16_too):
    layer, x = convolution(16, 32).bfloat16(), images(2, 16, 8, 8)
    assert can_convolve(layer, x)
    result = convolve(layer, x.requires_grad_())
    result.sum().backward()
    assert result.dtype is torch.bfloat16
    assert {weight.grad.dtype for weight in layer.parameters()} == {torch.bfloat16}


def test_images_that_want_no_gradient_get_none():
    layer, x = convolution(16, 32), images(2, 16, 8, 8, dtype=torch.float32)
    convolve(layer, x).sum().backward()
    assert x.grad is None and layer.weight.grad.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("side", [6, 12])
def test_an_images_result_does_not_depend_on_its_batch(
    in_bf16_too, dtype, doubles, side
):
    layer, x = convolution(32, 16).to(dtype), images(9, 32, side, side, dtype=dtype)
    together = convolve(layer, x, doubles=doubles)
    alone = [convolve(layer, image[None], doubles=doubles) for image in x]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(in_bf16_too, set_threads, dtype, count):
    """Nor whether they share the tiles or, where those are few, the outputs."""
    found = []
    for threads in (1, 2, 64):
        set_threads(threads)
        layer = convolution(32, 48).to(dtype)
        x = images(count, 32, 12, 12, dtype=dtype).requires_grad_()
        result = convolve(layer, x)
        result.square().sum().backward()
        found.append([result, x.grad, *(one.grad for one in layer.parameters())])
    for more in found[1:]:
        assert all(map(torch.equal, found[0], more))


@pytest.mark.parametrize(
    ("layer", "side", "expected"),
    [
        (torch.nn.Conv2d(16, 32, 3, padding=1), 8, True),
        (torch.nn.Conv2d(16, 32, 3, padding=1), 7, False),
        (torch.nn.Conv2d(16, 8, 3, padding=1), 8, False),
        (torch.nn.Conv2d(16, 32, 3, padding=1, stride=2), 8, False),
        (torch.nn.Conv2d(16, 32, 3), 8, False),
        (torch.nn.Conv2d(16, 32, 1), 8, False),
        (torch.nn.Conv2d(16, 32, 3, padding=1, groups=2), 8, False),
        (torch.nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular"), 8, False),
        (torch.nn.Conv2d(16, 32, 3, padding=2, dilation=2), 8, False),
        (torch.nn.Conv2d(16, 32, 3, padding=1, bias=False), 8, False),
    ],
)
def test_other_convolutions_are_pytorchs(layer, side, expected):
    x = images(2, 16, side, side, dtype=torch.float32)
    assert can_convolve(layer, x) is expected
    assert not can_convolve(layer, x.bfloat16())
    assert not can_convolve(layer, x.contiguous())
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_convolve(layer, x)
    exact = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(convolve(layer, x).double(), exact, rtol=1e-5, atol=1e-5)


def test_what_is_added_takes_the_shape_of_the_result_or_is_refused():
    layer, x = convolution(16, 16), images(3, 16, 8, 8, dtype=torch.float32)
    onto, shift = drawn(1, 16, 1, 1), drawn(2, 16)
    torch.testing.assert_close(convolve(layer, x, onto=onto), convolve(layer, x) + onto)
    with pytest.raises(RuntimeError, match="expand"):
        convolve(layer, x, shift=shift)
    with pytest.raises(RuntimeError, match="channels"):
        convolve(layer, x[:, :8].contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pixel_that_is_no_number_reaches_its_neighbours(in_bf16_too, dtype):
    layer, x = convolution(16, 16), images(2, 16, 8, 8, dtype=torch.float32)
    x[1, 3, 4, 4] = float("nan")
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        result = convolve(layer, x.to(dtype))
    assert result[0].isfinite().all()
    assert result[1, :, 3:6, 3:6].isnan().all()


def test_no_images_are_convolved_to_none():
    layer = convolution(16, 16)
    x = images(0, 16, 8, 8, dtype=torch.float32).requires_grad_()
    convolve(layer, x).sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.any()


@pytest.mark.parametrize(
    ("side", "doubles", "amx", "expected"),
    [(8, False, False, True), (4, False, False, False), (4, True, False, True),
     (10, False, False, False), (8, False, True, False), (4, True, True, False)],
)  # fmt: skip
def test_bf16_is_left_to_onednn_where_that_is_faster(
    monkeypatch, side, doubles, amx, expected
):
    monkeypatch.setattr(tiles, "_has_amx", lambda: amx)
    layer, x = convolution(16, 16).bfloat16(), images(2, 16, side, side)
    assert can_convolve(layer, x, doubles=doubles) is expected
    assert can_convolve(layer.float(), x.float(), doubles=doubles)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, True), ({"amx_bf16": False}, False), ({"neon": True}, False)],
)
def test_amx_is_what_pytorch_says_of_the_processor(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert tiles._has_amx.__wrapped__() is expected


# To few channels


@settings(deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    count=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
def test_images_of_any_sides_are_convolved_to_few_channels(
    dtype, count, inputs, outputs, height, width
):
    layer = convolution(16 * inputs, outputs)
    x = images(count, 16 * inputs, height, width, dtype=dtype)
    gradient = images(count, outputs, height, width, seed=5, dtype=dtype)
    results = [
        results_and_gradients(one, gradient)[:4]
        for one in (
            convolved_to_few_by_ours(layer, x),
            convolved_by_pytorch(layer, x, None, None, False, torch.float32),
            convolved_by_pytorch(layer, x, None, None, False, torch.float64),
        )
    ]
    for index, (our, their, exact) in enumerate(zip(*results, strict=True)):
        assert our.shape == exact.shape
        rounds = dtype is torch.bfloat16 and index < 2
        assert our.dtype is (torch.bfloat16 if rounds else torch.float32)
        bound = 2**-8 if rounds else 2 * error(their, exact) + 2e-7
        assert error(our, exact) < bound


def convolved_to_few_by_ours(layer, x):
    """Return a result and the gradient's leaves; bf16 as in training, by autocast."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype is torch.bfloat16):
        assert can_convolve_to_few(layer, x)
        y = convolve(layer, x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    return y, [x, layer.weight, layer.bias, None, None]


def test_no_images_are_convolved_to_few_channels():
    layer, x = convolution(16, 3), images(0, 16, 8, 8, dtype=torch.float32)
    y, (x, *_) = convolved_to_few_by_ours(layer, x)
    y.sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.any()


def test_a_pixel_that_is_no_number_reaches_its_neighbours_of_few_channels_alone():
    layer, x = convolution(16, 3), images(2, 16, 9, 9, dtype=torch.float32)
    x[1, 3, 0, 4] = float("nan")
    finite = convolved_to_few_by_ours(layer, x)[0].isfinite()
    assert finite.logical_not().sum() == 3 * 2 * 3
    assert not finite[1, :, :2, 3:6].any()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (torch.nn.Conv2d(16, 4, 3, padding=1), True),
        (torch.nn.Conv2d(16, 5, 3, padding=1), False),
        (torch.nn.Conv2d(16, 3, 3, padding=1, stride=2), False),
        (torch.nn.Conv2d(16, 3, 1), False),
    ],
)
def test_other_convolutions_to_few_channels_have_no_kernel(layer, expected):
    x = images(2, 16, 8, 8, dtype=torch.float32)
    assert can_convolve_to_few(layer, x) is expected
    assert not can_convolve_to_few(layer, x.contiguous())
    assert not can_convolve_to_few(layer, x[:, :8].clone(memory_format=CHANNELS_LAST))
