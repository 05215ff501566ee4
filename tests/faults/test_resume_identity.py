"""A checkpoint of another config, data set or code is never resumed from."""

import shutil
from dataclasses import dataclass

import harness
import pytest
import yaml
from harness import (
    CHECKPOINT,
    MODEL,
    PREPROCESS,
    RESULTS,
    SAMPLE,
    SAMPLES,
    TRAIN,
    DieRenaming,
    DieWriting,
)

STEPS = {"schedules": ["linear"], "steps": [5, 6]}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return a study whose training died after 4 updates."""
    folder = harness.build(
        tmp_path_factory.mktemp("interrupted"), [PREPROCESS.command], diffusion=STEPS
    )
    harness.run(folder, *TRAIN.command, injury=DieWriting(CHECKPOINT, 10, time=3))
    assert (folder / CHECKPOINT).exists()
    return folder


@dataclass(frozen=True)
class OtherCode:
    """Let the code's digest be another one, as after an edit."""

    def __call__(self) -> None:
        from noisesteps import stages

        stages.code_digest = lambda *rooms: "ab" * 32


def other_rate(folder):
    harness.write_config(folder, diffusion=STEPS, training={"learning_rate": 3e-4})


def other_seed(folder):
    harness.write_config(folder, diffusion=STEPS, seed=8)
    harness.run(folder, *PREPROCESS.command).check()


def other_images(folder):
    """Other images under the same values, as after a change of the decoder."""
    import numpy as np

    from noisesteps.files import checksum, read_json, write_array
    from noisesteps.records import write_record

    path = folder / harness.DATA / "images.npy"
    record = read_json(path.with_name("dataset.json"))
    write_array(path, np.load(path)[:, :, ::-1].copy())
    record["sha256"] = checksum(path)
    names = ("images.npy", "manifest.csv", "rejected.csv")
    write_record(path.with_name("dataset.json"), record, *names)


def same(folder):
    pass


CASES = {
    "config": (other_rate, None, ["settings.training.learning_rate"]),
    "seed": (other_seed, None, ["images", "settings.seed"]),
    "data": (other_images, None, ["images"]),
    "code": (same, OtherCode(), ["code"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_foreign_checkpoint_is_not_used_and_said_why(interrupted, tmp_path, case):
    change, injury, reasons = CASES[case]
    folder = harness.copy(interrupted, tmp_path / "with")
    change(folder)
    fresh = harness.copy(folder, tmp_path / "without")
    (fresh / CHECKPOINT).unlink()
    ended = harness.run(folder, *TRAIN.command, injury=injury).check()
    said = f"{CHECKPOINT} is of another run, which differs in {', '.join(reasons)};"
    assert said in ended.output
    assert harness.resumptions(folder) == [0, 0]
    harness.run(fresh, *TRAIN.command, injury=injury).check()
    assert harness.same_files(fresh, folder, TRAIN.outputs)


def test_the_checkpoint_of_another_number_of_steps_is_not_used(interrupted, tmp_path):
    """Network, images and code are the same; only T differs."""
    folder = harness.copy(interrupted, tmp_path / "study")
    other = RESULTS / "checkpoints/toy_flowers/linear/T6" / CHECKPOINT.name
    (folder / other).parent.mkdir()
    (folder / CHECKPOINT).rename(folder / other)
    ended = harness.run(folder, "train", *harness.RUN[:-1], "6").check()
    assert f"{other} is of another run, which differs in model;" in ended.output


@pytest.mark.parametrize(
    ("room", "work"),
    [(r, w) for w in ("training", "sampling") for r in ("diffusion", "models", w)],
)
def test_an_edit_of_the_code_is_another_origin(tmp_path, monkeypatch, room, work):
    from noisesteps import provenance, stages

    package = tmp_path / "package"
    shutil.copytree(provenance.PACKAGE, package)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    # Without its cache: code is read once in a process.
    digest = provenance.code_digest.__wrapped__
    monkeypatch.setattr(stages, "code_digest", digest)
    before = stages._origin({}, work)
    with (package / room / "__init__.py").open("a") as file:
        file.write("# edited\n")
    assert stages._origin({}, work) != before


@dataclass(frozen=True)
class DieSampled:
    """Die with all batches saved, when the samples are about to get their name."""

    def __call__(self) -> None:
        from noisesteps.sampling import samples

        samples.SECONDS_BETWEEN = 0.0
        DieRenaming(SAMPLES / "images.npy")()


def test_images_of_other_weights_are_not_used(copied):
    from safetensors.torch import load_file, save_file

    from noisesteps.files import read_json
    from noisesteps.records import write_record

    harness.run(copied, *SAMPLE.command, injury=DieSampled())
    weights, record = (copied / MODEL / n for n in ("model.safetensors", "model.json"))
    save_file({name: 2 * w for name, w in load_file(weights).items()}, weights)
    write_record(record, read_json(record), "model.safetensors", "history.csv")
    ended = harness.run(copied, *SAMPLE.command).check()
    assert "which differs in weights; sampling starts anew" in ended.output


def test_its_own_checkpoint_is_used(interrupted, tmp_path):
    """Values that change no weight leave the checkpoint usable."""
    folder = harness.copy(interrupted, tmp_path / "study")
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    values["training"] |= {"checkpoint_epochs": 2, "log_steps": 3}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    harness.run(folder, *TRAIN.command).check()
    assert harness.resumptions(folder) == [0, 4]
