"""A training that diverges stops, says where, and publishes nothing."""

import re
from dataclasses import dataclass

import harness
import pytest
from harness import CHECKPOINT, MODEL, PREPROCESS, TRAIN


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return harness.build(tmp_path_factory.mktemp("prepared"), [PREPROCESS.command])


@dataclass(frozen=True)
class Spoil:
    """Multiply the network's output, or its gradient, from one call on.

    Stands for what a network does in the field; no setting of a tiny study does it at
    a known update.
    """

    call: int
    output: float = 1.0
    gradient: float = 1.0

    def __call__(self) -> None:
        from noisesteps.models import UNet

        forward, calls = UNet.forward, 0

        def spoiled(network, *arguments, **keywords):
            nonlocal calls
            calls += 1
            result = forward(network, *arguments, **keywords)
            if calls < self.call:
                return result
            if result.requires_grad:
                result.register_hook(lambda gradient: gradient * self.gradient)
            return result * self.output

        UNet.forward = spoiled


def diverge(prepared, folder, injury, **training) -> str:
    """Train until it fails; insist on what has to hold; return the sentence."""
    harness.copy(prepared, folder)
    harness.write_config(folder, training=training)
    ended = harness.run(folder, *TRAIN.command, injury=injury)
    assert ended.code == 3
    assert not any((folder / path).exists() for path in TRAIN.outputs)
    assert harness.leftovers(folder) == []
    return ended.refused()


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("update", [1, 4, 7])
def test_a_loss_that_is_no_number_stops(prepared, tmp_path, value, update):
    spoil = Spoil(update, output=float(value))
    message = diverge(prepared, tmp_path, spoil)
    assert f"the loss became {value} at update {update} (epoch" in message
    kept = 2 * ((update - 1) // 2)  # a checkpoint every two updates
    if kept == 0:
        assert "there is no checkpoint yet" in message
        assert not (tmp_path / CHECKPOINT).exists()
        return
    assert f"the last good checkpoint is that of update {kept}, " in message
    # Mended, the training goes on from there.
    harness.run(tmp_path, *TRAIN.command).check()
    assert harness.resumptions(tmp_path) == [0, kept]


def test_weights_that_are_no_numbers_are_never_saved(prepared, tmp_path):
    """An infinite gradient of a finite loss spoils the weights, not yet the loss."""
    spoil = Spoil(4, gradient=float("inf"))
    message = diverge(prepared, tmp_path, spoil)
    assert "weights became infinite at update 4" in message
    assert "the last good checkpoint is that of update 2, " in message


def test_fp16_gradients_that_overflow_at_any_scale_stop(prepared, tmp_path):
    spoil = Spoil(5, gradient=float("inf"))
    message = diverge(prepared, tmp_path, spoil, precision="fp16", epochs=40)
    assert "fp16 gradients overflowed at update" in message
    kept = re.search(r"the last good checkpoint is that of update (\d+), ", message)
    assert int(kept[1]) >= 2
    assert (tmp_path / CHECKPOINT).exists()


def test_a_learning_rate_far_too_high_publishes_nothing(prepared, tmp_path):
    """Without any fake: the largest rate that a config may have."""
    harness.copy(prepared, tmp_path)
    harness.write_config(tmp_path, training={"learning_rate": 1.0, "epochs": 60})
    ended = harness.run(tmp_path, *TRAIN.command)
    assert ended.code in (0, 3)
    assert (tmp_path / MODEL / "model.json").exists() == (ended.code == 0)
