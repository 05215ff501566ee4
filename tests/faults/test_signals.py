"""SIGTERM and Ctrl-C: training and sampling save and end within ten seconds."""

import os
import re
import signal
import time

import harness
import pytest
from harness import CHECKPOINT, MODEL, PREPROCESS, SAMPLE, SAMPLES, TRAIN

FULL = pytest.mark.faults_full
UPDATES = 120
# One epoch, thus no checkpoint on the way: what is saved was saved by the signal.
LONG = {"batch_size": 1, "epochs": 6, "checkpoint_epochs": 1000}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return harness.build(folder, [PREPROCESS.command], training=LONG)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    folder = harness.copy(prepared, tmp_path_factory.mktemp("whole"))
    harness.run(folder, *TRAIN.command).check()
    return folder


@pytest.mark.parametrize(
    ("name", "update"),
    [
        ("SIGTERM", 7),
        pytest.param("SIGINT", 33, marks=FULL),
        pytest.param("SIGTERM", 61, marks=FULL),
        pytest.param("SIGINT", 99, marks=FULL),
    ],
)
def test_a_signal_keeps_every_update(
    prepared, whole, tmp_path, name, update, record_property
):
    folder = harness.copy(prepared, tmp_path / "study")
    number = signal.Signals[name]
    process = harness.start(folder, *TRAIN.command)
    harness.wait_until(lambda: harness.updates_logged(folder) >= update, process)
    started = time.monotonic()
    process.send_signal(number)
    ended = harness.end(process)
    seconds = time.monotonic() - started
    assert seconds < 10
    record_property("seconds_to_the_end", round(seconds, 2))
    assert ended.code == 128 + number
    assert f"stopped by {name}" in ended.refused()
    assert (folder / CHECKPOINT).exists()
    assert not (folder / MODEL / "model.safetensors").exists()

    reached = harness.updates_logged(folder)
    assert update <= reached < UPDATES
    harness.run(folder, *TRAIN.command).check()
    assert harness.resumptions(folder) == [0, reached]  # nothing is lost
    assert harness.same_files(whole, folder, TRAIN.outputs)


@pytest.mark.parametrize("rule", ["train", "sample"])
def test_no_shell_stands_between_a_signal_and_the_stage(rule):
    """A shell that waits for its child dies of SIGTERM and leaves the child alone."""
    assert harness.shell_lines()[rule].startswith("exec python -m noisesteps ")


def batches_done(process):
    found = re.findall(r"sampled (\d+) of", process.output())
    return int(found[-1]) if found else 0


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=FULL)])
def test_a_signal_keeps_the_finished_batches(whole, tmp_path, name, record_property):
    many = {"images": 60, "batch_size": 1}
    folder = harness.copy(whole, tmp_path / "study")
    harness.write_config(folder, training=LONG, sampling=many)
    undisturbed = harness.copy(folder, tmp_path / "undisturbed")
    harness.run(undisturbed, *SAMPLE.command).check()

    number = signal.Signals[name]
    process = harness.start(folder, *SAMPLE.command)
    harness.wait_until(lambda: batches_done(process) >= 5, process)
    started = time.monotonic()
    process.send_signal(number)
    ended = harness.end(process)
    seconds = time.monotonic() - started
    assert seconds < 10
    record_property("seconds_to_the_end", round(seconds, 2))
    assert ended.code == 128 + number
    assert f"stopped by {name} after " in ended.refused()
    assert not (folder / SAMPLES / "images.npy").exists()

    rest = harness.run(folder, *SAMPLE.command).check()
    assert "sampled 1 of 60" not in rest.output
    assert f"sampled {batches_done(process) + 1} of 60" in rest.output
    assert harness.same_files(undisturbed, folder, SAMPLE.outputs)
    assert not (folder / CHECKPOINT.with_name("samples.safetensors")).exists()


@FULL
def test_ctrl_c_in_snakemake_reaches_the_training(prepared, whole, tmp_path):
    """A terminal sends SIGINT to Snakemake, the shell and the training at once."""
    folder = harness.copy(prepared, tmp_path / "study")
    target = (MODEL / "model.json").as_posix()
    process = harness.snakemake(folder, target)
    harness.wait_until(lambda: harness.updates_logged(folder) >= 20, process)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert harness.end(process).code != 0
    assert time.monotonic() - started < 10
    reached = harness.updates_logged(folder)
    harness.end(harness.snakemake(folder, target)).check()
    assert harness.resumptions(folder) == [0, reached]
    assert harness.same_files(whole, folder, TRAIN.outputs)


@FULL
def test_a_checkpoint_of_the_dissertations_network_is_written_in_time(
    tmp_path, record_property
):
    """113,673,219 weights, their two moments and their average: 1.8 GB."""
    import torch

    from noisesteps.config import Training
    from noisesteps.diffusion import Diffusion
    from noisesteps.models import UNet
    from noisesteps.training import checkpoint
    from noisesteps.training.learner import Learner

    training = Training(precision="fp32", ema_decay=0.9)
    network = UNet.preset("ddpm-113m", 128)
    learner = Learner(network, Diffusion(10), training, torch.device("cpu"))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    started = time.monotonic()
    checkpoint.save(tmp_path / CHECKPOINT.name, learner.tensors(), {})
    seconds = time.monotonic() - started
    record_property("seconds_to_write", round(seconds, 2))
    assert (tmp_path / CHECKPOINT.name).stat().st_size > 1.8e9
    assert seconds < 10
