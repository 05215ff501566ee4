"""A sampling that is stopped or killed goes on, to the same bits."""

import logging
import os
import signal

import numpy as np
import pytest
import torch

from noisesteps.config import Sampling
from noisesteps.diffusion import Diffusion
from noisesteps.models import UNet
from noisesteps.sampling import Partial, generate, samples
from noisesteps.signals import Interrupted

CPU = torch.device("cpu")
KEY = (0, "sample", "toy_flowers", "linear_scaled", 5)
ORIGIN = {"weights": "these", "settings": {"precision": "fp32"}}
STEPS, IMAGES, BATCH = 5, 10, 3


class Watched(UNet):
    """A network that does something in one of a sampler's calls, counted from 1."""

    call, number, act = 0, 0, staticmethod(lambda: None)

    def frozen(self, timesteps, dtype):
        predict = super().frozen(timesteps, dtype)

        def watched(x, index):
            self.call += 1
            if self.call == self.number:
                self.act()
            return predict(x, index)

        return watched


def watched(number=0, act=None):
    network = Watched.preset("tiny", 8, seed=1)
    network.number, network.act = number, act
    return network


def run(path, network=None, origin=ORIGIN):
    return generate(
        network or watched(),
        Diffusion(STEPS, "linear_scaled"),
        Sampling(images=IMAGES, batch_size=BATCH),
        images=IMAGES,
        key=KEY,
        device=CPU,
        partial=path and Partial(path, origin),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "samples.safetensors"


@pytest.fixture
def heard_signals():
    """Ignore no signal, as where the tests run in the background of a shell."""
    before = {
        number: signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole():
    return run(None)


def same(one, other):
    assert np.array_equal(one.images, other.images)
    assert len(one.batch_seconds) == len(other.batch_seconds)
    return True


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_keeps_the_finished_batches(path, whole, heard_signals, number, code):
    network = watched(2 * STEPS + 3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match="after 6 of 10 images") as caught:
        run(path, network)
    assert caught.value.exit_code == code
    assert network.call == 2 * STEPS + 3  # it does not wait for the batch
    assert signal.getsignal(number) is signal.SIG_DFL
    rest = watched()
    assert same(run(path, rest), whole)
    assert rest.call == 2 * STEPS  # the third batch, and the one image of the fourth


def test_it_can_be_stopped_again_and_again(path, whole, heard_signals):
    stops = 0
    for _ in range(10):
        network = watched(
            STEPS + 2, lambda: os.kill(os.getpid(), signal.SIGTERM)
        )  # one batch gets done each time
        try:
            found = run(path, network)
            break
        except Interrupted:
            stops += 1
    assert stops == 3
    assert same(found, whole)


def test_stopped_in_its_first_batch_it_leaves_nothing(path, heard_signals):
    network = watched(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="after 0 of 10 images"):
        run(path, network)
    assert not path.exists()


def test_a_signal_after_the_last_step_changes_nothing(path, whole, heard_signals):
    network = watched(4 * STEPS, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert same(run(path, network), whole)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the program's own runs after it."""


def kill():
    raise KilledError


def test_what_was_saved_before_a_kill_is_used(path, whole, monkeypatch):
    monkeypatch.setattr(samples, "SECONDS_BETWEEN", 0.0)
    with pytest.raises(KilledError):
        run(path, watched(3 * STEPS + 2, kill))
    rest = watched()
    assert same(run(path, rest), whole)
    assert rest.call == STEPS


def test_nothing_is_written_while_it_is_quick(path, whole):
    assert same(run(path), whole)
    assert not path.exists()


def test_a_halved_batch_stays_halved(path, monkeypatch):
    def out_of_memory():
        raise torch.OutOfMemoryError

    def out_of_memory_then_killed():
        network.number, network.act = 3 * STEPS, kill
        raise torch.OutOfMemoryError

    alone = run(None, watched(1, out_of_memory))
    assert alone.batch_size == 1
    monkeypatch.setattr(samples, "SECONDS_BETWEEN", 0.0)
    network = watched(1, out_of_memory_then_killed)
    with pytest.raises(KilledError):
        run(path, network)
    found = run(path)
    assert same(found, alone)
    assert found.batch_size == 1


def test_images_of_another_origin_are_not_used(path, whole, monkeypatch, caplog):
    monkeypatch.setattr(samples, "SECONDS_BETWEEN", 0.0)
    other = ORIGIN | {"weights": "others"}
    with pytest.raises(KilledError):
        run(path, watched(2 * STEPS, kill), other)
    with caplog.at_level(logging.WARNING):
        assert same(run(path), whole)
    assert "differs in weights; sampling starts anew" in caplog.text


@pytest.mark.parametrize("place", [0.2, 0.5, 0.95])
def test_a_damaged_file_is_not_used(path, whole, monkeypatch, caplog, place):
    monkeypatch.setattr(samples, "SECONDS_BETWEEN", 0.0)
    with pytest.raises(KilledError):
        run(path, watched(3 * STEPS, kill))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert same(run(path), whole)
    assert "is damaged" in caplog.text
    assert "sampling starts anew" in caplog.text
