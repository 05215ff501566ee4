"""The update, the learning rate, the batches, the precision and the average."""

import copy
import math
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from noisesteps.config import Training
from noisesteps.diffusion import Diffusion
from noisesteps.errors import ConfigError, DataError, DivergedError, StageError
from noisesteps.models import UNet
from noisesteps.signals import Interrupted
from noisesteps.training import checkpoint
from noisesteps.training.batches import Batches, Plan
from noisesteps.training.ema import decay_at
from noisesteps.training.learner import Learner
from noisesteps.training.learning_rate import learning_rate
from noisesteps.training.optimizer import Adam
from noisesteps.training.precision import Precision
from training_runs import (
    CPU,
    SETTINGS,
    THIS_RUN,
    SmallNetwork,
    Spoiled,
    StopAt,
    some_images,
    train_in,
)

KEY = (0, "train")


# Faster, or in less memory, with the same numbers


def trained_weights(network: nn.Module, updates: int = 3, **values) -> dict:
    """Train for a few updates; return the weights by name."""
    training = Training(batch_size=4, warmup_steps=1, precision="fp32", **values)
    batches = Batches(some_images(), 20, training, KEY, CPU)
    learner = Learner(network, Diffusion(20), training, CPU)
    for index in range(updates):
        learner.update(batches[index], index, 1e-3)
    return learner.network.state_dict()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adam_is_pytorchs_to_the_last_bit(layout):
    ours, theirs = (UNet.preset("tiny", 8).to(memory_format=layout) for _ in range(2))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    adam = Adam(ours, 1e-3)
    for seed in range(3):
        for name, parameter in theirs.named_parameters():
            generator = torch.Generator().manual_seed(seed)
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
            ours.get_parameter(name).grad = parameter.grad.clone()
        optimizer.step()
        adam.step()
        adam.zero_grad()
    assert all(parameter.grad is None for parameter in ours.parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter)
        for field, tensor in optimizer.state[parameter].items():
            assert torch.equal(adam.moments(ours)[f"{field}.{name}"], tensor)


