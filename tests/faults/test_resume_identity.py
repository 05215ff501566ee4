"""A checkpoint of another config, data set or code is never resumed from."""

import shutil
import subprocess
import sys
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

from noisesteps import stages

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


@dataclass(frozen=True)
class OtherLibrary:
    """Let PyTorch be of another version, as after an upgrade."""

    def __call__(self) -> None:
        from noisesteps import stages

        versions = stages.library_versions() | {"torch": "0.1"}
        stages.library_versions = lambda: versions


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
    "library": (same, OtherLibrary(), ["libraries.torch"]),
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


# Modules that training and sampling load, and that compute no number.
INERT = {
    "__init__", "config", "data.__init__", "data.download", "data.kinds", "errors",
    "files", "locks", "paths", "provenance", "records", "schema", "signals",
}  # fmt: skip
LOADED = """
import sys
import noisesteps.data.array, noisesteps.devices, noisesteps.seeds, noisesteps.stages
from noisesteps.diffusion import Diffusion
from noisesteps.models import UNet, load_model, save_model
from noisesteps.sampling import Partial, generate
from noisesteps.training import Tracker, train
package = sys.modules["noisesteps"].__path__[0]
for name, module in sys.modules.items():
    if name.partition(".")[0] == "noisesteps":
        print(module.__file__.removeprefix(package + "/"))
"""


def test_all_code_that_computes_is_in_the_digest():
    ended = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    computing = [
        module
        for module in ended.stdout.split()
        if module.removesuffix(".py").replace("/", ".") not in INERT
    ]
    assert {"seeds.py", "training/learner.py"} < set(computing)
    left_out = [
        module
        for module in computing
        if not {module, module.partition("/")[0]} & set(stages.COMPUTING)
    ]
    assert left_out == []


KERNELS = ("models/kernels/multiply.h", "models/kernels/convolve.c")


@pytest.mark.parametrize("part", (*stages.COMPUTING, *KERNELS))
def test_an_edit_of_the_code_is_another_origin(tmp_path, monkeypatch, part):
    from noisesteps import provenance

    package = tmp_path / "package"
    shutil.copytree(provenance.PACKAGE, package)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    # Without its cache: code is read once in a process.
    digest = provenance.code_digest.__wrapped__
    monkeypatch.setattr(stages, "code_digest", digest)
    before = stages._origin({})
    edited = package / part
    edited = edited / "__init__.py" if edited.is_dir() else edited
    edited.write_text(edited.read_text() + "\n")
    assert stages._origin({})["code"] != before["code"]


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
