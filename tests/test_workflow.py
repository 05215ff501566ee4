"""The workflow itself: what is asked for is built, and nothing else."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from noisesteps import figures, tables
from noisesteps.config import parse_study
from noisesteps.paths import StudyPaths

ROOT = Path(__file__).parents[1]
TINY = {
    "study": "tiny",
    "seed": 7,
    "datasets": {
        "toy_flowers": {"format": "toy_flowers", "train": 20, "held_out": 8},
        "my_squares": {"format": "folder", "path": "pictures", "held_out": 8},
    },
    "preprocess": {"image_size": 8},
    "network": {"preset": "tiny"},
    "diffusion": {"schedules": ["linear", "linear_scaled"], "steps": [2, 5]},
    "training": {
        **{"epochs": 2, "batch_size": 10, "warmup_steps": 1, "precision": "fp32"},
        **{"checkpoint_epochs": 1, "log_steps": 1},
    },
    "sampling": {
        **{"images": 6, "seeds": 2, "batch_size": 3},
        "fewer_steps": {"methods": ["ddim"]},
    },
    "evaluation": {"extractor": "efficientnet-lite0", "batch_size": 8},
    "classification": {
        **{"datasets": ["toy_flowers", "my_squares"], "schedule": "linear"},
        **{"steps": 5, "images_per_class": 8, "architectures": ["resnet18"]},
        **{
            "seeds": 1,
            "epochs": 1,
            "batch_size": 8,
            "sets": ["mix", "origin_augmented"],
        },
    },
    "figures": {"grid_columns": 4, "dpi": 60},
}


def snakemake(folder, *arguments):
    """Run Snakemake in `folder` on this checkout's Snakefile."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--nocolor", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )


def planned_jobs(result):
    """Read the job counts of a dry run."""
    assert result.returncode == 0, result.stderr
    table = result.stdout.split("Job stats:")[1].split("total")[0]
    return {name: int(count) for name, count in re.findall(r"(\w+) +(\d+)\n", table)}


def dry_run(folder, config, *arguments):
    return snakemake(folder, "--configfile", str(config), "--dry-run", *arguments)


def test_the_default_study_trains_sixty_models(tmp_path):
    jobs = planned_jobs(dry_run(tmp_path, ROOT / "config" / "config.yaml"))
    assert jobs["train"] == 60
    assert jobs["sample"] == jobs["score"] == 60 + 3 * 2 * 4  # and in fewer steps
    assert jobs["fetch"] == 4
    assert jobs["classify"] == 2 * 5  # five repetitions each


def test_a_repeated_training_is_a_model_of_its_own(tmp_path):
    config = tmp_path / "repeated.yaml"
    changes = {"training": TINY["training"] | {"seeds": 3}}
    config.write_text(yaml.safe_dump(TINY | changes))
    (tmp_path / "pictures").mkdir()
    result = dry_run(tmp_path, config)
    jobs = planned_jobs(result)
    assert jobs["train"] == 3 * 2 * 2 * 2
    assert jobs["sample"] == jobs["score"] == 3 * (8 + 4)
    assert "T5-seed2/ddim-2/score.json" in result.stdout
    sought = "results/tiny/models/toy_flowers/linear/T5-seed1/model.safetensors"
    assert planned_jobs(dry_run(tmp_path, config, sought))["train"] == 1


def test_one_figure_needs_one_data_set(tmp_path):
    figure = "results/dissertation/figures/fid_oxford_flowers.png"
    result = dry_run(tmp_path, ROOT / "config" / "config.yaml", figure)
    assert planned_jobs(result)["train"] == 20
    assert "smithsonian_butterflies" not in result.stdout
    assert "anime_faces" not in result.stdout


def test_a_bad_config_is_one_sentence(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(TINY | {"diffusion": {"steps": [0]}}))
    result = dry_run(tmp_path, bad)
    assert result.returncode != 0
    assert "noisesteps: error: bad.yaml: `diffusion.steps[0]` is 0" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results").exists()


def test_values_on_the_command_line_are_refused(tmp_path):
    config = ROOT / "config" / "demo.yaml"
    result = dry_run(tmp_path, config, "--config", "seed=3")
    assert result.returncode != 0
    assert "edit" in result.stderr


