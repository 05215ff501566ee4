"""The same work started twice: one does it, the other says so."""

import os
import signal
import time

import harness
import pytest
from harness import MODEL, PREPROCESS, STAGES, TRAIN, Fork

from noisesteps.config import load_study
from noisesteps.errors import BusyError
from noisesteps.files import checksum
from noisesteps.locks import exclusive

FULL = pytest.mark.faults_full
LOCKS = {
    "preprocess": harness.DATA,
    "train": MODEL,
    "sample": harness.SAMPLES,
    "reference": harness.REFERENCE,
    "score": harness.SCORE,
    "sets": harness.SETS / "mix",
    "classify": harness.CLASSIFIER / "seed0.json",
    "tabulate": harness.RESULTS / "tables/fid.csv",
    "draw": harness.RESULTS / "figures/samples_toy_flowers.png",
    "report": harness.RESULTS / "report.html",
}
LONG = {"epochs": 50, "checkpoint_epochs": 50}


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_stage_leaves_alone_what_another_process_writes(copied, monkeypatch, stage):
    monkeypatch.chdir(copied)
    before = harness.states(copied)
    with exclusive(LOCKS[stage.command[0]]):
        ended = harness.run(copied, *stage.command)
        message = ended.refused()
        assert ended.code == BusyError.exit_code
        holder = f"is being written by process {os.getpid()} on "
        assert f"{LOCKS[stage.command[0]]} {holder}" in message
    assert harness.states(copied) == before


def test_a_training_started_twice_is_done_once(tmp_path):
    folder = harness.build(tmp_path / "a", [PREPROCESS.command], training=LONG)
    alone = harness.copy(folder, tmp_path / "b")
    first = Fork(folder, *TRAIN.command)
    harness.wait_until(lambda: harness.updates_logged(folder) >= 3, first)
    second = harness.run(folder, *TRAIN.command)
    assert "is being written by process" in second.refused()
    assert first.process.is_alive()
    first.wait().check()
    assert harness.resumptions(folder) == [0]
    harness.run(alone, *TRAIN.command).check()
    assert harness.same_files(alone, folder, TRAIN.outputs)


@FULL
@pytest.mark.parametrize("number", range(10))
def test_of_two_that_start_together_one_works(study, tmp_path, number):
    folder = harness.build(tmp_path, [PREPROCESS.command])
    both = [Fork(folder, *TRAIN.command) for _ in range(2)]
    codes = sorted(fork.wait().code for fork in both)
    # The second may also start when the first is done: then it does the work again.
    assert codes in ([0, BusyError.exit_code], [0, 0])
    assert harness.same_files(study, folder, TRAIN.outputs)


def test_a_killed_process_holds_no_lock(tmp_path):
    folder = harness.build(tmp_path, [PREPROCESS.command], training=LONG)
    training = Fork(folder, *TRAIN.command)
    harness.wait_until(lambda: harness.updates_logged(folder) >= 1, training)
    os.kill(training.process.pid, signal.SIGKILL)
    training.wait()
    lock = folder / MODEL.with_name(f".{MODEL.name}.lock")
    assert lock.exists()
    harness.write_config(folder)
    harness.run(folder, *TRAIN.command).check()
    assert not lock.exists()


def test_a_download_waits_for_another_one(tmp_path, monkeypatch, caplog):
    """Several studies may want the same files; the second finds them there."""
    import threading

    monkeypatch.chdir(tmp_path)
    held, entered = threading.Event(), []

    def other() -> None:
        with exclusive(tmp_path / "resources"):
            held.set()
            time.sleep(0.3)
            entered.append("first")

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    with caplog.at_level("INFO"), exclusive(tmp_path / "resources", wait=True):
        entered.append("second")
    thread.join()
    assert entered == ["first", "second"]
    assert "waiting for process" in caplog.text


def test_a_fetch_waits_for_another_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/a.bin").write_bytes(b"whole")
    mirror = {
        "location": "there",
        "sha256": {"a.bin": checksum(tmp_path / "there/a.bin")},
    }
    values = {"format": "zip", "files": {"a.bin": {}}, "mirror": mirror, "train": 20}
    harness.write_config(tmp_path, datasets={"mine": values})
    folder = load_study(tmp_path / "tiny.yaml").resource_folder("mine")
    with exclusive(tmp_path / folder):
        second = Fork(tmp_path, "fetch", "--source", "mine")
        waits = f"waiting for process {os.getpid()} on "
        harness.wait_until(lambda: waits in second.output(), second)
        assert not (tmp_path / folder / "a.bin").exists()
    second.wait().check()
    assert (tmp_path / folder / "a.bin").exists()


def test_a_refused_stage_leaves_no_trace(tmp_path):
    harness.write_config(tmp_path)
    harness.run(tmp_path, *harness.SCORES.command).refused()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_snakemake_leaves_a_study_alone_that_another_holds(tmp_path):
    harness.write_config(tmp_path)
    with exclusive(tmp_path / harness.RESULTS):
        target = (harness.DATA / "dataset.json").as_posix()
        ended = harness.end(harness.snakemake(tmp_path, target))
    assert ended.code != 0
    holder = f"is being written by process {os.getpid()} on "
    assert f"noisesteps: error: {harness.RESULTS} {holder}" in ended.output
    assert "Traceback" not in ended.output
    assert not (tmp_path / harness.DATA).exists()


@FULL
def test_of_two_snakemakes_one_says_so(tmp_path):
    folder = harness.build(tmp_path / "a", [PREPROCESS.command], training=LONG)
    alone = harness.copy(folder, tmp_path / "b")
    target = (MODEL / "model.json").as_posix()
    first = harness.snakemake(folder, target)
    harness.wait_until((folder / "results/.tiny.lock").exists, first)
    second = harness.end(harness.snakemake(folder, target))
    assert second.code != 0
    said = f"noisesteps: error: results/tiny is being written by process {first.pid} on"
    assert said in second.output
    assert "Traceback" not in second.output
    harness.end(first).check()
    assert harness.resumptions(folder) == [0]
    harness.run(alone, *TRAIN.command).check()
    assert harness.same_files(alone, folder, TRAIN.outputs)
    assert not (folder / "results/.tiny.lock").exists()
