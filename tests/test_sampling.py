"""The sampling loop: against diffusers, against a problem with a known answer."""

import logging
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from noisesteps.config import Sampling
from noisesteps.diffusion import Diffusion
from noisesteps.errors import ConfigError, StageError
from noisesteps.models import UNet
from noisesteps.sampling import generate
from noisesteps.sampling.generate import to_uint8
from noisesteps.sampling.noise import ImageNoise
from noisesteps.seeds import torch_generator

CPU = torch.device("cpu")
KEY = (0, "sample", "toy_flowers", "linear_scaled", 20)
MEAN, DEVIATION = 0.2, 0.15


class OptimalNetwork(nn.Module):
    """The best predictor of the noise for pixels drawn from N(MEAN, DEVIATION^2).

    E[noise | x_t] of jointly normal variables. `disturbance` adds a U-Net's output, so
    that images stay grey, but depend on convolutions and their rounding.
    """

    def __init__(self, diffusion, image_size, disturbance=None):
        super().__init__()
        self.image_size = image_size
        self.alpha_bar = diffusion.alpha_bar
        self.disturbance = disturbance

    def predict(self, x, t):
        alpha_bar = self.alpha_bar[t].item()
        variance = alpha_bar * DEVIATION**2 + 1 - alpha_bar
        centred = x - math.sqrt(alpha_bar) * MEAN
        return math.sqrt(1 - alpha_bar) / variance * centred

    def frozen(self, timesteps, dtype):
        if not self.disturbance:
            return lambda x, index: self.predict(x, timesteps[index])
        disturb = self.disturbance.frozen(timesteps, dtype)
        return lambda x, i: self.predict(x, timesteps[i]) + 0.1 * disturb(x, i)


def sampling(batch_size=8, **options):
    return Sampling(images=max(batch_size, 6), batch_size=batch_size, **options)


def run(network, diffusion, options, images=8, **keywords):
    return generate(
        network, diffusion, options, images=images, key=KEY, device=CPU, **keywords
    ).images


def sampler_moments(diffusion, kept, method):
    """Follow mean and deviation of a pixel through the sampler, which is linear."""
    process = diffusion.respaced(kept)
    network = OptimalNetwork(process, 1)
    # Three copies of one pixel: the offset, and the slopes in x and in the noise. The
    # arguments are small, so that no clipping bends the line.
    x = torch.tensor([0.0, 0.01, 0.0]).double().view(3, 1, 1, 1)
    noise = torch.tensor([0.0, 0.0, 0.01]).double().view(3, 1, 1, 1)
    mean, variance = 0.0, 1.0
    for t in reversed(range(kept)):
        guess = network.predict(x, t)
        if method == "ddim":
            moved = process.ddim_step(guess, t, x)
        else:
            moved = process.step(guess, t, x, noise)
        offset, slope, spread = moved.flatten().tolist()
        slope, spread = (slope - offset) / 0.01, (spread - offset) / 0.01
        mean, variance = offset + slope * mean, slope**2 * variance + spread**2
    return mean, math.sqrt(variance)


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
@pytest.mark.parametrize("kept", [None, 50])
def test_gaussian_data_come_back(method, kept):
    diffusion = Diffusion(200, "linear_scaled")
    options = sampling(64, method=method, sampling_steps=kept)
    images = run(OptimalNetwork(diffusion, 16), diffusion, options, images=64)
    pixels = images.astype(float) / 127.5 - 1
    # Standard errors of 49,152 pixels: 0.0007 for the mean, 0.3 % for the deviation.
    mean, deviation = sampler_moments(diffusion, kept or 200, method)
    assert pixels.mean() == pytest.approx(mean, abs=0.003)
    assert pixels.std() == pytest.approx(deviation, rel=0.015)
    assert pixels.mean() == pytest.approx(MEAN, abs=0.005)


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
@pytest.mark.parametrize("schedule", ["linear_scaled", "cosine"])
def test_more_steps_come_closer_to_the_data(schedule, method):
    moments = [
        sampler_moments(Diffusion(steps, schedule), steps, method)
        for steps in (50, 200, 800, 3200)
    ]
    errors = [abs(deviation - DEVIATION) / DEVIATION for _, deviation in moments]
    # Of first order in 1/T: four times the steps, a quarter of the error, nearly.
    assert all(b < a / 2 for a, b in pairwise(errors))
    assert errors[-1] < 0.01
    assert moments[-1][0] == pytest.approx(MEAN, abs=0.002)


