"""What `noisesteps plan` says, held against arithmetic, Snakemake and a tiny study."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from finished_study import study as small_study
from noisesteps.cli import main
from noisesteps.config import load_study, parse_study
from noisesteps.errors import StageError
from noisesteps.files import write_json
from noisesteps.needs import NETWORKS, UNCOUNTED_IMAGES, gpu_threads
from noisesteps.paths import StudyPaths
from noisesteps.plan import Slots, as_values, describe, laboratory, make_plan
from noisesteps.plan.calibration import Calibration, conditions
from noisesteps.plan.counts import Count, compiled_stages, count_images
from noisesteps.plan.estimate import Estimator, tasks
from noisesteps.plan.limits import Machine
from noisesteps.plan.machine import TooLargeError, run_together
from noisesteps.plan.miniature import amounts
from noisesteps.plan.schedule import Task, critical_seconds, wall_seconds
from noisesteps.plan.text import seconds, size
from test_workflow import ROOT, TINY, dry_run, planned_jobs

STARTS = {
    "fetch": 1.0, "preprocess": 1.0, "train": 3.0, "sample": 3.0, "reference": 4.0,
    "score": 4.0, "sets": 1.5, "classify/resnet18": 5.0, "classify/vgg16": 6.0,
    "tabulate": 1.5, "draw": 2.5, "report": 2.5,
}  # fmt: skip
MEASURED = Calibration(
    conditions={},
    time="2026-01-02T03:04:05+00:00",
    start=STARTS,
    training_warm_up=0.5,
    sampling_warm_up=0.25,
    update=0.1,
    denoising_step=0.05,
    feature=0.02,
    comparison=1e-10,
    classified={"resnet18": 0.01, "vgg16": 0.02},
    prepared={"drawn": 0.001, "decoded": 0.005},
    host_bytes={"train": 10**9, "sample": 8 * 10**8, "reference": 10**9},
    device_bytes={},
    batch_size=4,
    sampled_batch_size=6,
    figure_bytes=60_000,
    workflow_start=2.0,
    workflow_job=0.02,
)
ROOMY = Machine(10**15, 0, 0)
CPU = Slots(2, 2)


def counted(study):
    return {name: count_images(study, name) for name in study.datasets}


def planned(study, calibration=MEASURED, machine=ROOMY, slots=CPU, minutes=10**6):
    for name, section in (
        ("batch_size", "training"),
        ("sampled_batch_size", "sampling"),
    ):
        if getattr(calibration, name) == getattr(MEASURED, name):  # all of it fits
            whole = getattr(study, section).batch_size
            calibration = dataclasses.replace(calibration, **{name: whole})
    return make_plan(study, slots, counted(study), calibration, machine, "CPU", minutes)


def jobs_of(study, counts=None, calibration=MEASURED):
    return Estimator(study, counts or counted(study), calibration).jobs()


# Compiled networks


@pytest.mark.parametrize(
    ("section", "asked", "compiles"),
    [
        ("training", False, False),
        ("training", 500, True),  # as many as the demo has
        ("training", 501, False),
        ("sampling", True, True),
        ("sampling", 3 * 200, True),  # 96 images by 32, in 200 steps
        ("sampling", 3 * 200 + 1, False),
    ],
)
def test_a_calibration_is_compiled_where_the_study_is(section, asked, compiles):
    values = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    plain = parse_study(values)
    values[section]["compile"] = asked
    study = parse_study(values)
    assert compiled_stages(study)[section] is compiles
    same = conditions(study, CPU, "a CPU") == conditions(plain, CPU, "a CPU")
    assert same is not compiles


def test_only_what_is_compiled_waits_for_it():
    """The demo's sampling, of which only T = 200 has as many steps as asked for."""
    values = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    values["sampling"]["compile"] = 3 * 200
    slow = dataclasses.replace(MEASURED, sampling_warm_up=1000.0)
    jobs = jobs_of(parse_study(values), calibration=slow)
    sampled = {job.run: job.work_seconds for job in jobs if job.stage == "sample"}
    assert len(sampled) == 16
    for run, work in sampled.items():
        assert (work > 1000) is (run.steps == 200 and run.sampler is None)


# The schedule


@st.composite
def graphs(draw):
    """Return tasks, each after some of those before it."""
    count = draw(st.integers(1, 12))
    made = []
    for key in range(count):
        made.append(
            Task(
                key,
                draw(st.floats(0, 100)),
                cores=draw(st.integers(1, 4)),
                gpus=draw(st.integers(0, 2)),
                after=frozenset(draw(st.sets(st.integers(0, key - 1)))) if key else
                frozenset(),
                priority=draw(st.floats(0, 10)),
            )
        )  # fmt: skip
    return made