def picture_tree(folder):
    """Draw 30 squares in two sub-folders, and put a file that is no image there."""
    generator = np.random.default_rng(0)
    for index in range(30):
        pixels = np.full((20, 20, 3), generator.integers(0, 256, 3), np.uint8)
        pixels[5:15, 5:15] = generator.integers(0, 256, 3)
        path = folder / ("left" if index % 2 else "right side") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "left" / "broken.jpg").write_bytes(b"not an image")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Run a whole tiny study, once."""
    folder = tmp_path_factory.mktemp("study")
    picture_tree(folder / "pictures")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    result = snakemake(folder, "--configfile", "tiny.yaml", "--resources", "gpu=1")
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return folder


@pytest.mark.workflow
def test_the_whole_study_is_built(tiny):
    results = tiny / "results" / "tiny"
    study = parse_study(TINY)
    for run in study.runs:
        model = json.loads((results / "models" / run.path / "model.json").read_text())
        assert model["optimizer_steps"] == 2 * math.ceil(model["train_images"] / 10)
        images = np.load(results / "samples" / run.path / "images.npy")
        assert images.shape == (study.sample_images(run), 3, 8, 8)
        assert images.dtype == np.uint8
        score = json.loads((results / "metrics" / run.path / "score.json").read_text())
        assert score["metric"] == "FD (EfficientNet-Lite0)"
        assert np.isfinite(score["value"])
    assert not list(results.glob("checkpoints/**/*.safetensors"))
    for name in ("fid_toy_flowers", "samples_my_squares", "generation_time"):
        assert (results / "figures" / f"{name}.png").stat().st_size > 1000
        assert (results / "figures" / f"{name}.svg").stat().st_size > 1000
    assert "<html" in (results / "report.html").read_text()
    rejected = pd.read_csv(results / "data" / "my_squares" / "rejected.csv")
    assert rejected["source"].tolist() == ["left/broken.jpg"]


@pytest.mark.workflow
def test_the_tables_cover_every_model(tiny):
    tables = tiny / "results" / "tiny" / "tables"
    study = parse_study(TINY)
    scores = pd.read_csv(tables / "fid.csv")
    keys = list(zip(scores.dataset, scores.schedule, scores.steps, strict=True))
    assert keys == [(run.dataset, run.schedule, run.steps) for run in study.runs]
    assert len(pd.read_csv(tables / "generation_time.csv")) == len(study.runs)
    assert len(pd.read_csv(tables / "classification.csv")) == 2
    effects = pd.read_csv(tables / "classification_effects.csv")
    assert effects[["set", "baseline"]].values.tolist() == [["mix", "origin_augmented"]]


@pytest.mark.workflow
def test_the_rules_and_the_package_agree_on_every_path(tiny):
    """No stage may write a file that its rule does not declare, nor lack one."""
    paths, study = StudyPaths("tiny"), parse_study(TINY)
    for run in study.runs:
        for folder in (paths.model(run), paths.samples(run), paths.score(run)):
            assert len(list((tiny / folder).glob("*.json"))) == 1
    assert (tiny / paths.report).exists()
    temporary = list((tiny / "results").rglob("*partial*"))
    assert temporary == []


@pytest.mark.workflow
def test_snakemakes_own_report_has_captions_and_labels(tiny):
    """Its page holds as JSON what was built: by path, with labels and a caption."""
    page = tiny / "snakemake.html"
    done = snakemake(tiny, "--configfile", "tiny.yaml", "--report", str(page))
    assert done.returncode == 0, done.stderr[-5000:]
    text = page.read_text()
    study, paths = parse_study(TINY), StudyPaths("tiny")
    built = [paths.figure(name) for name in figures.figure_names(study)]
    built += [paths.table(name) for name in tables.table_names(study)]
    for path in [*built, paths.report]:
        start = text.index(f'"{path.as_posix()}": {{"name"')
        entry, _ = json.JSONDecoder().raw_decode(text, text.index("{", start))
        assert len(re.sub("<.*?>", "", entry["caption"])) > 80
        assert all(entry["labels"].values())
    assert "asks how many noise steps a diffusion model needs" in text


@pytest.mark.workflow
def test_a_finished_study_is_left_alone(tiny):
    assert "Nothing to be done" in dry_run(tiny, "tiny.yaml").stdout


PLACE = "toy_flowers/linear/T5"
REMOVED = [
    ("tables/fid.csv", "figures/quality_vs_cost.png", "tabulate"),
    ("tables/fid.json", "figures/quality_vs_cost.png", "tabulate"),
    (f"metrics/{PLACE}/nearest.csv", "figures/copies_toy_flowers.png", "score"),
    ("metrics/toy_flowers/nearest.csv", "figures/copies_toy_flowers.png", "reference"),
    (f"models/{PLACE}/history.csv", "figures/training_loss_toy_flowers.png", "train"),
    (f"samples/{PLACE}/images.npy", "figures/samples_toy_flowers.png", "sample"),
    ("figures/schedule.png", "report.html", "draw"),
    ("figures/schedule.json", "report.html", "draw"),
    ("data/toy_flowers/rejected.csv", "report.html", "preprocess"),
]


@pytest.mark.workflow
@pytest.mark.parametrize(("damaged", "wanted", "rule"), REMOVED)
def test_a_damaged_file_that_was_removed_is_made_anew(tiny, damaged, wanted, rule):
    """Snakemake has removed the output of the job that refused it."""
    files = [tiny / "results/tiny" / name for name in (damaged, wanted)]
    aside = [file.with_name(f"{file.name}.aside") for file in files]
    for file, place in zip(files, aside, strict=True):
        file.rename(place)
    try:
        result = dry_run(tiny, "tiny.yaml", f"results/tiny/{wanted}")
    finally:
        for file, place in zip(files, aside, strict=True):
            place.rename(file)
    assert planned_jobs(result)[rule] >= 1


@pytest.mark.workflow
def test_a_stage_by_hand_refuses_what_other_values_made(tiny):
    changed = TINY | {"training": TINY["training"] | {"learning_rate": 0.02}}
    (tiny / "other.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    before = (tiny / "results/tiny/samples/toy_flowers/linear/T5/images.npy").stat()
    command = [sys.executable, "-m", "noisesteps", "sample", "--config", "other.yaml"]
    command += ["--dataset", "toy_flowers", "--schedule", "linear", "--steps", "5"]
    result = subprocess.run(command, cwd=tiny, capture_output=True, text=True)
    assert result.returncode == 2
    assert "was made with other values of training" in result.stderr
    after = (tiny / "results/tiny/samples/toy_flowers/linear/T5/images.npy").stat()
    assert after.st_mtime_ns == before.st_mtime_ns


@pytest.mark.workflow
def test_another_set_leaves_the_others_alone(tiny):
    chosen = TINY["classification"] | {"sets": ["origin", "mix", "origin_augmented"]}
    config = tiny / "more.yaml"
    config.write_text(yaml.safe_dump(TINY | {"classification": chosen}))
    jobs = planned_jobs(dry_run(tiny, config.name))
    assert jobs["sets"] == jobs["classify"] == 1


@pytest.mark.workflow
def test_sets_of_real_images_wait_for_no_model(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    place = "results/tiny/sets/{}/images.npy"
    real = planned_jobs(
        dry_run(tmp_path, "tiny.yaml", place.format("origin_augmented"))
    )
    assert real == {"preprocess": 2, "sets": 1}
    mixed = planned_jobs(dry_run(tmp_path, "tiny.yaml", place.format("mix")))
    assert mixed["train"] == mixed["sample"] == 2


@pytest.mark.workflow
def test_a_renamed_config_is_the_same_study(tiny):
    (tiny / "renamed.yaml").write_text((tiny / "tiny.yaml").read_text())
    assert "Nothing to be done" in dry_run(tiny, "renamed.yaml").stdout


CHANGES = [
    (("training", "learning_rate"), 0.01, {"preprocess", "reference"}),
    (("sampling", "batch_size"), 2, {"preprocess", "train", "reference"}),
    (("figures", "dpi"), 80, {"preprocess", "train", "sample", "score", "sets"}),
    (("classification", "epochs"), 2, {"preprocess", "train", "sample", "score"}),
    (("classification", "seeds"), 2, {"train", "sample", "score", "sets"}),
    (("training", "log_steps"), 2, {"train", "tabulate", "draw"}),
]


@pytest.mark.workflow
@pytest.mark.parametrize(("place", "value", "untouched"), CHANGES, ids=str)
def test_a_changed_value_reruns_its_readers(tiny, place, value, untouched):
    section, key = place
    config = tiny / "tiny.yaml"
    text = config.read_text()
    changed = TINY | {section: TINY[section] | {key: value}}
    try:
        config.write_text(yaml.safe_dump(changed, sort_keys=False))
        result = dry_run(
            tiny, config.name, "--rerun-triggers", "mtime", "params", "input"
        )
    finally:
        config.write_text(text)
    assert result.returncode == 0, result.stderr
    planned = set(planned_jobs(result)) if "Job stats" in result.stdout else set()
    assert not planned & untouched
    assert "report" in planned