def test_terminal_signal_misleads_even_the_optimal_network():
    diffusion = Diffusion(10, "linear")
    assert diffusion.terminal_signal > 0.94
    images = run(OptimalNetwork(diffusion, 16), diffusion, sampling(64), images=64)
    pixels = images.astype(float) / 127.5 - 1
    mean, deviation = sampler_moments(diffusion, 10, "ancestral")
    assert pixels.mean() == pytest.approx(mean, abs=0.006)
    assert pixels.std() == pytest.approx(deviation, rel=0.03)
    assert mean < 0.9 * MEAN and deviation > 1.3 * DEVIATION


def test_chain_equals_diffusers_with_the_same_noise():
    diffusion = Diffusion(20, "linear_scaled")
    network = UNet.preset("tiny", 8, seed=1)
    mine = run(network, diffusion, sampling(1), images=2)
    scheduler = DDPMScheduler(
        num_train_timesteps=20, trained_betas=diffusion.betas.numpy()
    )
    for i in range(2):
        stream = torch_generator(*KEY, i)
        x = torch.randn(1, 3, 8, 8, generator=stream)
        with torch.inference_mode():
            for t in reversed(range(20)):
                x = scheduler.step(network(x, t), t, x, generator=stream).prev_sample
        theirs = ((x / 2 + 0.5).clamp(0, 1) * 255).round()[0].numpy()
        # float32 tables there, float64 here: a pixel near a half may round apart.
        assert np.abs(mine[i] - theirs).max() <= 1


@pytest.mark.parametrize("preset", ["tiny", "toy-16"])
@pytest.mark.parametrize("method", ["ancestral", "ddim"])
def test_images_do_not_depend_on_the_batch_size(preset, method):
    diffusion = Diffusion(20, "linear_scaled")
    size = {"tiny": 8, "toy-16": 16}[preset]
    network = OptimalNetwork(diffusion, size, UNet.preset(preset, size, seed=1))
    eight = run(network, diffusion, sampling(8, method=method))
    assert 20 < eight.mean() < 235 and eight.std() > 5
    for batch_size in (1, 3):
        other = run(network, diffusion, sampling(batch_size, method=method))
        # oneDNN's convolutions sum a batch of one in another order, and PyTorch's group
        # normalisation shares large images among threads: 1e-6 of rounding, which
        # turns a grey level only where it lay half-way between two.
        difference = np.abs(other.astype(int) - eight)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
        assert preset != "tiny" or not difference.any()


def test_images_depend_on_their_number_alone():
    diffusion = Diffusion(10)
    network = UNet.preset("tiny", 8, seed=1)
    eight = run(network, diffusion, sampling(4))
    assert np.array_equal(run(network, diffusion, sampling(4), images=3), eight[:3])
    later = run(network, diffusion, sampling(4), images=3, first=5)
    assert np.array_equal(later, eight[5:])
    assert len({image.tobytes() for image in eight}) == 8


def test_respacing_to_all_steps_is_plain_ancestral():
    diffusion = Diffusion(12)
    network = UNet.preset("tiny", 8, seed=1)
    plain = run(network, diffusion, sampling(4))
    respaced = run(network, diffusion, sampling(4, sampling_steps=12))
    assert np.array_equal(plain, respaced)
    fewer = run(network, diffusion, sampling(4, sampling_steps=5))
    assert not np.array_equal(plain, fewer)