@given(graphs(), st.integers(1, 5), st.integers(1, 3))
def test_a_schedule_is_no_shorter_than_it_can_be(made, cores, gpus):
    wall = wall_seconds(made, cores, gpus)
    busy = sum(task.seconds * min(task.cores, cores) for task in made)
    busy_gpus = sum(task.seconds * min(task.gpus, gpus) for task in made)
    shortest = max(critical_seconds(made), busy / cores, busy_gpus / gpus)
    assert shortest - 1e-6 <= wall <= sum(task.seconds for task in made) + 1e-6


@given(graphs())
def test_with_enough_of_everything_the_longest_chain_decides(made):
    enough = sum(task.cores + task.gpus for task in made)
    wall = wall_seconds(made, enough, enough)
    assert wall == pytest.approx(critical_seconds(made))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), st.integers(1, 4))
def test_equal_and_independent_tasks_fill_rounds(times, slots):
    made = [Task(key, times[0], gpus=1) for key in range(len(times))]
    rounds = math.ceil(len(made) / slots)
    assert wall_seconds(made, 99, slots) == pytest.approx(rounds * times[0])


def test_the_higher_priority_goes_first():
    first = Task("a", 1.0, priority=1.0)
    rest = [Task("b", 5.0), Task("c", 1.0, priority=2.0), first]
    last = Task("d", 5.0, after=frozenset("c"))
    # c, then a and d beside it, then b.
    assert wall_seconds([*rest, last], 1, 1) == pytest.approx(12)
    assert wall_seconds([*rest, last], 2, 1) == pytest.approx(6)


def test_tasks_that_wait_for_each_other_are_refused():
    circle = [Task(1, 1.0, after=frozenset({2})), Task(2, 1.0, after=frozenset({1}))]
    with pytest.raises(ValueError, match="wait"):
        wall_seconds(circle, 1, 1)


# The jobs


@pytest.mark.parametrize("config", ["demo", "config"])
def test_the_jobs_are_those_of_snakemake(tmp_path, config):
    path = ROOT / "config" / f"{config}.yaml"
    planned_by_snakemake = planned_jobs(dry_run(tmp_path, path))
    planned_by_snakemake.pop("all")
    counts = {name: Count(500, 100, "") for name in load_study(path).datasets}
    jobs = jobs_of(load_study(path), counts)
    stages = [job.stage for job in jobs]
    assert planned_by_snakemake == {name: stages.count(name) for name in set(stages)}


def test_every_job_waits_for_what_snakemake_waits_for(tmp_path):
    """The edges between results, compared with Snakemake's own graph."""
    study = load_study(ROOT / "config" / "demo.yaml")
    text = dry_run(tmp_path, ROOT / "config" / "demo.yaml", "--dag").stdout
    edges = len(re.findall(r"^\s*\d+ -> \d+", text, re.MULTILINE))
    made = tasks(jobs_of(study), 1)
    wanted = [j for j in jobs_of(study) if j.stage in ("tabulate", "draw", "report")]
    assert edges - len(wanted) == sum(len(task.after) for task in made)


def test_the_times_are_arithmetic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = small_study()
    found = {(job.stage, job.name): job for job in jobs_of(study)}
    updates = 50 * math.ceil(30 / 4)
    train = found["train", "toy_flowers/linear/T100"]
    assert train.work_seconds == pytest.approx(0.5 + updates * 0.1)
    assert train.seconds == pytest.approx(3.0 + train.work_seconds + 0.02)
    sample = found["sample", "toy_flowers/linear/T900"]
    assert sample.work_seconds == pytest.approx(0.25 + 900 * 0.05 * 24 / 4)
    fewer = found["sample", "toy_flowers/linear/T900/ddim-100"]
    assert fewer.work_seconds == pytest.approx(0.25 + 100 * 0.05 * 24 / 4)
    classify = found["classify", "vgg16/mix"]
    mix, test = 4 * 30, 2 * 4
    passes = 20 * mix + (2 * test + mix) / 3
    assert classify.seconds == pytest.approx(6.0 + 3 * passes * 0.02 + 0.02)
    preprocess = found["preprocess", "toy_flowers"]
    assert preprocess.seconds == pytest.approx(1.0 + 34 * 0.001 + 0.02)
    score = found["score", "toy_flowers/linear/T100"]
    values = 2 * 3 * 8 * 8 + 1280
    assert score.seconds == pytest.approx(4 + 24 * (0.02 + 30 * values * 1e-10) + 0.02)


