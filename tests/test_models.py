"""The U-Net against diffusers' own, and its files."""

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DModel

from noisesteps.config import SIZE_MULTIPLES
from noisesteps.errors import ConfigError, StageError
from noisesteps.models import PRESETS, UNet, load_model, save_model

SIZES = {"tiny": 8, "toy-16": 16, "small-32": 32, "ddpm-113m": 128}
# Sums of some thousand float32 products, in another order.
TOLERANCE = 1e-4


def theirs(network):
    return UNet2DModel(**network.diffusers_config())


def noisy(size, images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, size, size, generator=generator)


@pytest.fixture(scope="module")
def tiny():
    return UNet.preset("tiny", 8, seed=1)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["tiny", "toy-16", "small-32"])
def test_forward_equals_diffusers_both_ways(name):
    ours = UNet.preset(name, SIZES[name], seed=1)
    peer = theirs(UNet.preset(name, SIZES[name]))
    x, t = noisy(SIZES[name]), torch.tensor([3, 700])
    peer.load_state_dict(ours.state_dict())
    assert (ours(x, t) - peer(x, t).sample).abs().max() < TOLERANCE

    torch.manual_seed(5)
    peer = theirs(ours)
    before = ours(x, t)
    ours.load_state_dict(peer.state_dict())
    assert (ours(x, t) - peer(x, t).sample).abs().max() < TOLERANCE
    assert not torch.allclose(ours(x, t), before, atol=10 * TOLERANCE)


@torch.inference_mode()
def test_network_of_the_dissertation():
    ours = UNet.preset("ddpm-113m", 128, seed=2)
    assert ours.parameter_count == 113_673_219
    peer = theirs(ours)
    assert peer.num_parameters() == 113_673_219
    peer.load_state_dict(ours.state_dict())
    x = noisy(32, images=1)
    assert (ours(x, 500) - peer(x, 500).sample).abs().max() < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("attention", [(True, False, False), (False, True, True)])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_any_shape_equals_diffusers(attention, layers):
    ours = UNet(16, (8, 24, 16), layers, attention, 4, seed=3)
    peer = theirs(ours)
    peer.load_state_dict(ours.state_dict())
    x = noisy(16)
    assert (ours(x, 9) - peer(x, 9).sample).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["tiny", "toy-16", "small-32"])
def test_gradients_equal_those_of_diffusers(name):
    size = SIZES[name]
    ours = UNet.preset(name, size, seed=1)
    peer = theirs(ours)
    peer.load_state_dict(ours.state_dict())
    x, t = noisy(size), torch.tensor([0, 40])
    ours(x, t).square().mean().backward()
    peer(x, t).sample.square().mean().backward()
    expected = {name: value.grad for name, value in peer.named_parameters()}
    for name, value in ours.named_parameters():
        assert (value.grad - expected[name]).abs().max() < TOLERANCE, name


@pytest.mark.parametrize("name", ["tiny", "toy-16"])
def test_initial_weights_equal_those_of_diffusers(name):
    torch.manual_seed(11)
    expected = theirs(UNet.preset(name, 16)).state_dict()
    state = UNet.preset(name, 16, seed=11).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    first = UNet.preset("tiny", 8, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    again, other = UNet.preset("tiny", 8, seed=4), UNet.preset("tiny", 8, seed=5)
    assert torch.equal(first.conv_in.weight, again.conv_in.weight)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)


@torch.inference_mode()
def test_embedding_computed_once_for_all_steps(tiny):
    x = noisy(8, images=3)
    table = tiny.embed_timesteps(torch.arange(10))
    assert table.shape == (10, 32)
    expected = tiny(x, torch.tensor([7, 7, 7]))
    torch.testing.assert_close(tiny(x, embedding=table[7:8]), expected)
    torch.testing.assert_close(tiny(x, 7), expected)
    torch.testing.assert_close(tiny(x, torch.tensor(7)), expected)
    each = tiny(x, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(tiny(x, embedding=table[1:4]), each)
    assert not torch.allclose(each, expected)


@torch.inference_mode()
def test_memory_layout_changes_nothing(tiny):
    other = UNet.preset("tiny", 8, seed=1).to(memory_format=torch.channels_last)
    x = noisy(8)
    predicted = other(x.contiguous(memory_format=torch.channels_last), 4)
    assert predicted.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(predicted, tiny(x, 4), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_survive_the_disk(tmp_path, tiny, layout):
    path = tmp_path / "model.safetensors"
    source = UNet.preset("tiny", 8, seed=1).to(memory_format=layout)
    save_model(path, source)
    target = UNet.preset("tiny", 8, seed=2)
    load_model(path, target)
    assert all(
        torch.equal(value, target.state_dict()[name])
        for name, value in tiny.state_dict().items()
    )
    theirs(tiny).load_state_dict(safetensors.torch.load_file(path))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_bad_weights_are_refused(tmp_path, tiny):
    path = tmp_path / "model.safetensors"
    with pytest.raises(StageError, match="does not exist"):
        load_model(path, tiny)
    save_model(path, tiny)
    with pytest.raises(StageError, match=r"network\.preset"):
        load_model(path, UNet.preset("toy-16", 16))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StageError, match="not a whole safetensors file"):
        load_model(path, tiny)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_built_for_their_size(name):
    assert UNet.preset(name, SIZES[name]).image_size == SIZES[name]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: UNet.preset("ddpm-113m", 48), "multiple of 32"),
        (lambda: UNet.preset("tiny", 0), "multiple of 2"),
        (lambda: UNet.preset("huge", 32), "network.preset"),
        (lambda: UNet(8, (8, 16), 1, (True,), 4), "attention"),
        (lambda: UNet(8, (8, 12), 1, (True, True), 4), "multiple of 8"),
        (lambda: UNet(8, (8, 16), 0, (True, True), 4), "layers_per_block"),
    ],
)
def test_errors_name_the_key(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


@pytest.mark.parametrize("name", PRESETS)
def test_the_config_knows_which_sizes_fit(name):
    """An image is halved between the levels of a network."""
    assert SIZE_MULTIPLES[name] == 2 ** (len(PRESETS[name].block_out_channels) - 1)