def test_network_is_evaluated_at_the_trained_timesteps():
    seen = []

    class Watched(OptimalNetwork):
        def predict(self, x, t):
            seen.append(int(t))
            return super().predict(x, t)

    diffusion = Diffusion(100)
    run(Watched(diffusion, 8), diffusion, sampling(2, sampling_steps=4), images=2)
    assert seen == [99, 74, 49, 24]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_close(precision):
    diffusion = Diffusion(10, "linear_scaled")
    network = OptimalNetwork(diffusion, 8, UNet.preset("tiny", 8, seed=1))
    full = run(network, diffusion, sampling(4), images=4)
    low = run(network, diffusion, sampling(4, precision=precision), images=4)
    difference = np.abs(low.astype(int) - full)
    assert difference.max() > 0 and difference.mean() < 1


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_a_compiled_network_makes_the_same_images():
    diffusion = Diffusion(20, "linear_scaled")
    plain, compiled = (
        run(UNet.preset("tiny", 8), diffusion, sampling(compile=compile_from))
        for compile_from in (False, 20)
    )
    assert np.abs(plain.astype(int) - compiled).max() <= 1


@pytest.mark.parametrize(("images", "too_short"), [(8, 21), (16, 41)])
def test_a_sampling_too_short_for_it_is_not_compiled(images, too_short, no_compiler):
    diffusion = Diffusion(20, "linear_scaled")
    options = sampling(compile=too_short)
    found = run(UNet.preset("tiny", 8), diffusion, options, images=images)
    plain = run(UNet.preset("tiny", 8), diffusion, sampling(), images=images)
    np.testing.assert_array_equal(found, plain)
    with pytest.raises(ConfigError, match=r"sampling\.compile needs a C\+\+ compiler"):
        options = sampling(compile=too_short - 1)
        run(UNet.preset("tiny", 8), diffusion, options, images=images)


def test_one_step_and_one_image():
    images = run(UNet.preset("tiny", 8), Diffusion(1), sampling(8), images=1)
    assert images.shape == (1, 3, 8, 8) and images.dtype == np.uint8


def test_noise_streams_are_those_of_the_seeds():
    noise = ImageNoise(KEY, [5, 2], (3, 8, 8), CPU)
    first, second = noise.draw(), noise.draw()
    stream = torch_generator(*KEY, 2)
    assert torch.equal(first[1], torch.randn(3, 8, 8, generator=stream))
    assert torch.equal(second[1], torch.randn(3, 8, 8, generator=stream))


def test_uint8_rounds_and_clamps():
    values = torch.tensor([-2.0, -1.0, 0.6 / 127.5 - 1, 1.4 / 127.5 - 1, 0.0, 1.0, 9.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 1, 128, 255, 255]


def test_batches_are_timed_and_reported(caplog):
    seen = []
    network, diffusion = UNet.preset("tiny", 8), Diffusion(2)
    samples = generate(
        network,
        diffusion,
        sampling(2),
        images=5,
        key=KEY,
        device=CPU,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert len(samples.batch_seconds) == 3 and min(samples.batch_seconds) > 0
    with caplog.at_level(logging.INFO, "noisesteps.sampling"):
        run(network, diffusion, sampling(2), images=2)
    assert "sampled 2 of 2 images" in caplog.text


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    run(UNet.preset("tiny", 8), Diffusion(3), sampling(2), images=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_errors_name_the_remedy():
    network = UNet.preset("tiny", 8)
    with pytest.raises(ConfigError, match=r"sampling\.sampling_steps"):
        run(network, Diffusion(3), sampling(2, sampling_steps=4), images=2)
    with torch.no_grad():
        network.conv_out.bias.fill_(float("nan"))
    with pytest.raises(StageError, match="finite"):
        run(network, Diffusion(3), sampling(2), images=2)