def test_the_disk_is_what_the_files_take(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {(job.stage, job.name): job for job in jobs_of(small_study())}
    images = np.zeros((24, 3, 8, 8), np.uint8)
    sample = found["sample", "toy_flowers/linear/T100"].disk_bytes
    assert images.nbytes <= sample <= images.nbytes + 4000
    weights = 4 * NETWORKS["tiny"].parameters
    train = found["train", "toy_flowers/linear/T100"].disk_bytes
    assert weights <= train <= weights + 4000


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(101, 500),
    images=st.integers(8, 500),
    train=st.integers(4, 5000),
    updates=st.integers(1, 5000),
    more=st.integers(1, 300),
)
def test_more_of_anything_costs_no_less(steps, images, train, updates, more):
    def study_of(steps, images, updates):
        sampling = {"images": images, "batch_size": 4, "fewer_steps": {"steps": [9]}}
        return small_study(
            diffusion={"schedules": ["linear"], "steps": [steps, 900]},
            sampling=sampling,
            training={"batch_size": 4, "optimizer_steps": updates},
        )

    def total(study, train):
        counts = {name: Count(train, 8, "") for name in study.datasets}
        jobs = jobs_of(study, counts)
        return (
            sum(job.seconds for job in jobs),
            sum(job.disk_bytes for job in jobs),
            max(job.host_bytes for job in jobs),
        )

    least = total(study_of(steps, images, updates), train)
    for other in (
        total(study_of(steps + more, images, updates), train),
        total(study_of(steps, images + more, updates), train),
        total(study_of(steps, images, updates + more), train),
        total(study_of(steps, images, updates), train + more),
    ):
        assert all(a <= b for a, b in zip(least, other, strict=True))


def test_the_threads_are_shared_as_the_rules_share_them(tmp_path):
    for cores, gpus in ((2, 2), (8, 1), (8, 2), (3, 2)):
        slots = Slots(cores, gpus)
        assert slots.threads == gpu_threads(cores, gpus)
        assert slots.jobs * slots.threads <= cores
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    (tmp_path / "pictures").mkdir()
    plan = dry_run(tmp_path, config, "--cores", "8", "--resources", "gpu=2")
    assert f"threads: {Slots(8, 2).threads}" in plan.stdout


# The images


def test_images_are_counted_where_that_is_possible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("pictures")
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.png").write_bytes(b"")
    values = TINY | {"classification": None}
    study = parse_study(values)
    assert count_images(study, "my_squares") == Count(22, 8, "the files")
    assert count_images(study, "toy_flowers") == Count(20, 8, "the config")
    record = StudyPaths("tiny").data("my_squares") / "dataset.json"
    write_json(record, {"train": 21, "held_out": 8})
    assert count_images(study, "my_squares") == Count(21, 8, "preprocessed")
    record.write_text("{")
    with pytest.raises(StageError, match="damaged"):
        count_images(study, "my_squares")


def test_unknown_images_are_assumed_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = load_study(ROOT / "config" / "config.yaml")
    counts = counted(study)
    assert counts["oxford_flowers"] == Count(7169, 1020, "the official split")
    assert counts["anime_faces"] == Count(14_000, 1000, "the config")
    guessed = counts["smithsonian_butterflies"]
    assert (guessed.train, guessed.known) == (UNCOUNTED_IMAGES, False)
    (note,) = [n for n in planned(study).notes if "unknown" in n]
    assert "smithsonian_butterflies" in note
    assert "10,000" in note


def test_more_held_out_than_trained_on_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"toy_flowers": {"format": "toy_flowers", "train": 30, "held_out": 31}}
    (note,) = planned(small_study(datasets=few, classification=None)).notes
    assert "31 images are held out and only 30 are left to train on" in note
    assert "datasets.toy_flowers.held_out" in note


# The limits


def on_a_gpu(batch_size, **bytes_):
    return dataclasses.replace(MEASURED, batch_size=batch_size, device_bytes=bytes_)


