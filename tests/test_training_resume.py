"""A training that stops and goes on ends in the same bits."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesteps.errors import StageError
from noisesteps.models import UNet
from noisesteps.training import Interrupted, Observer, checkpoint
from training_runs import THIS_RUN, SmallNetwork, Spoiled, StopAt, train_in

UPDATES = 12
ALL_STATE = {"ema_decay": 0.9, "gradient_clip": 1.0}


def same(one, other) -> bool:
    """Whether two trainings ended in the same bits."""
    return (
        one.state_dict.keys() == other.state_dict.keys()
        and all(
            torch.equal(one.state_dict[k], other.state_dict[k]) for k in one.state_dict
        )
        and [(r["epoch"], r["loss"], r["learning_rate"]) for r in one.history]
        == [(r["epoch"], r["loss"], r["learning_rate"]) for r in other.history]
    )


def interrupted_at(folder: Path, updates: list[int], **values):
    """Train with a stop after each of `updates`; each attempt has a fresh network."""
    for attempt, update in enumerate(updates):
        with pytest.raises(Interrupted):
            train_in(
                folder,
                network=SmallNetwork(seed=attempt),
                tracker=StopAt(update),
                **values,
            )
    # Other initial weights: what counts has to come from the checkpoint.
    return train_in(folder, network=SmallNetwork(seed=99), **values)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train_in(tmp_path_factory.mktemp("undisturbed"), **ALL_STATE)


@pytest.mark.parametrize("update", range(1, UPDATES))
def test_resume_after_any_update_is_bit_identical(update, undisturbed, tmp_path):
    assert same(interrupted_at(tmp_path, [update], **ALL_STATE), undisturbed)


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(1, UPDATES - 1), min_size=2, max_size=4))
def test_resume_after_several_stops_is_bit_identical(
    undisturbed, tmp_path_factory, updates
):
    folder = tmp_path_factory.mktemp("stops")
    assert same(interrupted_at(folder, sorted(updates), **ALL_STATE), undisturbed)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_resume_in_mixed_precision_is_bit_identical(precision, tmp_path):
    values = {"precision": precision, "epochs": 2}
    whole = train_in(tmp_path / "whole", **values)
    assert same(interrupted_at(tmp_path / "parts", [2, 4], **values), whole)


def test_resume_keeps_the_loss_scale(tmp_path):
    values = {"precision": "fp16", "epochs": 2}
    overflows_once = Spoiled(range(2, 3), gradient=math.inf)
    with pytest.raises(Interrupted):
        train_in(tmp_path, network=overflows_once, tracker=StopAt(4), **values)
    train_in(tmp_path, **values)
    found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
    scale = found.record["loss_scale"]
    assert scale["scale"] == 65536 / 2
    assert scale["_growth_tracker"] == 4  # updates 3 to 6


def test_resume_of_the_unet_is_bit_identical(tmp_path):
    whole = train_in(tmp_path / "whole", network=UNet.preset("tiny", 8), epochs=2)
    with pytest.raises(Interrupted):
        train_in(
            tmp_path / "parts",
            network=UNet.preset("tiny", 8),
            epochs=2,
            tracker=StopAt(4),
        )
    other = UNet.preset("tiny", 8, seed=1)
    assert same(train_in(tmp_path / "parts", network=other, epochs=2), whole)


def test_a_finished_training_is_not_repeated(undisturbed, tmp_path):
    train_in(tmp_path, **ALL_STATE)
    again = train_in(tmp_path, network=SmallNetwork(seed=5), **ALL_STATE)
    assert same(again, undisturbed)


def test_training_time_adds_up(tmp_path):
    with pytest.raises(Interrupted):
        train_in(tmp_path, tracker=StopAt(6))
    found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
    before = found.record["progress"]["seconds"]
    trained = train_in(tmp_path)
    assert trained.seconds > before > 0


# Signals


@pytest.fixture
def heard_signals():
    """Ignore no signal, as where the tests run in the background of a shell."""
    handlers = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handlers[number]) for number in handlers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_finishes_the_update_and_keeps_the_work(
    tmp_path, heard_signals, number, code
):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        train_in(tmp_path, tracker=StopAt(5, number))
    assert caught.value.exit_code == code
    assert signal.Signals(number).name in str(caught.value)
    assert "after update 5 of 12" in str(caught.value)
    found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
    assert found.record["progress"]["update"] == 5
    assert found.record["epoch"] == 1
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trained = train_in(tmp_path, tracker=StopAt(5, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert trained.optimizer_steps == UPDATES


def test_a_signal_after_the_last_update_changes_nothing(tmp_path):
    trained = train_in(tmp_path, tracker=StopAt(UPDATES))
    assert trained.optimizer_steps == UPDATES


# Other processes


def start(folder: Path) -> subprocess.Popen:
    """Start a training of 60 updates in a process of its own."""
    script = Path(__file__).with_name("training_runs.py")
    return subprocess.Popen(
        [sys.executable, script, folder], stdout=subprocess.PIPE, text=True
    )


def wait_for_update(process: subprocess.Popen, update: int) -> None:
    for line in process.stdout:
        if int(line) >= update:
            return
    pytest.fail("the training ended too early")


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory):
    """Return the weights of the same training in this process, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return train_in(folder, epochs=20, ema_decay=0.9).state_dict


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)]
)
def test_a_killed_process_is_made_good_by_a_rerun(tmp_path, in_one_go, number, code):
    process = start(tmp_path)
    wait_for_update(process, 20)
    process.send_signal(number)
    sent = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - sent < 10
    assert process.returncode == code
    assert not (tmp_path / "model.pt").exists()

    found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
    assert found.record["progress"]["update"] >= 18
    rerun = start(tmp_path)
    first = int(rerun.stdout.readline())
    assert first == found.record["progress"]["update"] + 1
    rerun.communicate(timeout=120)
    assert rerun.returncode == 0
    resumed = torch.load(tmp_path / "model.pt", weights_only=True)
    assert resumed.keys() == in_one_go.keys()
    assert all(torch.equal(resumed[name], in_one_go[name]) for name in resumed)