@pytest.mark.parametrize("last", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("share", [1e-3, 1.0, 1e3])
def test_gradients_are_clipped_as_by_pytorch_to_the_last_bit(share, last):
    ours, theirs = UNet.preset("tiny", 8), UNet.preset("tiny", 8)
    adam = Adam(ours)
    for network in (ours, theirs):
        generator = torch.Generator().manual_seed(0)
        for parameter in list(network.parameters())[1:]:  # one has no gradient
            parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
    gradients = [parameter.grad for parameter in list(ours.parameters())[1:]]
    most = share * float(nn.utils.get_total_norm(gradients) + 1e-6)
    for network in (ours, theirs):
        list(network.parameters())[-1].grad[-1] = last
    versions = [gradient._version for gradient in gradients]
    adam.clip(most)
    nn.utils.clip_grad_norm_(theirs.parameters(), most)
    for found, parameter in zip(gradients, list(theirs.parameters())[1:], strict=True):
        torch.testing.assert_close(
            found, parameter.grad, rtol=0, atol=0, equal_nan=True
        )
    assert next(ours.parameters()).grad is None
    if share != 1:  # where rounding decides
        untouched = share > 1 and last == 0
        now = [gradient._version for gradient in gradients]
        assert (now == versions) == untouched


def test_an_update_does_not_import_pytorchs_compiler():
    """It would double the time that a stage takes to start."""
    code = """
import sys, torch
from noisesteps.models import UNet
from noisesteps.training.optimizer import Adam
network = UNet.preset("tiny", 8)
network(torch.zeros(1, 3, 8, 8), 0).sum().backward()
adam = Adam(network)
adam.clip(1.0)
adam.step()
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recomputed_activations_give_the_same_bits_from_less_memory():
    kept, recomputed = UNet.preset("tiny", 8), UNet.preset("tiny", 8)
    bytes_kept = saved_bytes(lambda: trained_weights(kept))
    bytes_recomputed = saved_bytes(
        lambda: trained_weights(recomputed, recompute_activations=True)
    )
    for name, weight in kept.state_dict().items():
        assert torch.equal(weight, recomputed.state_dict()[name])
    assert bytes_recomputed < 0.4 * bytes_kept


def saved_bytes(work: Callable[[], object]) -> int:
    """Return the bytes of all that autograd keeps for backward passes."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in kept.values())


def first_update(
    network: UNet, precision: str, *, compiled: bool = False, **values
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of a first update, and the gradients by name."""
    training = Training(batch_size=4, precision=precision, **values)
    network = copy.deepcopy(network)
    batches = Batches(some_images(), 20, training, KEY, CPU)
    learner = Learner(network, Diffusion(20), training, CPU, compiled=compiled)
    loss = learner.update(batches[0], 0, 0.0)
    return loss, {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_a_compiled_network_has_the_same_loss_and_gradients():
    network = UNet.preset("tiny", 8)
    loss, gradients = first_update(network, "fp32")
    found, compiled = first_update(network, "fp32", compiled=True)
    torch.testing.assert_close(found, loss)
    for name, gradient in gradients.items():
        tolerance = 2e-5 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(compiled[name], gradient, rtol=0, atol=tolerance)


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_a_compiled_network_that_recomputes_errs_no_more_in_bf16():
    network = UNet(8, (16,), 1, (True,), 4)  # compiled in half a minute
    _, gradients = first_update(network, "fp32")
    exact = together(gradients)

    def error(**values) -> float:
        _, gradients = first_update(network, "bf16", **values)
        return ((together(gradients) - exact).norm() / exact.norm()).item()

    plain = error()
    assert 1e-3 < plain < 0.1
    assert error(compiled=True, recompute_activations=True) < 1.2 * plain


def together(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([one.flatten() for one in gradients.values()])


def test_each_batch_is_drawn_once_and_none_beyond_the_last(tmp_path, monkeypatch):
    drawn, draw = [], Batches.__getitem__

    def told(self, update):
        drawn.append(update)
        return draw(self, update)

    monkeypatch.setattr(Batches, "__getitem__", told)
    with pytest.raises(Interrupted):
        train_in(tmp_path, optimizer_steps=5, log_steps=1, tracker=StopAt(2))
    assert drawn == [0, 1, 2]  # the last of them was waiting
    train_in(tmp_path, optimizer_steps=5)
    assert drawn[3:] == [2, 3, 4]
    train_in(tmp_path, optimizer_steps=5)  # from the last checkpoint: nothing is left
    assert len(drawn) == 6


@pytest.mark.parametrize("asked", [True, 1, 4])
def test_without_a_compiler_the_key_is_named(asked, tmp_path, no_compiler):
    with pytest.raises(ConfigError, match=r"training\.compile needs a C\+\+ compiler"):
        train_in(tmp_path, optimizer_steps=4, compile=asked)


def test_a_training_too_short_for_it_is_not_compiled(tmp_path, no_compiler):
    plain = train_in(tmp_path / "plain", optimizer_steps=4)
    short = train_in(tmp_path / "short", optimizer_steps=4, compile=5)
    for name, weight in plain.state_dict.items():
        assert torch.equal(short.state_dict[name], weight)


# Learning rate


def test_learning_rate_is_equations_3_11_and_3_12():
    training = Training(learning_rate=2e-4, learning_rate_min=1e-5, warmup_steps=10)
    rates = [learning_rate(t, 110, training) for t in range(110)]
    t = np.arange(110)
    warmup = 2e-4 * t / 10
    cosine = 1e-5 + 0.5 * (2e-4 - 1e-5) * (1 + np.cos((t - 10) / (110 - 10) * np.pi))
    np.testing.assert_allclose(rates, np.where(t < 10, warmup, cosine), rtol=1e-12)
    assert rates[0] == 0
    assert rates[10] == 2e-4
    assert rates[60] == pytest.approx((2e-4 + 1e-5) / 2)


def test_learning_rate_is_that_of_diffusers():
    from diffusers.optimization import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    theirs = get_cosine_schedule_with_warmup(optimizer, 5, 40)
    training = Training(learning_rate=1e-4, warmup_steps=5)
    for update in range(40):
        assert learning_rate(update, 40, training) == pytest.approx(
            theirs.get_last_lr()[0], rel=1e-9, abs=1e-18
        )
        optimizer.step()
        theirs.step()


@given(st.integers(1, 2000), st.integers(0, 2000), st.floats(0, 1e-4))
def test_learning_rate_stays_between_its_bounds(updates, warmup, minimum):
    training = Training(
        learning_rate=1e-4, learning_rate_min=minimum, warmup_steps=warmup
    )
    rates = [learning_rate(t, updates, training) for t in range(updates)]
    slack = 1e-18
    assert all(-slack <= rate <= 1e-4 + slack for rate in rates)
    assert all(rate >= minimum - slack for rate in rates[warmup:])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


# Plan and batches


@given(
    st.integers(1, 60), st.integers(1, 20), st.integers(1, 6), st.none() | st.just(7)
)
def test_every_epoch_is_closed_once(images, batch_size, epochs, steps):
    training = Training(batch_size=batch_size, optimizer_steps=steps)
    plan = Plan(images, training, epochs)
    batches_in_loader = -(-images // batch_size)
    assert plan.updates == (steps or epochs * batches_in_loader)
    closed = [
        plan.epoch(done - 1)
        for done in range(1, plan.updates + 1)
        if plan.ends_epoch(done)
    ]
    assert closed == list(range(math.ceil(plan.updates / batches_in_loader)))


def make_batches(count: int = 10, steps: int = 5, **values) -> Batches:
    training = Training(batch_size=4, **values)
    return Batches(some_images(count), steps, training, KEY, CPU)


def test_an_epoch_sees_every_image_once_in_a_new_order():
    batches = make_batches(horizontal_flip=0.0)
    originals = some_images().astype(np.float32)
    orders = []
    for epoch in range(2):
        x0 = torch.cat([batches[epoch * 3 + i].x0 for i in range(3)])
        pixels = ((x0 + 1) * 127.5).round().numpy()
        found = [int(np.abs(originals - p).sum((1, 2, 3)).argmin()) for p in pixels]
        np.testing.assert_array_equal(originals[found], pixels)
        orders.append(found)
    assert [len(batches[i].x0) for i in range(3)] == [4, 4, 2]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_pixels_are_normalised_as_torchvision_does():
    from torchvision.transforms import v2

    theirs = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    )
    image = np.arange(192, dtype=np.uint8).reshape(1, 3, 8, 8)
    training = Training(batch_size=1, horizontal_flip=0.0)
    ours = Batches(image, 5, training, KEY, CPU)[0].x0
    expected = theirs(torch.from_numpy(image))
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-7)
    assert ours.min() == -1
    assert ours.max() == pytest.approx(191 / 127.5 - 1)


def test_flips_mirror_left_and_right_by_their_probability():
    never, always = (make_batches(horizontal_flip=p)[0] for p in (0.0, 1.0))
    assert torch.equal(always.x0, never.x0.flip(-1))
    assert torch.equal(always.noise, never.noise)
    half, none = (make_batches(400, horizontal_flip=p) for p in (0.5, 0.0))
    mirrored = sum(
        int((half[i].x0 != none[i].x0).any(dim=(1, 2, 3)).sum()) for i in range(100)
    )
    assert 150 < mirrored < 250  # 5 standard deviations


def test_steps_are_uniform_and_noise_is_normal():
    batches = make_batches()
    timesteps = torch.cat([batches[i].timesteps for i in range(300)])
    counts = torch.bincount(timesteps, minlength=5)
    assert len(counts) == 5
    expected = len(timesteps) / 5
    assert ((counts - expected) ** 2 / expected).sum() < 23.5  # chi-squared, p = 1e-4
    noise = torch.cat([batches[i].noise.flatten() for i in range(300)])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_a_batch_depends_on_its_index_alone():
    batches, others = make_batches(), make_batches()
    later = others[7]
    for index in range(8):
        batch = batches[index]
    assert torch.equal(batch.x0, later.x0)
    assert torch.equal(batch.noise, later.noise)
    assert torch.equal(batch.timesteps, later.timesteps)
    assert not torch.equal(batch.noise, others[6].noise)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 3, 8, 8), np.uint8),
        np.zeros((2, 3, 8, 8), np.float32),
        np.zeros((2, 8, 8), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(images, tmp_path):
    with pytest.raises(DataError, match="run preprocess again"):
        train_in(tmp_path, images=images)


# The update


@pytest.mark.parametrize("gradient_clip", [None, 0.1])
def test_updates_are_those_of_a_plain_diffusers_loop(gradient_clip):
    from diffusers import DDPMScheduler

    training = Training(
        batch_size=4, precision="fp32", gradient_clip=gradient_clip, warmup_steps=1
    )
    ours, theirs = UNet.preset("tiny", 8), UNet.preset("tiny", 8)
    batches = Batches(some_images(), 20, training, KEY, CPU)
    learner = Learner(ours, Diffusion(20), training, CPU)
    scheduler = DDPMScheduler(num_train_timesteps=20)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-4)
    rates = [0.0, 1e-3, 1e-4]
    for index, rate in enumerate(rates):
        batch = batches[index]
        loss = learner.update(batch, index, rate)

        noisy = scheduler.add_noise(batch.x0, batch.noise, batch.timesteps)
        expected = F.mse_loss(theirs(noisy, batch.timesteps), batch.noise)
        expected.backward()
        if gradient_clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), gradient_clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    initial = UNet.preset("tiny", 8).state_dict()
    for name, weight in theirs.state_dict().items():
        if name.endswith("to_k.bias"):
            continue  # softmax ignores it: its gradient is nothing but rounding
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=3e-5)
        # The tolerance means something: the weights moved by many times as much.
        assert (weight - initial[name]).abs().max() > 3e-4


def test_the_loss_falls(tmp_path):
    images = np.full((16, 3, 8, 8), 200, np.uint8)
    trained = train_in(
        tmp_path,
        network=UNet.preset("tiny", 8),
        images=images,
        epochs=20,
        batch_size=8,
        log_steps=10,
        checkpoint_epochs=20,
    )
    losses = [row["loss"] for row in trained.history]
    assert losses[0] > 0.8
    assert trained.final_loss == losses[-1] < 0.5


def test_the_result_says_what_was_done(tmp_path):
    network = SmallNetwork()
    trained = train_in(tmp_path, network=network, optimizer_steps=8)
    assert [row["epoch"] for row in trained.history] == [1, 2, 3]
    assert [row["optimizer_step"] for row in trained.history] == [3, 6, 8]
    assert trained.optimizer_steps == 8
    training = Training(**SETTINGS)
    assert trained.history[-1]["learning_rate"] == learning_rate(7, 8, training)
    assert all(row["images_per_second"] > 0 for row in trained.history)
    assert trained.seconds > 0
    assert trained.peak_memory_bytes > 1e7
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, trained.state_dict[name])


def test_the_epochs_loss_is_the_mean_over_its_images(tmp_path):
    trained = train_in(tmp_path, epochs=1)
    training = Training(**SETTINGS)
    learner = Learner(SmallNetwork(), Diffusion(10, "linear_scaled"), training, CPU)
    key = (0, "train", "toy", "linear_scaled", 10)
    batches = Batches(some_images(), 10, training, key, CPU, torch.channels_last)
    losses = [
        learner.update(batches[i], i, learning_rate(i, 3, training)).item()
        for i in range(3)
    ]
    mean = np.average(losses, weights=[4, 4, 2])
    assert trained.final_loss == pytest.approx(mean, rel=1e-6)


def test_a_batch_larger_than_the_set_is_the_whole_set(tmp_path):
    trained = train_in(tmp_path, batch_size=64, epochs=2)
    assert trained.optimizer_steps == 2


def test_global_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    train_in(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


# Moving average


@settings(max_examples=20)
@given(st.floats(0.01, 0.999), st.integers(1, 30))
def test_average_is_its_closed_form(decay, updates):
    from noisesteps.training.ema import MovingAverage

    network = nn.Linear(3, 2)
    path = [network.weight.detach().double().clone()]
    average = MovingAverage(network, decay)
    for update in range(updates):
        with torch.no_grad():
            network.weight += 0.1
        path.append(network.weight.detach().double().clone())
        average.follow(network, update)
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(updates)]
    assert decays == [decay_at(t, decay) for t in range(updates)]
    shares = [math.prod(decays)] + [
        (1 - decays[t]) * math.prod(decays[t + 1 :]) for t in range(updates)
    ]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * w for share, w in zip(shares, path, strict=True))
    torch.testing.assert_close(average.tensors["weight"].double(), expected)


def test_the_average_is_what_is_published(tmp_path):
    network = SmallNetwork()
    trained = train_in(tmp_path, network=network, ema_decay=0.9)
    tensors = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN).tensors
    for name, weight in trained.state_dict.items():
        assert torch.equal(weight, tensors[f"average/{name}"])
        assert not torch.equal(weight, tensors[f"weights/{name}"])
        assert torch.equal(weight, network.state_dict()[name])


# Precision


def test_precisions_agree_within_their_rounding(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        trained = train_in(tmp_path / precision, epochs=2, precision=precision)
        losses[precision] = trained.final_loss
        dtypes = {weight.dtype for weight in trained.state_dict.values()}
        assert dtypes == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.005)
    assert len(set(losses.values())) == 3  # each really computed differently


def test_a_device_without_the_precision_is_refused():
    with pytest.raises(ConfigError, match=r"training\.precision: fp16 cannot be used"):
        Precision("fp16", torch.device("meta"))


def test_a_few_overflowing_fp16_gradients_are_skipped(tmp_path):
    network = Spoiled(range(2, 5), gradient=math.inf)
    trained = train_in(tmp_path, network=network, precision="fp16")
    assert trained.optimizer_steps == 12
    record = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN).record
    assert record["loss_scale"]["scale"] == 65536 / 2**3


def test_a_collapsed_loss_scale_is_divergence(tmp_path):
    network = Spoiled(range(4, 1000), gradient=math.inf)
    with pytest.raises(DivergedError, match="fp16 gradients overflowed at update"):
        train_in(tmp_path, network=network, precision="fp16", epochs=20)


# Divergence


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("log_steps", [1, 100])
def test_a_loss_that_is_not_finite_ends_training(tmp_path, value, log_steps):
    network = Spoiled(range(8, 100), output=value)
    with pytest.raises(DivergedError) as caught:
        train_in(tmp_path, network=network, log_steps=log_steps)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "at update 8 (epoch 3)" in message
    assert "the last good checkpoint is that of update 6" in message
    found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
    assert found.record["progress"]["update"] == 6
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())


def test_divergence_before_any_checkpoint_says_so(tmp_path):
    with pytest.raises(DivergedError, match=r"update 1 .* there is no checkpoint yet"):
        train_in(tmp_path, network=Spoiled(range(1, 9), output=math.nan))


def test_weights_that_are_not_finite_are_not_published(tmp_path):
    network = Spoiled(range(12, 13), gradient=math.nan)
    with pytest.raises(DivergedError, match="weights became infinite at update 12"):
        train_in(tmp_path, network=network)


class Hungry(SmallNetwork):
    def forward(self, x, t):
        raise torch.OutOfMemoryError("no memory left")


def test_too_little_memory_is_one_sentence(tmp_path):
    with pytest.raises(StageError, match=r"training\.batch_size: 4 .* lower it"):
        train_in(tmp_path, network=Hungry())