def test_a_training_that_fits_no_gpu_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = small_study(training={"batch_size": 16})
    gpu = Machine(10**15, 10 * 10**9, 1)
    fits = on_a_gpu(16, train=5 * 10**9, sample=10**9)
    assert not planned(study, fits, gpu, Slots(8, 1)).warnings
    (warning,) = planned(study, fits, gpu, Slots(8, 2)).warnings
    assert "which 2 jobs share" in warning
    large = on_a_gpu(8, train=12 * 10**9, sample=10**9)
    (warning,) = planned(study, large, gpu, Slots(8, 1)).warnings
    assert "12.0 GB of GPU memory, but the GPU has 10.0 GB" in warning
    assert "training.batch_size (16)" in warning


def test_a_sampling_that_was_halved_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = small_study(sampling={"images": 12, "batch_size": 12})
    halved = dataclasses.replace(MEASURED, sampled_batch_size=3)
    (warning,) = planned(study, halved).warnings
    assert "sampling.batch_size: 12 images do not fit into the memory" in warning
    assert "3 at a time" in warning


def test_jobs_that_fill_the_main_memory_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    machine = Machine(15 * 10**8, 0, 0)
    (warning,) = planned(small_study(), machine=machine).warnings
    assert "2 jobs at once need up to 2.0 GB" in warning
    assert not planned(small_study(), machine=machine, slots=Slots(1, 1)).warnings


def test_a_time_limit_tells_what_goes_on_and_what_starts_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = small_study(training={"batch_size": 4, "optimizer_steps": 2000})
    assert not planned(study, minutes=6).warnings  # 337.5 s of sampling at most
    warnings = {w.split()[1]: w for w in planned(study, minutes=2).warnings}
    # 200.5 s of updates in pieces of 120 s less the 3.02 s of the start.
    assert "in 2 jobs one after another" in warnings["train"]
    assert "--time-limit gives 2" in warnings["train"]
    assert "goes on from its finished batches, in 3 jobs" in warnings["sample"]
    # Three repetitions in one job: 6 s + 3 · 48.9 s.
    assert "starts anew each time" in warnings["classify"]
    assert set(warnings) == {"train", "sample", "classify"}
    slow = dataclasses.replace(MEASURED, start=dict.fromkeys(STARTS, 70.0))
    warnings = {w.split()[1]: w for w in planned(study, slow, minutes=1).warnings}
    assert "less than its start takes" in warnings["train"]
    assert "starts anew each time" in warnings["score"]


def test_without_a_limit_it_is_what_the_slurm_profile_asks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = small_study()
    assert not planned(study, minutes=None).warnings
    slow = dataclasses.replace(MEASURED, update=10.0)
    (warning,) = planned(study, slow, minutes=None).warnings
    assert "the SLURM profile asks for" in warning
    assert "train" in warning


# What is said


def test_the_text_adds_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(small_study())
    text = describe(plan, 80)
    assert "Study mini, 12 models" in text
    assert "toy_flowers, linear_scaled" in text
    assert re.search(r"900 by ddim-100 .*0:0", text)
    values = as_values(plan)
    assert json.loads(json.dumps(values)) == values
    rows, stages = values["rows"], {stage["name"]: stage for stage in values["stages"]}
    assert sum(row["models"] for row in rows) == stages["train"]["jobs"] == 12
    assert values["training_seconds"] == pytest.approx(
        stages["train"]["seconds"] - 12 * (3.0 + 0.02)
    )
    jobs = stages["sample"]["jobs"]
    assert values["sampling_seconds"] == pytest.approx(
        stages["sample"]["seconds"] - jobs * (3.0 + 0.02)
    )
    together = sum(stage["seconds"] for stage in values["stages"])
    assert together / 2 <= values["wall_seconds"] <= together + 2


@given(st.floats(0, 1e15))
def test_sizes_have_few_digits(value):
    number, unit = size(value).split()
    assert float(number) < 1000 or unit == "TB"
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * factor == pytest.approx(value, rel=0.06, abs=0.51)


def test_short_times_have_two_digits():
    assert [seconds(v) for v in (0.00123, 0.0612, 0.25, 3.14159, 12.3)] == [
        "1.2 ms", "61 ms", "0.25 s", "3.1 s", "12 s"
    ]  # fmt: skip


# The measurement


