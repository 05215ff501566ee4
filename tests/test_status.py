"""What `noisesteps status` says, against studies in every state."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import finished_study
from noisesteps.cli import main
from noisesteps.config import load_study
from noisesteps.errors import DivergedError, StageError
from noisesteps.files import write_json, write_text
from noisesteps.paths import Run, StudyPaths
from noisesteps.status import as_values, describe, study_status
from noisesteps.training import Interrupted
from noisesteps.training.tracking import Point, Start, lines
from training_runs import StopAt, train_in

ROOT = Path(__file__).parents[1]
RUN = Run("toy_flowers", "linear", 100)
POINT = Point(
    epoch=2,
    update=40,
    loss=0.25,
    learning_rate=1e-4,
    images_per_second=12.5,
    seconds_left=3661.0,
)
STOP = Interrupted("Training was stopped by SIGTERM after update 40 of 100.", 15)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return StudyPaths("mini")


@pytest.fixture
def study(paths):
    return finished_study.study()


@pytest.fixture
def log(paths):
    """Return a daily log of RUN whose training has started."""
    log = lines.DailyLog(paths.log("train", RUN))
    log.start(Start(0, 100, "f"))
    return log


def later(seconds: float = 0) -> datetime:
    return datetime.now().astimezone() + timedelta(seconds=seconds)


def model(study, now=None, run=RUN):
    (found,) = [m for m in study_status(study, now).models if m.run == run]
    return found


def age(path: Path, seconds: float) -> None:
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


# The daily log, read back


def read_back(text: str) -> lines.Line | None:
    return lines.parse_line(f"2024-02-29T23:59:59+01:00 {text}\n")


numbers = st.floats(0, 1e6, allow_subnormal=False)
durations = st.floats(0, 1e8)


@given(
    st.builds(
        Point,
        epoch=st.integers(1, 10**5),
        update=st.integers(1, 10**7),
        loss=numbers,
        learning_rate=numbers,
        images_per_second=numbers,
        seconds_left=durations,
    ),
    st.integers(1, 10**7),
)
def test_a_point_is_read_back_as_printed(point, updates):
    text = lines.describe_point(point, updates)
    event = read_back(text).event
    assert lines.describe_point(event.point, event.updates) == text
    assert (event.point.epoch, event.point.update) == (point.epoch, point.update)
    assert event.point.loss == pytest.approx(point.loss, abs=1e-5)
    assert event.point.seconds_left == pytest.approx(point.seconds_left, abs=0.51)


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_a_start_is_read_back(update, updates):
    text = lines.describe_start(Start(update, updates, "f"))
    assert read_back(text).event == lines.Started(update, updates)


@given(durations, numbers)
def test_a_finish_is_read_back(seconds, loss):
    event = read_back(lines.describe_finish(seconds, loss)).event
    assert event.seconds == round(seconds)
    assert event.loss == pytest.approx(loss, abs=1e-5)


@given(st.text(st.characters(codec="utf-8")))
def test_a_failure_is_one_line_and_read_back(message):
    text = lines.describe_failure(RuntimeError(message))
    assert len(text.splitlines()) == 1
    event = read_back(text).event
    assert event == lines.Failed("RuntimeError", " ".join(message.split()))


def test_the_time_is_read_back():
    line = read_back("starts: 5 updates")
    assert line.time == datetime.fromisoformat("2024-02-29T22:59:59+00:00")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2024-02-29T23:59:59+01:00",
        "2024-02-29T23:59:59+01:00 epoch 2, update 40/100: loss 0.2",
        "2024-02-29T23:59:59+01:00 epoch 2, update 40/100: loss x, learning rate 1, "
        "2 images/s, 0:00:01 left",
        "2024-02-29T23:59:59+01:00 epoch 2, update 40/100: loss 1, learning rate 1, "
        "2 images/s, soon left",
        "2024-02-29T23:59:59 starts: 5 updates",
        "yesterday starts: 5 updates",
    ],
)
def test_what_is_no_whole_line_is_not_read(line):
    assert lines.parse_line(line) is None


def test_the_latest_lines_come_first(tmp_path):
    assert list(lines.read_backwards(tmp_path / "missing")) == []
    old = "2024-02-29T23:59:59+00:00 starts: 5 updates\n"
    (tmp_path / "2024-02-29.log").write_text(old)
    log = lines.DailyLog(tmp_path)
    log.log(POINT)
    log.fail(STOP)
    with next(tmp_path.glob("2*.log")).open("a") as file:
        file.write("cut sho")
    events = [type(line.event).__name__ for line in lines.read_backwards(tmp_path)]
    assert events == ["Failed", "Reached", "Started"]


# The states of a model


def test_nothing_done_is_waiting(study):
    found = study_status(study)
    assert found.counts == {"waiting": 12}
    assert (found.classifiers_done, found.classifiers) == (0, 30)
    assert not found.failures
    assert not found.begun


def test_a_finished_study_is_scored(study, paths):
    finished_study.write_study(study)
    found = study_status(study)
    assert found.counts == {"scored": 12}
    assert [model.run for model in found.models] == study.runs
    assert [model.score for model in found.models] == [
        finished_study.score(run) for run in study.runs
    ]
    assert (found.classifiers_done, found.classifiers) == (30, 30)
    assert model(study).loss == 0.25


def test_a_training_shows_its_latest_line(study, paths, log):
    write_json(paths.data(RUN.dataset) / "dataset.json", {"train": 12})
    assert model(study).state == "training"
    assert (model(study).update, model(study).updates) == (0, 100)
    log.log(POINT)
    found = model(study)
    assert found.state == "training"
    assert (found.epoch, found.epochs) == (2, 34)  # 3 batches an epoch
    assert (found.update, found.updates) == (40, 100)
    assert (found.loss, found.images_per_second) == (0.25, 12.5)
    assert found.seconds_left == 3661
    assert model(study, run=study.runs[0]).state == "waiting"


def test_a_silent_training_has_stopped(study, paths, log):
    assert model(study, later(seconds=300)).state == "training"
    log.log(POINT)
    found = model(study, later(seconds=300))
    assert (found.state, found.checkpoint, found.update) == ("stopped", False, 40)
    write_text(paths.checkpoint(RUN), "")
    assert model(study, later(seconds=300)).checkpoint


def test_a_slow_training_may_be_silent_for_longer(study, log):
    log.log(Point(2, 40, 0.25, 1e-4, images_per_second=0.2, seconds_left=5.0))
    assert model(study, later(seconds=300)).state == "training"
    assert model(study, later(seconds=500)).state == "stopped"


def test_a_training_that_was_told_to_stop_has_not_failed(study, paths, log):
    log.log(POINT)
    log.fail(STOP)
    assert model(study).state == "stopped"
    write_text(paths.rule_log("train", RUN.path), f"noisesteps: error: {STOP}\n")
    found = study_status(study)
    assert found.counts == {"stopped": 1, "waiting": 11}
    assert found.failures == []
    assert model(study).loss == 0.25


def test_a_training_that_diverged_has_failed(study, paths, log):
    log.log(POINT)
    log.fail(DivergedError("Training diverged; lower training.learning_rate."))
    (failure,) = study_status(study).failures
    assert model(study).state == "failed"
    assert failure.message == "Training diverged; lower training.learning_rate."
    assert failure.log.parent == paths.log("train", RUN)
    assert failure.log.exists()
    rule_log = paths.rule_log("train", RUN.path)
    write_text(rule_log, f"10:00:00 some line\nnoisesteps: error: {failure.message}\n")
    (failure,) = study_status(study).failures
    assert failure.log == rule_log


def test_a_failure_before_the_first_update_is_seen(study, paths):
    rule_log = paths.rule_log("train", RUN.path)
    write_text(rule_log, "noisesteps: error: the GPU is missing; use --device cpu.\n")
    found = model(study)
    assert found.state == "failed"
    assert found.failure.message == "the GPU is missing; use --device cpu."
    # A training started by hand has come further since.
    age(rule_log, 100)
    lines.DailyLog(paths.log("train", RUN)).start(Start(0, 100, "f"))
    assert model(study).state == "training"


def test_a_crash_is_a_failure(study, paths, log):
    text = "Traceback (most recent call last):\n  File ...\nRuntimeError: no kernel\n\n"
    write_text(paths.rule_log("train", RUN.path), text)
    assert model(study).failure.message == "RuntimeError: no kernel"
    log.fail(RuntimeError("no\nkernel"))
    paths.rule_log("train", RUN.path).unlink()
    assert model(study).failure.message == "RuntimeError: no kernel"


def test_the_log_of_a_model_that_was_removed_says_nothing(study, log):
    log.finish(10, 0.5)
    assert model(study).state == "training"  # the record is about to be written
    assert model(study, later(seconds=100)).state == "waiting"


def test_states_follow_the_records(study, paths):
    finished_study.write_study(study)
    (paths.score(RUN) / "score.json").unlink()
    assert model(study).state == "sampled"
    assert model(study).score is None
    (paths.samples(RUN) / "sample.json").unlink()
    assert model(study).state == "trained"
    finished_study.write_study(study)
    (paths.model(RUN) / "model.json").unlink()
    assert model(study).state == "waiting"


def test_results_of_an_earlier_model_do_not_count(study, paths):
    finished_study.write_study(study)
    age(paths.samples(RUN) / "sample.json", 100)
    assert model(study).state == "trained"


def test_sampling_shows_the_last_line_of_its_log(study, paths):
    finished_study.write_study(study)
    (paths.samples(RUN) / "sample.json").unlink()
    rule_log = paths.rule_log("sample", RUN.path)
    write_text(rule_log, "10:00:00 sampled 4 of 8 images\n")
    (begun,) = study_status(study).begun
    assert begun.line == "10:00:00 sampled 4 of 8 images"
    assert model(study).state == "trained"
    write_text(rule_log, "noisesteps: error: model.safetensors is damaged.\n")
    found = model(study)
    assert (found.state, found.failure.rule) == ("failed", "sample")
    assert study_status(study).begun == []
    age(rule_log, 100)  # an attempt with an earlier model
    assert model(study).state == "trained"


@pytest.mark.parametrize(
    ("rule", "coordinates", "result"),
    [
        ("preprocess", ["toy_flowers"], "data/toy_flowers/dataset.json"),
        ("reference", ["toy_flowers"], "metrics/toy_flowers/reference.json"),
        ("sets", ["origin_augmented"], "sets/origin_augmented/set.json"),
        ("sets", ["test"], "sets/test/set.json"),
        (
            "classify",
            ["vgg16", "mix"],
            "classification/vgg16/mix/seed2.json",
        ),
        ("tabulate", ["fid"], "tables/fid.json"),
        ("draw", ["generation_time"], "figures/generation_time.json"),
        ("report", [], "report.html"),
    ],
)
def test_every_job_may_fail(study, paths, rule, coordinates, result):
    write_text(paths.rule_log(rule, *coordinates), "noisesteps: error: The disk.\n")
    (failure,) = study_status(study).failures
    assert (failure.rule, failure.message) == (rule, "The disk.")
    write_text(paths.root / result, "{}")
    assert study_status(study).failures == []


def test_a_download_may_fail(paths):
    study = load_study(ROOT / "config" / "small.yaml")
    folder = study.resource_folder("anime_faces")
    write_text(folder / "fetch.log", "noisesteps: error: It is not there.\n")
    (failure,) = study_status(study).failures
    assert (failure.rule, failure.name) == ("fetch", "anime_faces")
    assert failure.log == folder / "fetch.log"


def test_the_rules_log_where_the_status_looks():
    study, found = StudyPaths("{study}"), {}
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = file.read_text()
        found |= re.findall(r'^rule (\w+):.*?    log:\n +"(.*?)"', text, re.M | re.S)
    model = Run("{dataset}", "{schedule}", "{steps}{repetition}").path
    run = Run("{dataset}", "{schedule}", "{steps}{repetition}{sampler}").path
    assert found == {
        "fetch": "resources/{source}/{version}/fetch.log",
        **{
            rule: study.rule_log(rule, *coordinates).as_posix()
            for rule, coordinates in {
                "preprocess": ["{dataset}"],
                "train": [model],
                "sample": [run],
                "reference": ["{dataset}"],
                "score": [run],
                "sets": ["{set}"],
                "classify": ["{architecture}", "{set}"],
                "tabulate": ["{table}"],
                "draw": ["{figure}"],
                "report": [],
            }.items()
        },
    }


def test_a_real_training_is_followed_from_its_start_to_its_stop(
    study, paths, monkeypatch
):
    seen = []

    class Watch(lines.DailyLog):
        def log(self, point):
            super().log(point)
            StopAt(5).log(point)
            seen.append(model(study))

    checkpoint = paths.checkpoint(RUN)
    with pytest.raises(Interrupted):
        train_in(checkpoint.parent, tracker=Watch(paths.log("train", RUN)))
    assert [found.state for found in seen] == ["training"] * 5
    assert [found.update for found in seen] == [1, 2, 3, 4, 5]
    found = model(study)
    assert (found.state, found.update, found.updates) == ("stopped", 5, 12)
    assert found.checkpoint
    assert found.loss == seen[-1].loss > 0
    assert found.failure is None


# What is printed


def test_the_text_fits_a_terminal(study, paths, log):
    finished_study.write_study(study)
    for run in (RUN, study.runs[0]):
        (paths.model(run) / "model.json").unlink()
    log.log(POINT)
    write_text(
        paths.rule_log("train", study.runs[0].path),
        "noisesteps: error: " + "Something with a long explanation went wrong. " * 4,
    )
    text = describe(study_status(study), width=80)
    assert max(map(len, re.sub(r"\x1b\[\d*m", "", text).splitlines())) <= 80
    plain = re.sub(r"\x1b\[\d*m", "", text)
    assert plain.startswith("Study mini, 12 models: 10 scored, 1 training, 1 failed\n")
    training = next(line for line in plain.splitlines() if "  training  " in line)
    assert training.split() == (
        ["100", "training", "2/13", "40/100", "0.25000", "12.5", "1:01:01"]
    )
    assert "results/mini/logs/train/oxford_flowers/linear/T100.log" in plain
    assert "Score: FD (EfficientNet-Lite0), lower is better." in plain
    assert "Classifiers: 30/30." in plain


def test_every_row_is_aligned(study, paths, log):
    finished_study.write_study(study)
    (paths.model(RUN) / "model.json").unlink()
    log.log(POINT)
    text = re.sub(r"\x1b\[\d*m", "", describe(study_status(study)))
    rows = [line for line in text.splitlines() if re.match(r" +\d+  [a-z]", line)]
    assert len(rows) == 12
    head = text.splitlines()[2]
    assert {row.index(row.split()[1]) for row in rows} == {head.index("state")}
    scored = [row for row in rows if "scored" in row]
    assert {len(row) for row in scored} == {len(head)}


@pytest.fixture
def config(study, paths):
    values = study.model_dump(mode="json", exclude_none=True)
    Path("mini.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return "mini.yaml"


def test_away_from_a_terminal_the_text_is_plain(config, study):
    finished_study.write_study(study)
    result = CliRunner().invoke(main, ["status", "--config", config])
    assert result.exit_code == 0
    assert "12 scored" in result.output
    assert "\x1b" not in result.output


def test_json_says_the_same(config, study, paths, log):
    log.log(POINT)
    log.fail(DivergedError("Lower it."))
    result = CliRunner().invoke(main, ["status", "--config", config, "--json"])
    values = json.loads(result.stdout)
    assert values == as_values(study_status(study)) | {"time": values["time"]}
    assert values["counts"] == {"waiting": 11, "failed": 1}
    assert values["classifiers"] == {"done": 0, "all": 30}
    (failure,) = values["failures"]
    assert failure["rule"] == "train"
    assert Path(failure["log"]).exists()
    (found,) = [m for m in values["models"] if m["state"] == "failed"]
    assert Run(found["dataset"], found["schedule"], found["steps"]) == RUN
    assert (found["epoch"], found["update"], found["loss"]) == (2, 40, 0.25)


def test_a_damaged_record_is_one_sentence(config, study, paths):
    write_text(paths.model(RUN) / "model.json", "{")
    with pytest.raises(StageError, match="damaged"):
        study_status(study)
    result = CliRunner().invoke(main, ["status", "--config", config])
    assert result.exit_code == 2
    assert result.stderr == (
        "noisesteps: error: results/mini/models/toy_flowers/linear/T100/model.json is "
        "damaged; remove it and run `noisesteps train` again.\n"
    )


def test_it_starts_without_the_heavy_libraries(config):
    code = (
        "import sys; from noisesteps.cli import main;"
        f"main(['status', '--config', {str(Path(config).resolve())!r}], "
        "standalone_mode=False);"
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("Study mini, 12 models: ")
    assert result.stdout.splitlines()[-1] == "[]"
