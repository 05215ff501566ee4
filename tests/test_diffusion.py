"""The process against diffusers' schedulers and against arithmetic."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesteps.diffusion import SCHEDULES, Diffusion
from noisesteps.errors import ConfigError

# The schedulers keep their tables in float32, where 1 - alpha_bar near t = 0 (about
# 1e-4) is known to 6e-8/1e-4 = 6e-4 of its value. Weights of order 1, times numbers
# of up to 5 from a normal distribution, then differ by some 1e-3. Noise enters x_t by
# sqrt(1 - alpha_bar), 0.01 there, so that add_noise differs by 1e-5 at most. With the
# same tables in float64, only rounding in the last digits is left.
FLOAT32_TABLES = 2e-3
FLOAT32_NOISE = 1e-5
FLOAT64_TABLES = 1e-12


def images(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=dtype)


def scheduler_of(kind, diffusion, exact, **options):
    betas = diffusion.betas
    scheduler = kind(
        num_train_timesteps=len(betas), trained_betas=betas.numpy(), **options
    )
    if exact:
        scheduler.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        scheduler.one = torch.tensor(1.0, dtype=torch.float64)
        scheduler.final_alpha_cumprod = scheduler.one
    return scheduler


def some_timesteps(steps):
    return sorted(
        {0, 1, 2, steps // 3, steps // 2, steps - 2, steps - 1} & {*range(steps)}
    )


def theirs_ddpm(scheduler, model_output, t, x_t, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return scheduler.step(model_output, t, x_t, generator=generator).prev_sample


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 1000, 2000])
@pytest.mark.parametrize(
    ("schedule", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_betas_are_those_of_diffusers(schedule, theirs, steps):
    scheduler = DDPMScheduler(num_train_timesteps=steps, beta_schedule=theirs)
    ours = Diffusion(steps, schedule)
    torch.testing.assert_close(
        ours.betas, scheduler.betas.double(), rtol=1e-6, atol=1e-9
    )
    # A product of T numbers in float32, where 1 - 0.999 is known to 3e-5 of its value.
    torch.testing.assert_close(
        ours.alpha_bar,
        scheduler.alphas_cumprod.double(),
        rtol=1e-4 + steps * 1e-7,
        atol=1e-9,
    )


def test_linear_scaled_multiplies_by_thousand_over_steps():
    thousand = Diffusion(1000, "linear").betas
    assert torch.equal(Diffusion(1000, "linear_scaled").betas, thousand)
    betas = Diffusion(100, "linear_scaled").betas
    assert betas[0].item() == pytest.approx(1e-3)
    assert betas[-1].item() == pytest.approx(0.2)
    assert Diffusion(10, "linear_scaled").betas.max().item() == 0.999


@pytest.mark.parametrize(
    ("steps", "signal"),
    [(100, 0.603), (200, 0.364), (300, 0.219), (500, 0.080), (1000, 0.0064)],
)
def test_terminal_signal_of_the_dissertation(steps, signal):
    linear = Diffusion(steps)
    assert linear.terminal_signal == pytest.approx(signal, abs=6e-4)
    expected = linear.terminal_signal**2 / (1 - linear.terminal_signal**2)
    assert linear.terminal_snr == pytest.approx(expected)
    assert Diffusion(steps, "linear_scaled").terminal_signal < 0.007


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("steps", [10, 100, 1000, 2000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_step_and_noise_equal_ddpm_scheduler(schedule, steps, exact):
    ours = Diffusion(steps, schedule)
    scheduler = scheduler_of(DDPMScheduler, ours, exact)
    tolerance = FLOAT64_TABLES if exact else FLOAT32_TABLES
    x, model_output, noise = images(0), images(1), images(7)
    for t in some_timesteps(steps):
        mine = ours.step(model_output, t, x, noise)
        theirs = theirs_ddpm(scheduler, model_output, t, x)
        assert (mine - theirs).abs().max() < tolerance, t
        each = torch.full((4,), t)
        mine = ours.add_noise(x, noise, each)
        difference = (mine - scheduler.add_noise(x, noise, each)).abs().max()
        assert difference < (FLOAT64_TABLES if exact else FLOAT32_NOISE), t


def test_default_scheduler_in_float32():
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    ours = Diffusion(1000)
    x, model_output, noise = (images(seed, torch.float32) for seed in (0, 1, 7))
    for t in range(1000):
        mine = ours.step(model_output, t, x, noise)
        assert mine.dtype == torch.float32
        theirs = theirs_ddpm(scheduler, model_output, t, x)
        assert (mine - theirs).abs().max() < FLOAT32_TABLES, t


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "kept"), [(1, 1), (10, 10), (100, 20), (1000, 1)])
def test_ddim_step_equals_ddim_scheduler(schedule, steps, kept):
    ours = Diffusion(steps, schedule)
    scheduler = scheduler_of(
        DDIMScheduler, ours, exact=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(kept)
    spaced = ours.respaced(kept)
    assert spaced.timesteps.flip(0).tolist() == scheduler.timesteps.tolist()
    x, model_output = images(0), images(1)
    for t in range(kept):
        theirs = scheduler.step(model_output, spaced.timesteps[t].item(), x).prev_sample
        mine = spaced.ddim_step(model_output, t, x)
        assert (mine - theirs).abs().max() < FLOAT64_TABLES


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "kept"), [(10, 3), (100, 7), (1000, 50), (50, 1)])
def test_respaced_ancestral_equals_ddpm_scheduler(schedule, steps, kept):
    ours = Diffusion(steps, schedule)
    scheduler = scheduler_of(
        DDPMScheduler, ours, exact=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(kept)
    spaced = ours.respaced(kept)
    assert spaced.timesteps.flip(0).tolist() == scheduler.timesteps.tolist()
    x, model_output, noise = images(0), images(1), images(7)
    for t in range(kept):
        at = spaced.timesteps[t].item()
        theirs = theirs_ddpm(scheduler, model_output, at, x)
        if at and t == 0:
            # The scheduler adds noise of variance 1e-20 where x_0 is reached.
            assert (spaced.step(model_output, t, x) - theirs).abs().max() < 1e-8
        else:
            mine = spaced.step(model_output, t, x, noise)
            assert (mine - theirs).abs().max() < FLOAT64_TABLES


@given(
    steps=st.integers(1, 3000),
    kept=st.integers(1, 3000),
    schedule=st.sampled_from(sorted(SCHEDULES)),
)
@settings(max_examples=60, deadline=None)
def test_alpha_bar_invariants(steps, kept, schedule):
    ours = Diffusion(steps, schedule)
    for process in (ours, ours.respaced(min(kept, steps))):
        assert process.alpha_bar.dtype == process.betas.dtype == torch.float64
        assert ((process.betas > 0) & (process.betas < 1)).all()
        assert ((process.alpha_bar > 0) & (process.alpha_bar < 1)).all()
        assert (process.alpha_bar.diff() < 0).all()
        assert (process.timesteps.diff() > 0).all()
        assert process.timesteps[-1] == steps - 1
        assert process.alpha_bar[-1] == ours.alpha_bar[-1]
        assert len(process.betas) == process.steps == len(process.timesteps)


@given(
    steps=st.integers(1, 1000),
    position=st.floats(0, 1),
    schedule=st.sampled_from(sorted(SCHEDULES)),
)
@settings(max_examples=40, deadline=None)
def test_noise_preserves_variance(steps, position, schedule):
    ours = Diffusion(steps, schedule)
    t = round(position * (steps - 1))
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    signal, noise = ours.add_noise(one, zero, t), ours.add_noise(zero, one, t)
    assert (signal**2 + noise**2).item() == pytest.approx(1, abs=1e-12)
    # For x_0 of unit variance, one step forwards and the posterior back agree: the
    # mean's weights and the variance of (7) return N(0, 1) to N(0, 1).
    at = {name: table[t].item() for name, table in ours._tables.items()}
    signal, previous = at["signal"], at["previous_signal"]
    spread = (
        at["mean_x0"] ** 2
        + at["mean_xt"] ** 2
        + 2 * at["mean_x0"] * at["mean_xt"] * signal
        + at["deviation"] ** 2
    )
    assert spread == pytest.approx(1, abs=1e-9)
    reached = at["mean_x0"] + at["mean_xt"] * signal
    assert reached == pytest.approx(previous, abs=1e-9)


@given(steps=st.integers(1, 2000), schedule=st.sampled_from(sorted(SCHEDULES)))
@settings(max_examples=30, deadline=None)
def test_last_step_is_the_clipped_image(steps, schedule):
    ours = Diffusion(steps, schedule)
    x, model_output = images(0), images(1)
    alpha_bar = ours.alpha_bar[0].item()
    x0 = (x - math.sqrt(1 - alpha_bar) * model_output) / math.sqrt(alpha_bar)
    expected = x0.clamp(-1, 1)
    torch.testing.assert_close(ours.step(model_output, 0, x), expected)
    assert torch.equal(
        ours.step(model_output, 0, x, images(2)), ours.step(model_output, 0, x)
    )
    assert torch.equal(
        ours.ddim_step(model_output, 0, x), ours.step(model_output, 0, x)
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_true_noise_leads_back_to_the_image(schedule):
    ours = Diffusion(25, schedule)
    x0, noise = images(0).clamp(-1, 1), images(1)
    for t in range(10):
        x_t = ours.add_noise(x0, noise, t)
        torch.testing.assert_close(ours.predict_x0(noise, t, x_t), x0)


def test_one_step_for_each_image_equals_one_at_a_time():
    ours = Diffusion(100)
    x, model_output, noise = images(0), images(1), images(2)
    each = torch.tensor([0, 3, 50, 99])
    together = ours.step(model_output, each, x, noise)
    ddim = ours.ddim_step(model_output, each, x)
    noisy = ours.add_noise(x, noise, each)
    for i, t in enumerate(each):
        one = slice(i, i + 1)
        alone = (model_output[one], t, x[one])
        torch.testing.assert_close(together[one], ours.step(*alone, noise[one]))
        torch.testing.assert_close(ddim[one], ours.ddim_step(*alone))
        torch.testing.assert_close(noisy[one], ours.add_noise(x[one], noise[one], t))


def test_low_precision_predictions_are_converted():
    ours = Diffusion(10)
    x, model_output = images(0, torch.float32), images(1).bfloat16()
    mine = ours.step(model_output, 5, x, x)
    assert mine.dtype == torch.float32
    assert torch.equal(mine, ours.step(model_output.float(), 5, x, x))


def test_respacing_to_all_steps_changes_nothing():
    ours = Diffusion(30)
    assert ours.respaced(30) is ours
    assert ours.timesteps.tolist() == list(range(30))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Diffusion(0), "diffusion.steps"),
        (lambda: Diffusion(2.5), "diffusion.steps"),
        (lambda: Diffusion(10, "quadratic"), "linear_scaled"),
        (lambda: Diffusion(100_000, "linear"), "lower T"),
        (lambda: Diffusion(10).respaced(11), "sampling.sampling_steps"),
        (lambda: Diffusion(10).respaced(0), "sampling.sampling_steps"),
    ],
)
def test_errors_name_the_key(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_misuse_is_refused():
    ours, x = Diffusion(10), images(0)
    with pytest.raises(ValueError, match="noise"):
        ours.step(x, 1, x)
    for t in (-1, 10):
        with pytest.raises(ValueError, match="between 0 and 9"):
            ours.add_noise(x, x, t)
