"""`kill -9` at random moments; the same command again ends in the same bits."""

import os
import random
import shutil
import signal
import time

import harness
import psutil
import pytest
from harness import CHECKPOINT, MODEL, PREPROCESS, SAMPLE, SAMPLES, TRAIN

FULL = pytest.mark.faults_full
EPOCHS, UPDATES = 40, 80  # the checkpoint's period is one epoch: two updates
TARGET = (SAMPLES / "sample.json").as_posix()
COMPARED = [*TRAIN.outputs, *SAMPLE.outputs]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a study whose data are prepared, for a longer training."""
    folder = tmp_path_factory.mktemp("prepared")
    training = {"epochs": EPOCHS}
    return harness.build(folder, [PREPROCESS.command], training=training)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """Return the same study, trained and sampled without a disturbance."""
    folder = harness.copy(prepared, tmp_path_factory.mktemp("whole"))
    for stage in (TRAIN, SAMPLE):
        ended = harness.end(harness.start(folder, *stage.command))
        ended.check()
    return folder


def few(count: int, bounded: int) -> list:
    """Count up; all but the first few are for the full harness."""
    return [pytest.param(n, marks=() if n < bounded else FULL) for n in range(count)]


@pytest.mark.parametrize("number", few(20, bounded=1))
def test_a_killed_training_ends_in_the_same_bits(
    prepared, whole, tmp_path, number, record_property
):
    folder = harness.copy(prepared, tmp_path / "study")
    chance = random.Random(number)
    update = chance.randrange(UPDATES + 1)
    process = harness.start(folder, *TRAIN.command)
    harness.wait_until(lambda: harness.resumptions(folder) != [], process)
    harness.wait_until(lambda: harness.updates_logged(folder) >= update, process)
    time.sleep(chance.uniform(0, 0.05))
    process.kill()
    assert harness.end(process).code in (-signal.SIGKILL, 0)
    reached = harness.updates_logged(folder)
    killed = not (folder / MODEL / "model.json").exists()

    harness.end(harness.start(folder, *TRAIN.command)).check()
    harness.run(folder, *SAMPLE.command).check()
    assert harness.same_files(whole, folder, COMPARED)
    assert harness.leftovers(folder) == []
    if killed:
        resumed = harness.resumptions(folder)[-1]
        record_property("lost_updates", reached - resumed)
        # A checkpoint every two updates, and an update that was not logged yet.
        assert reached - resumed <= 3


def kill_tree(process: harness.Process) -> int:
    """Kill a process and all that descend from it; return how many they were."""
    parent = psutil.Process(process.pid)
    parent.suspend()  # it must not start others meanwhile
    tree = [*parent.children(recursive=True), parent]
    for member in tree:
        member.kill()
    process.wait()
    psutil.wait_procs(tree)  # what a dying process holds, nobody else gets
    return len(tree)


@pytest.fixture(scope="module")
def snakemake_seconds(prepared, whole, tmp_path_factory):
    """Return how long Snakemake takes to the samples, with nobody disturbing it."""
    folder = harness.write_config(
        tmp_path_factory.mktemp("timed"), training={"epochs": EPOCHS}
    )
    started = time.monotonic()
    harness.end(harness.snakemake(folder, TARGET)).check()
    assert harness.same_files(whole, folder, COMPARED)
    return time.monotonic() - started


@pytest.mark.parametrize("number", few(10, bounded=0))
def test_a_killed_process_tree_ends_in_the_same_bits(
    whole, snakemake_seconds, tmp_path, number, record_property
):
    folder = harness.write_config(tmp_path / "study", training={"epochs": EPOCHS})
    chance = random.Random(number)
    process = harness.snakemake(folder, TARGET)
    # From the tenth on: before, Snakemake itself is being imported.
    time.sleep(chance.uniform(0.1, 0.95) * snakemake_seconds)
    if process.poll() is None:
        killed = kill_tree(process)
        record_property("processes", killed)
        assert harness.end(process).code == -signal.SIGKILL
    harness.end(harness.snakemake(folder, TARGET)).check()
    assert harness.same_files(whole, folder, COMPARED)
    assert harness.leftovers(folder) == []


def test_snakemake_goes_on_after_a_kill_of_the_tree_in_training(
    prepared, whole, tmp_path
):
    folder = harness.copy(prepared, tmp_path / "study")
    target = (MODEL / "model.json").as_posix()
    process = harness.snakemake(folder, target)
    harness.wait_until(lambda: harness.updates_logged(folder) >= UPDATES // 4, process)
    assert kill_tree(process) >= 2  # Snakemake, and the training that it waits for
    assert harness.end(process).code == -signal.SIGKILL
    assert (folder / CHECKPOINT).exists()
    # As if it had come between two files of the training.
    (folder / MODEL).mkdir(parents=True, exist_ok=True)
    shutil.copy(whole / MODEL / "model.safetensors", folder / MODEL)
    harness.end(harness.snakemake(folder, target)).check()
    assert harness.same_files(whole, folder, TRAIN.outputs)
    assert harness.resumptions(folder)[-1] >= UPDATES // 4 - 3


@FULL
@pytest.mark.parametrize("times", [5])
def test_a_training_killed_again_and_again_ends_in_the_same_bits(
    prepared, whole, tmp_path, times, record_property
):
    folder = harness.copy(prepared, tmp_path / "study")
    for number in range(1, times + 1):
        training = harness.Fork(folder, *TRAIN.command)
        goal = UPDATES * number // (times + 1)
        harness.wait_until(
            lambda goal=goal: harness.updates_logged(folder) >= goal, training
        )
        os.kill(training.process.pid, signal.SIGKILL)
        assert training.wait().code == -signal.SIGKILL
    harness.run(folder, *TRAIN.command).check()
    harness.run(folder, *SAMPLE.command).check()
    assert harness.same_files(whole, folder, COMPARED)
    record_property("tried", times)
