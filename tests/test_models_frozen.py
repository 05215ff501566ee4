"""The network prepared for sampling, against the network itself."""

import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesteps.models import UNet, frozen, prepared
from noisesteps.models.blocks import Upsample
from noisesteps.models.prepared import Convolution, Normalisation, Upsampling
from noisesteps.models.upsampling import (
    half_resolution_weight,
    interleave,
    is_worth_halving,
)

TIMESTEPS = torch.tensor([0, 5, 700])
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def noisy(size, images=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, 3, size, size, generator=generator)


def trained(preset, size):
    """Return a network whose normalisations and biases are no longer as they begin."""
    network = UNet.preset(preset, size, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.03)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("preset", "size"), [("tiny", 8), ("tiny", 32), ("toy-16", 16), ("small-32", 32)]
)
def test_it_predicts_what_the_network_does(preset, size, packs, monkeypatch):
    if not packs:
        monkeypatch.setattr(prepared, "_has_onednn", lambda dtype: False)
    network, x = trained(preset, size), noisy(size)
    sampler = network.frozen(TIMESTEPS, torch.float32)
    for index, t in enumerate(TIMESTEPS):
        predicted = sampler(x, index)
        assert predicted.dtype is torch.float32
        torch.testing.assert_close(predicted, network(x, t), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(sampler(x, 0), sampler(x, 2), atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("preset", "size"), [("tiny", 32), ("toy-16", 16)])
def test_in_16_bits_it_errs_no_more_than_autocast(preset, size, dtype):
    network, x = trained(preset, size), noisy(size, images=8)
    exact = network(x, 5)
    with torch.autocast("cpu", dtype):
        usual = (network(x, 5) - exact).square().mean()
    error = (network.frozen(TIMESTEPS, dtype)(x, 1) - exact).square().mean()
    assert 0 < error < 1.1 * usual


def test_the_network_stays_as_it_is():
    network, x = trained("tiny", 8), noisy(8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for dtype in (torch.float32, torch.bfloat16):
        network.frozen(TIMESTEPS, dtype)(x, 1)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    network(x, 1).sum().backward()
    assert network.conv_in.weight.grad is not None


def test_a_result_does_not_depend_on_the_batches_before():
    network, x = trained("toy-16", 16), noisy(16, images=9)
    used = network.frozen(TIMESTEPS, torch.float32)
    whole = used(x, 2)
    for images in (1, 4, 9, 1):
        fresh = network.frozen(TIMESTEPS, torch.float32)
        part = used(x[:images], 2)
        assert torch.equal(part, fresh(x[:images], 2))
        torch.testing.assert_close(part, whole[:images])


def test_many_images_pass_through_the_network_in_parts(monkeypatch):
    network, x = trained("toy-16", 16), noisy(16, images=9)
    whole = network.frozen(TIMESTEPS, torch.float32)(x, 1)
    monkeypatch.setattr(frozen, "BYTES", 4 * 16 * 16 * 16 * 4)  # of four images
    seen, predict = [], frozen.FrozenUNet._predict
    monkeypatch.setattr(
        frozen.FrozenUNet,
        "_predict",
        lambda self, part, index: seen.append(len(part)) or predict(self, part, index),
    )
    parts = network.frozen(TIMESTEPS, torch.float32)
    torch.testing.assert_close(parts(x, 1), whole)
    assert seen == [3, 3, 3]
    assert parts(x[:0], 1).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_shared_out_among_threads(dtype, set_threads, monkeypatch):
    """And each is predicted as on one thread, whatever is set for the caller's."""
    network, x = trained("toy-16", 16), noisy(16, images=9)
    set_threads(1)
    whole = network.frozen(TIMESTEPS, dtype)(x, 1)
    monkeypatch.setattr(frozen, "BYTES", 4 * 16 * 16 * 16 * 4)  # of four in fp32
    seen, predict = [], frozen.FrozenUNet._predict

    def told(self, part, index):
        seen.append((len(part), torch.get_num_threads(), threading.get_ident()))
        found = predict(self, part, index)
        assert found.is_inference()
        return found

    monkeypatch.setattr(frozen.FrozenUNet, "_predict", told)
    set_threads(4)
    parts = network.frozen(TIMESTEPS, dtype)
    with torch.autocast("cpu", dtype=torch.float16):
        predicted = parts(x, 1)
    assert torch.get_num_threads() == 4
    tolerance = 2e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(predicted, whole, atol=tolerance, rtol=tolerance)
    images, threads, callers = zip(*seen, strict=True)
    halved = dtype is torch.bfloat16  # half the bytes, and half as many parts
    assert sorted(images) == ([4, 5] if halved else [2, 2, 2, 3])
    assert set(threads) == {2 if halved else 1}
    assert threading.get_ident() not in callers


@torch.inference_mode()
@pytest.mark.parametrize(("outputs", "side"), [(32, 8), (3, 8), (3, 5)])
def test_a_convolution_takes_images_of_either_layout(outputs, side):
    layer = torch.nn.Conv2d(16, outputs, 3, padding=1)
    convolution, x = (
        Convolution(layer, torch.float32),
        noisy(side, 4).repeat(1, 6, 1, 1),
    )
    x, onto = x[:, :16], torch.randn(4, outputs, side, side)
    for layout in (*LAYOUTS, *LAYOUTS):
        given = x.to(memory_format=layout)
        added = onto.to(memory_format=layout)
        torch.testing.assert_close(convolution(given, onto=added), layer(x) + onto)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("outputs", [32, 3])
def test_a_layer_of_another_dtype_is_converted(outputs, dtype):
    layer = torch.nn.Conv2d(16, outputs, 3, padding=1).to(dtype)
    convolution, x = Convolution(layer, torch.float32), torch.randn(2, 16, 8, 8)
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(convolution(x), layer.float()(x))


@pytest.mark.skipif(not prepared._has_onednn(torch.float32), reason="needs oneDNN")
def test_weights_are_packed_where_onednn_is(monkeypatch):
    layer = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
    convolution = Convolution(layer, torch.float32)
    x, onto = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)
    onto = onto.to(memory_format=torch.channels_last)
    expected = layer(x) + onto
    with monkeypatch.context() as patched, torch.inference_mode():
        patched.setattr(F, "conv2d", None)
        beside = convolution(x, onto=onto)
        result = convolution(x, onto=onto, overwrites=True)
    assert beside.data_ptr() != onto.data_ptr() == result.data_ptr()
    torch.testing.assert_close(result, expected)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_where_onednn_is_off_or_lacks_an_operator_it_is_not_used(monkeypatch):
    with torch.backends.mkldnn.flags(enabled=False):
        assert not prepared._has_onednn(torch.float32)
    operators = SimpleNamespace(_convolution_pointwise_=None)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    assert not prepared._has_onednn(torch.float32)


def test_an_autocast_around_it_changes_nothing():
    network, x = trained("tiny", 8), noisy(8)
    plain = network.frozen(TIMESTEPS, torch.float32)(x, 1)
    with torch.autocast("cpu", torch.bfloat16):
        within = network.frozen(TIMESTEPS, torch.float32)(x, 1)
    assert torch.equal(within, plain)


@torch.inference_mode()
@pytest.mark.parametrize("activates", [True, False])
@pytest.mark.parametrize(
    ("side", "mean", "rounding", "smallest"),
    [
        (4, 3, 2**-8, 2e-5),
        (8, 3, 2**-8, 2e-5),
        (4, 100, 2**-8, 2e-2),
        (8, 100, 2**-8, 2e-2),
        (16, 0, 2**-8, 2e-5),
        (16, 3, 2**-8, 2e-5),
        (16, 300, 2**-8, 2e-5),
        # PyTorch's bf16 kernel rounds before the activation too.
        (32, 3, 2**-7, 2e-3),
    ],
)
def test_normalisation_is_exact_but_for_rounding(
    activates, side, mean, rounding, smallest
):
    layer = torch.nn.GroupNorm(4, 24)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 24, side, side, generator=generator) + mean
    x = x.to(torch.bfloat16, memory_format=torch.channels_last)
    arguments = (layer.weight.double(), layer.bias.double(), layer.eps)
    exact = F.group_norm(x.double().contiguous(), 4, *arguments)
    exact = F.silu(exact) if activates else exact
    result = Normalisation(layer, activates=activates)(x)
    assert result.dtype is torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), exact, rtol=rounding, atol=smallest)


