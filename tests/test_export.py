"""Exports of real tiny runs, read by the tools that they are for."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler
from PIL import Image
from torchvision.datasets import ImageFolder

from noisesteps import stages
from noisesteps.cli import main
from noisesteps.config import parse_study
from noisesteps.diffusion import Diffusion
from noisesteps.errors import BusyError, StageError
from noisesteps.export import write_images
from noisesteps.export.folder import new_folder
from noisesteps.export.pipeline import model_card, scheduler_config
from noisesteps.paths import Run, StudyPaths

SCHEDULES = ["linear", "linear_scaled", "cosine"]
STEPS = [4, 12]
# Grey levels: float32 tables and another order of sums may turn a rounding around,
# once in some hundred pixels at most.
LEVELS, SHARE = 1, 0.01
# What each study samples with; the models are trained alike.
SAMPLINGS = {
    "ancestral": {},
    "respaced": {"sampling_steps": 4},
    "ddim": {"method": "ddim", "sampling_steps": 4},
    "uneven": {"sampling_steps": 3},
}


def values(name):
    """Return the study called `name` as its YAML file has it."""
    several = name == "ancestral"
    return {
        "study": name,
        "seed": 3,
        "datasets": {"toy_flowers": {"format": "toy_flowers", "train": 16}},
        "preprocess": {"image_size": 8},
        "network": {"preset": "tiny"},
        "diffusion": {
            "schedules": SCHEDULES if several else ["linear_scaled"],
            "steps": STEPS if several else [8 if name == "uneven" else 12],
        },
        "training": {
            **{"epochs": 2, "batch_size": 8, "warmup_steps": 0, "precision": "fp32"},
            **{"learning_rate": 0.01, "tensorboard": False},
        },
        "sampling": {"images": 6, "batch_size": 3, **SAMPLINGS[name]},
        "evaluation": {"extractor": "efficientnet-lite0"},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train and sample every run, in a folder of their own."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in SAMPLINGS:
            study = parse_study(values(name))
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values(name)))
            stages.preprocess(study, "toy_flowers")
            for run in study.runs:
                stages.train(study, run, torch.device("cpu"))
                stages.sample(study, run, torch.device("cpu"))
    return folder


@pytest.fixture
def here(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def export(kind, output, study="ancestral", schedule="linear_scaled", steps=12):
    command = ["export", kind, "--config", f"{study}.yaml", "--dataset", "toy_flowers"]
    command += ["--schedule", schedule, "--steps", str(steps), "--output", str(output)]
    return CliRunner().invoke(main, command)


def exported(*arguments, **keywords):
    result = export(*arguments, **keywords)
    assert result.exit_code == 0, result.output


def generated(study="ancestral", schedule="linear_scaled", steps=12):
    run = Run("toy_flowers", schedule, steps)
    return np.load(StudyPaths(study).samples(run) / "images.npy")


def run_example(folder, monkeypatch):
    """Run the model card's example in the folder; return its images (N,3,H,W)."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    names = {}
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        exec(code[1], names)
    return np.stack([np.asarray(image) for image in names["images"]]).transpose(
        0, 3, 1, 2
    )


def assert_same_images(images, expected):
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert difference.max() <= LEVELS
    assert (difference > 0).mean() <= SHARE
    # Not because all images are alike.
    assert np.abs(expected[0].astype(int) - expected[1].astype(int)).mean() > 10


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_diffusers_makes_the_images_of_the_run(
    here, tmp_path, monkeypatch, schedule, steps
):
    exported("pipeline", tmp_path / "out", schedule=schedule, steps=steps)
    images = run_example(tmp_path / "out", monkeypatch)
    assert_same_images(images, generated(schedule=schedule, steps=steps)[:4])


@pytest.mark.parametrize(
    ("study", "scheduler"), [("respaced", DDPMScheduler), ("ddim", DDIMScheduler)]
)
def test_fewer_steps_and_ddim_too(here, tmp_path, monkeypatch, study, scheduler):
    exported("pipeline", tmp_path / "out", study=study)
    loaded = DDPMPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(loaded.scheduler, scheduler)
    images = run_example(tmp_path / "out", monkeypatch)
    assert_same_images(images, generated(study=study)[:4])


def test_the_card_promises_nothing_where_diffusers_rounds_steps(here, tmp_path):
    exported("pipeline", tmp_path / "out", study="uneven", steps=8)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "can differ from the run's" in card
    assert "makes again" not in card


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 10, 1000, 1300])
def test_the_scheduler_has_the_betas_and_skips_no_step(schedule, steps, method):
    diffusion = Diffusion(steps, schedule)
    config = json.loads(json.dumps(scheduler_config(diffusion, method)))
    kind = {"ancestral": DDPMScheduler, "ddim": DDIMScheduler}[method]
    theirs = kind.from_config(config)
    torch.testing.assert_close(theirs.betas, diffusion.betas.float())
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == list(range(steps))[::-1]


