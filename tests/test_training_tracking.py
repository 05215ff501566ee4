"""What observers write, read back by the field's own readers."""

import logging
import re
import struct
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisesteps.config import Training, Wandb
from noisesteps.errors import ConfigError, DivergedError
from noisesteps.training import Interrupted, Observer, Tracker
from noisesteps.training.learning_rate import learning_rate
from noisesteps.training.tracking import Point, Start, lines
from training_runs import SETTINGS, Spoiled, StopAt, train_in


class Recorder(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.points = []

    def log(self, point):
        self.points.append(point)


class Both(Observer):
    """Two observers as one, for a stop in the middle of a tracked training."""

    def __init__(self, *observers):
        self.observers = observers

    def __getattribute__(self, name):
        if name not in ("start", "log", "finish", "fail"):
            return super().__getattribute__(name)
        methods = [getattr(observer, name) for observer in self.observers]
        return lambda *arguments: [method(*arguments) for method in methods]


def tracker_in(folder: Path, **settings) -> Tracker:
    return Tracker(folder, Training(**SETTINGS | settings), name="toy/linear/T10")


POINT = Point(
    epoch=2,
    update=40,
    loss=0.25,
    learning_rate=1e-4,
    images_per_second=12.5,
    seconds_left=3661.0,
)


def test_points_come_every_log_steps_and_at_the_end(tmp_path):
    recorder = Recorder()
    trained = train_in(tmp_path, log_steps=5, tracker=recorder)
    assert [point.update for point in recorder.points] == [5, 10, 12]
    assert [point.epoch for point in recorder.points] == [2, 4, 4]
    assert recorder.points[-1].seconds_left == 0
    assert recorder.points[-1].learning_rate == trained.history[-1]["learning_rate"]
    assert recorder.points[0].images_per_second > 0


# Daily logs


def test_the_daily_log_has_a_line_every_log_steps(tmp_path):
    tracker = tracker_in(tmp_path / "logs", tensorboard=False)
    train_in(tmp_path, log_steps=4, tracker=tracker)
    (path,) = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.log", path.name)
    written = path.read_text().splitlines()
    assert written[0].endswith(" starts: 12 updates")
    assert [line.split(": ")[0].split(" ", 1)[1] for line in written[1:4]] == [
        "epoch 2, update 4/12",
        "epoch 3, update 8/12",
        "epoch 4, update 12/12",
    ]
    assert " finished: " in written[-1]
    assert len(written) == 5


def test_a_line_says_it_all():
    assert lines.describe_point(POINT, 100) == (
        "epoch 2, update 40/100: loss 0.25000, learning rate 1.000e-04, "
        "12.5 images/s, 1:01:01 left"
    )


def test_the_daily_log_only_grows(tmp_path):
    logs = tmp_path / "logs"
    tracker = Both(tracker_in(logs, tensorboard=False), StopAt(5))
    with pytest.raises(Interrupted):
        train_in(tmp_path, tracker=tracker)
    (path,) = logs.iterdir()
    before = path.read_text()
    assert "ended early (Interrupted): Training was stopped by SIGTERM" in before
    train_in(tmp_path, tracker=tracker_in(logs, tensorboard=False))
    after = path.read_text()
    assert after.startswith(before)
    assert "goes on after update 5 of 12" in after


def test_a_new_day_starts_a_new_file(tmp_path, monkeypatch):
    class Clock(datetime):
        today = datetime(2024, 2, 29, 23, 59, 59)

        @classmethod
        def now(cls):
            return cls.today

    monkeypatch.setattr(lines, "datetime", Clock)
    log = lines.DailyLog(tmp_path)
    log.start(Start(0, 100, "f"))
    Clock.today += timedelta(seconds=2)
    log.log(POINT)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["2024-02-29.log", "2024-03-01.log"]


# TensorBoard


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_reads_the_curves_back(tmp_path):
    recorder = Recorder()
    tracker = Both(tracker_in(tmp_path / "logs"), recorder)
    train_in(tmp_path, log_steps=2, tracker=tracker)
    losses = scalars(tmp_path / "logs", "loss")
    assert [step for step, _ in losses] == [2, 4, 6, 8, 10, 12]
    assert [loss for _, loss in losses] == pytest.approx(
        [point.loss for point in recorder.points], rel=1e-6
    )
    rates = scalars(tmp_path / "logs", "learning_rate")
    training = Training(**SETTINGS)
    assert [rate for _, rate in rates] == pytest.approx(
        [learning_rate(step - 1, 12, training) for step, _ in rates], rel=1e-6
    )


class Crash(Observer):
    """Ends a training without warning, as a lost node would."""

    def log(self, point):
        if point.update == 8:
            raise MemoryError


def test_curves_of_a_resumed_training_have_each_update_once(tmp_path):
    logs = tmp_path / "logs"
    with pytest.raises(MemoryError):
        train_in(tmp_path, tracker=Both(tracker_in(logs), Crash()))
    assert [step for step, _ in scalars(logs, "loss")] == list(range(1, 9))
    recorder = Recorder()
    # The checkpoint is that of update 6: 7 and 8 are done, and written, once more.
    train_in(tmp_path, tracker=Both(tracker_in(logs), recorder))
    assert recorder.points[0].update == 7
    assert [step for step, _ in scalars(logs, "loss")] == list(range(1, 13))


def test_a_new_training_hides_the_curves_of_an_old_one(tmp_path):
    logs = tmp_path / "logs"
    train_in(tmp_path, tracker=tracker_in(logs))
    train_in(tmp_path, tracker=tracker_in(logs), origin={"code": "new"}, epochs=1)
    assert [step for step, _ in scalars(logs, "loss")] == [1, 2, 3]


# Terminal


def test_without_a_terminal_there_are_few_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO, "noisesteps.training")
    train_in(tmp_path, tracker=tracker_in(tmp_path / "logs", tensorboard=False))
    messages = [record.message for record in caplog.records]
    assert messages[0] == "toy/linear/T10 starts: 12 updates"
    assert messages[-1].startswith("toy/linear/T10 finished: ")