def test_the_work_of_the_miniature_is_bounded():
    demo = load_study(ROOT / "config" / "demo.yaml")
    whole = load_study(ROOT / "config" / "config.yaml")
    assert amounts(demo, "cpu", 1).updates > 1
    hopeless = amounts(whole, "cpu", 1)
    assert (hopeless.updates, hopeless.epochs, hopeless.steps) == (1, 2, 2)
    assert amounts(whole, "cuda", 8).updates > hopeless.updates


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Write a study with a folder of pictures that nobody has to read."""
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for number in range(20):
        Path(f"pictures/{number}.png").write_bytes(b"")
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    return load_study("tiny.yaml")


def plan_tiny(*arguments):
    options = ["--cores", "1", "--gpus", "1", "--device", "cpu", "--json"]
    command = ["plan", "--config", "tiny.yaml", *options, *arguments]
    return CliRunner().invoke(main, command, catch_exceptions=False)


@pytest.mark.timeout(600)
def test_this_machine_is_measured_once(tiny, monkeypatch):
    result = plan_tiny()
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    measured = values["calibration"]
    assert measured["start"].keys() == STARTS.keys() - {"classify/vgg16"}
    for name in ("update", "denoising_step", "feature", "comparison"):
        assert 0 < measured[name] < 60, name
    assert measured["prepared"].keys() == {"drawn", "decoded"}
    assert all(start > 0 for start in measured["start"].values())
    # Importing torch takes longer than not importing it.
    assert measured["start"]["train"] > measured["start"]["preprocess"]
    assert measured["host_bytes"]["train"] > 10**8
    assert values["wall_seconds"] > sum(measured["start"].values())
    assert not Path("results").exists()
    monkeypatch.setattr(laboratory, "measure", None)  # it is not measured again
    again = json.loads(plan_tiny().stdout)
    assert again == values
    (kept,) = Path("resources/calibration").iterdir()
    text = CliRunner().invoke(
        main, ["plan", "--config", "tiny.yaml", "--cores", "1", "--device", "cpu"]
    )
    assert "The whole study takes" in text.output
    changed = json.loads(kept.read_text())
    changed["workflow_start"] += 1
    for damaged in (json.dumps(changed), "{"):
        kept.write_text(damaged)
        with pytest.raises(TypeError):
            plan_tiny()


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(StageError, match=r"failed at `noisesteps train`: .*config"):
        run_together([["-m", "noisesteps", "train"]], tmp_path, 1)
    with pytest.raises(TooLargeError):
        run_together([["-c", "import os; os.kill(os.getpid(), 9)"]], tmp_path, 1)


def test_half_the_batch_is_tried_where_memory_runs_out(tiny, tmp_path, monkeypatch):
    """The memory of the whole batch is then extrapolated from the half."""
    real = laboratory.run_together

    def small_memory(commands, folder, threads):
        training = yaml.safe_load((folder / "models.yaml").read_text())["training"]
        if "train" in commands[0] and training["batch_size"] > 5:
            raise TooLargeError("10 images do not fit into the memory")
        return real(commands, folder, threads)

    monkeypatch.setattr(laboratory, "run_together", small_memory)
    folder = tmp_path / "folder"
    folder.mkdir()
    place = laboratory._Laboratory(tiny, Slots(1, 1), "cpu", "cpu", folder)
    place._stage("preprocess", "models", [["--dataset", "images"]])
    found = place._train()
    assert found["batch_size"] == 5
    fixed = 16 * NETWORKS["tiny"].parameters
    assert place._scaled_up(fixed + 100, 5) == fixed + 200
    assert place._scaled_up(fixed + 100, 10) == fixed + 100


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("stage", "section"), [("train", "training"), ("sample", "sampling")]
)
def test_what_is_compiled_once_for_all_models_is_not_counted(
    tiny, stage, section, compiled, tmp_path, monkeypatch
):
    changed = getattr(tiny, section).model_copy(update={"compile": compiled})
    study = tiny.model_copy(update={section: changed})
    seen = []
    place = laboratory._Laboratory(study, Slots(2, 2), "cpu", "cpu", tmp_path)
    monkeypatch.setattr(place, "_stage", lambda *asked: seen.append(asked))
    place._compiled_stage(stage, [["one"], ["two"]])
    both, first = ((stage, "models", each) for each in ([["one"], ["two"]], [["one"]]))
    assert seen == ([first, both] if compiled else [both])


def test_a_bad_option_or_config_is_one_sentence(tiny):
    result = plan_tiny("--cores", "0")
    assert result.exit_code == 2
    Path("tiny.yaml").write_text("study: x")
    result = plan_tiny()
    assert result.exit_code == 2
    assert "noisesteps: error: tiny.yaml: " in result.output
    assert not Path("resources").exists()


def test_help_imports_no_torch():
    code = (
        "import sys; from click.testing import CliRunner; "
        "from noisesteps.cli import main; "
        "print(CliRunner().invoke(main, ['plan', '--help']).exit_code, "
        "'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.split() == ["0", "False"], result.stderr