@torch.inference_mode()
@pytest.mark.parametrize("mean", [0, 3, 10, 30])
@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_in_fp32_normalisation_loses_what_its_arithmetic_explains(side, mean):
    layer = torch.nn.GroupNorm(4, 24)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 24, side, side, generator=generator) + mean
    exact = F.silu(F.group_norm(x.double(), 4, eps=layer.eps))
    result = Normalisation(layer)(x.to(memory_format=torch.channels_last))
    error = (result - exact).abs().max() / exact.abs().max()
    assert error < 1e-6 + mean**2 * 2**-20


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=25)
@given(
    images=st.integers(1, 3),
    inputs=st.integers(1, 4),
    outputs=st.integers(2, 4),
    height=st.integers(1, 5),
    width=st.integers(2, 5),
)
def test_half_the_resolution_gives_the_same_sums(
    layout, images, inputs, outputs, height, width
):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, inputs, height, width, generator=generator).double()
    x = x.to(memory_format=layout)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator).double()
    repeated = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(repeated, weight, padding=1)
    small = F.conv2d(x, half_resolution_weight(weight), padding=1)
    result = interleave(small.to(memory_format=layout))
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=layout)


@torch.inference_mode()
def test_small_images_and_fp32_are_convolved_at_full_resolution(monkeypatch):
    small, large = torch.randn(1, 32, 4, 4), torch.randn(1, 32, 8, 8)
    few = torch.randn(1, 16, 8, 8)
    assert [is_worth_halving(x) for x in (small, few, large)] == [False, False, True]
    upsampling = Upsampling(Upsample(32), torch.float32)
    monkeypatch.setattr(prepared, "interleave", None)
    assert upsampling(large).shape == (1, 32, 16, 16)