def test_without_a_terminal_a_line_comes_every_ten_seconds(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "noisesteps.training")
    now = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    terminal = lines.Terminal("run")
    terminal.start(Start(0, 100, "f"))
    for _ in range(25):
        now[0] += 1
        terminal.log(POINT)
    shown = [record for record in caplog.records if "update 40/100" in record.message]
    assert len(shown) == 2


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    terminal = lines.Terminal("run")
    terminal.start(Start(20, 100, "f"))
    terminal.log(POINT)
    terminal.fail(RuntimeError())
    shown = capsys.readouterr().err
    assert "20/100" in shown


def test_a_warmup_that_never_ends_is_pointed_out(tmp_path, caplog):
    train_in(tmp_path, warmup_steps=12)
    assert "training.warmup_steps is 12, but there are only 12 updates" in caplog.text


# Failures, and wandb


def test_divergence_is_written_down(tmp_path):
    logs = tmp_path / "logs"
    with pytest.raises(DivergedError):
        train_in(
            tmp_path,
            network=Spoiled(range(5, 99), output=float("nan")),
            tracker=tracker_in(logs),
        )
    (path,) = logs.glob("*.log")
    assert "ended early (DivergedError): Training diverged" in path.read_text()
    assert len(scalars(logs, "loss")) == 4


def test_a_missing_wandb_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(
        sys.modules, "noisesteps.training.tracking.wandb", raising=False
    )
    with pytest.raises(ConfigError, match=r"install noisesteps\[wandb\]"):
        tracker_in(tmp_path, wandb=Wandb(mode="offline"))


def wandb_records(path: Path) -> list:
    """Read an offline file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # a block's end is padded
            position += 32768 - position % 32768
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    return records


def ended_records(path: Path) -> list:
    """Wait for the run's last record: another process writes it, maybe late."""
    for _ in range(300):
        records = wandb_records(path)
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)
    return records


def test_wandb_works_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    values = {"tensorboard": False, "wandb": Wandb(mode="offline")}
    tracker = Both(tracker_in(logs, **values), StopAt(5))
    with pytest.raises(Interrupted):
        train_in(tmp_path, tracker=tracker)
    train_in(tmp_path, tracker=tracker_in(logs, **values))
    assert wandb.run is None
    assert not (tmp_path / "wandb").exists()

    paths = sorted((logs / "wandb").glob("offline-run-*/*.wandb"))
    assert len(paths) == 2
    records = [record for path in paths for record in ended_records(path)]
    runs = [record.run for record in records if record.HasField("run")]
    assert len({run.run_id for run in runs}) == 1
    assert {run.display_name for run in runs} == {"toy/linear/T10"}
    alerts = [record.alert.title for record in records if record.HasField("alert")]
    assert alerts == ["Training ended early", "Training finished"]
    history = [record.history for record in records if record.HasField("history")]
    assert [row.step.num for row in history] == list(range(1, 13))
    exits = [record.exit.exit_code for record in records if record.HasField("exit")]
    assert exits == [1, 0]