# The file


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> bytes:
    """Return the bytes of a checkpoint after 5 updates."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Interrupted):
        train_in(folder, tracker=StopAt(5), **ALL_STATE)
    return (folder / "checkpoint.safetensors").read_bytes()


def test_the_rolling_checkpoint_follows_its_period(tmp_path):
    class Watch(Observer):
        def __init__(self):
            self.seen = []

        def log(self, point):
            found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
            self.seen.append(found and found.record["progress"]["update"])

    watch = Watch()
    train_in(tmp_path, epochs=5, checkpoint_epochs=2, tracker=watch)
    assert watch.seen == [None] * 6 + [6] * 6 + [12] * 3
    found = checkpoint.find(tmp_path / "checkpoint.safetensors", THIS_RUN)
    assert found.record["progress"]["update"] == 15
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_damaged_checkpoint_is_named_and_not_used(
    stopped, undisturbed, tmp_path, caplog
):
    path = tmp_path / "checkpoint.safetensors"
    damaged = bytearray(stopped)
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    trained = train_in(tmp_path, **ALL_STATE)
    assert f"The checkpoint {path} is damaged" in caplog.text
    assert same(trained, undisturbed)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_detected(stopped, tmp_path_factory, data):
    position = data.draw(st.integers(0, len(stopped) - 1))
    damaged = bytearray(stopped)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "checkpoint.safetensors"
    path.write_bytes(damaged)
    assert checkpoint.find(path, THIS_RUN) is None


@pytest.mark.parametrize("kept", [0, 4, 300, -1])
def test_a_truncated_checkpoint_is_not_used(stopped, tmp_path, kept, caplog):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(stopped[:kept])
    assert checkpoint.find(path, THIS_RUN) is None
    assert "is damaged" in caplog.text


def test_a_whole_checkpoint_is_used(stopped, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(stopped)
    assert checkpoint.find(path, THIS_RUN).record["progress"]["update"] == 5


def test_a_foreign_checkpoint_is_not_used(stopped, tmp_path, caplog):
    (tmp_path / "checkpoint.safetensors").write_bytes(stopped)
    fresh = train_in(tmp_path / "fresh", origin={"code": "another"}, **ALL_STATE)
    trained = train_in(tmp_path, origin={"code": "another"}, **ALL_STATE)
    assert "which differs in code;" in caplog.text
    assert same(trained, fresh)


def test_the_previous_checkpoint_outlives_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, {"x": torch.ones(3)}, {"origin": {}})
    before = path.read_bytes()

    def fill_the_disk(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_the_disk)
    with pytest.raises(StageError, match="No space left on device"):
        checkpoint.save(path, {"x": torch.zeros(3)}, {"origin": {}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_half_written_files_of_killed_processes_are_removed(tmp_path):
    leftover = tmp_path / ".checkpoint.12345.partial.safetensors"
    leftover.write_bytes(b"half")
    assert checkpoint.find(tmp_path / "checkpoint.safetensors", {}) is None
    assert not leftover.exists()