def test_what_the_card_says_of_the_default_number_of_steps(here, tmp_path):
    exported("pipeline", tmp_path / "out")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="cannot be larger"):
        pipeline()
    assert "T = 12, which is an error" in (tmp_path / "out" / "README.md").read_text()

    scheduler = DDPMScheduler.from_config(
        scheduler_config(Diffusion(1300, "linear"), "ancestral")
    )
    scheduler.set_timesteps(1000)
    assert len(scheduler.timesteps) == 1000
    folder = StudyPaths("ancestral")
    run = Run("toy_flowers", "linear", 12)
    model = json.loads((folder.model(run) / "model.json").read_text())
    sample = json.loads((folder.samples(run) / "sample.json").read_text())
    longer = {"steps": 1300, "sampling_steps": 1300}
    card = model_card(model | {"steps": 1300}, sample | longer)
    assert "left out without a word" in card
    assert "num_inference_steps=1300" in card


def test_a_pipeline_is_written_without_diffusers(here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)  # an import would raise
    exported("pipeline", tmp_path / "deep" / "out")
    files = {
        path.relative_to(tmp_path / "deep").as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert files == {
        "out/README.md",
        "out/model_index.json",
        "out/provenance.json",
        "out/scheduler/scheduler_config.json",
        "out/unet/config.json",
        "out/unet/diffusion_pytorch_model.safetensors",
    }
    record = json.loads((tmp_path / "deep" / "out" / "provenance.json").read_text())
    assert record["model"]["provenance"]["settings"]["seed"] == 3
    assert record["provenance"]["stage"] == "export pipeline"


def test_torchvision_reads_the_image_folder(here, tmp_path):
    exported("images", tmp_path / "out")
    read = ImageFolder(tmp_path / "out")
    assert read.classes == ["toy_flowers"]
    pixels = np.stack([np.asarray(image) for image, _ in read])
    assert np.array_equal(pixels.transpose(0, 3, 1, 2), generated())


def test_metadata_names_and_labels_every_image(here, tmp_path):
    exported("images", tmp_path / "out")
    with (tmp_path / "out" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "file_name": "toy_flowers/00001.png",
        "label": "toy_flowers",
        "schedule": "linear_scaled",
        "steps": "12",
    }
    pictures = sorted((tmp_path / "out").rglob("*.png"))
    assert [tmp_path / "out" / row["file_name"] for row in rows] == pictures
    assert len(rows) == 6
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["sample"]["images"] == 6


def test_an_empty_folder_may_stand_there(here, tmp_path):
    exported("images", tmp_path)
    assert Image.open(tmp_path / "toy_flowers" / "00000.png").size == (8, 8)
    assert len(list(tmp_path.parent.glob(f".{tmp_path.name}*"))) == 0


@pytest.mark.parametrize("kind", ["pipeline", "images"])
@pytest.mark.parametrize("place", [".", "note.txt"])
def test_what_is_there_is_left_alone(here, tmp_path, kind, place):
    (tmp_path / "note.txt").write_text("keep")
    result = export(kind, tmp_path / place)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "choose another --output" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    assert (tmp_path / "note.txt").read_text() == "keep"


def test_a_failure_leaves_nothing_behind(tmp_path):
    sample = {"dataset": "cats", "schedule": "linear", "steps": 2}
    good = np.zeros((2, 3, 8, 8), np.uint8)
    unserialisable = {"seconds": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        write_images(tmp_path / "out", good, sample=sample, provenance=unserialisable)
    assert list(tmp_path.iterdir()) == []
    write_images(tmp_path / "out", good, sample=sample, provenance={})
    with pytest.raises(StageError), new_folder(tmp_path / "out"):
        pytest.fail("a folder with something in it was accepted")


def test_what_a_killed_export_left_is_removed(tmp_path):
    left, others = tmp_path / ".out.123.partial", tmp_path / ".outer.123.partial"
    for folder in (left, others):
        folder.mkdir()
        (folder / "half").touch()
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert sorted(tmp_path.iterdir()) == [others, tmp_path / "out"]


def test_two_exports_to_one_folder_are_one(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
        with pytest.raises(BusyError), new_folder(tmp_path / "out"):
            pytest.fail("written twice")
        assert (folder / "a").exists()


@pytest.mark.parametrize("kind", ["pipeline", "images"])
def test_an_unfinished_run_is_named(here, tmp_path, monkeypatch, kind):
    (tmp_path / "ancestral.yaml").write_text(yaml.safe_dump(values("ancestral")))
    monkeypatch.chdir(tmp_path)
    result = export(kind, tmp_path / "out")
    assert result.exit_code == 2
    stage = {"pipeline": "train", "images": "sample"}[kind]
    assert f"run `noisesteps {stage}` first" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing", "short", "torn"])
def test_damaged_samples_are_refused(here, tmp_path, monkeypatch, damage):
    (tmp_path / "ancestral.yaml").write_text(yaml.safe_dump(values("ancestral")))
    folder = StudyPaths("ancestral").samples(Run("toy_flowers", "linear_scaled", 12))
    record = (folder / "sample.json").read_bytes()
    whole = (folder / "images.npy").read_bytes()
    monkeypatch.chdir(tmp_path)
    folder.mkdir(parents=True)
    (folder / "sample.json").write_bytes(record)
    if damage == "short":
        np.save(folder / "images.npy", np.zeros((2, 3, 8, 8), np.uint8))
    if damage == "torn":
        (folder / "images.npy").write_bytes(whole[:-10])
    result = export("images", tmp_path / "out")
    assert result.exit_code == 2
    assert "images.npy is " in result.output
    assert "run `noisesteps sample` again" in result.output
    assert not (tmp_path / "out").exists()
