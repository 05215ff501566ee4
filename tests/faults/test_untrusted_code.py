"""Files that hold code, where data belong: it is never run.

Each file pickles a call that would leave the file `ran`. It lies where a stage reads
it, with a record that vouches for it: what has to hold holds without the checksums.
"""

import pickle
import zipfile
from pathlib import Path

import harness
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from harness import CHECKPOINT, DATA, MODEL, REFERENCE, SAMPLES, SETS, TRAIN

from noisesteps.config import load_study
from noisesteps.data.readers import FLOWERS_FILES
from noisesteps.files import checksum, read_json
from noisesteps.records import write_record

MARK = "ran"


class Call:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(MARK),)


PICKLE = pickle.dumps(Call())
OBJECTS = np.array([Call(), Call()], dtype=object)


def save_array(path: Path) -> None:
    np.save(path, OBJECTS, allow_pickle=True)


def save_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("mean", "covariance", "images", "extractor", "digest"):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, OBJECTS, allow_pickle=True)


def save_weights(path: Path) -> None:
    torch.save({"weight": Call()}, path)


def save_pickle(path: Path) -> None:
    path.write_bytes(PICKLE)


# A file, the record that vouches for it, what is written there, and who reads it.
RESULTS = [
    (DATA / "images.npy", "dataset.json", save_array, TRAIN.command),
    (DATA / "images.npy", "dataset.json", save_pickle, harness.REFER.command),
    (SAMPLES / "images.npy", "sample.json", save_array, harness.SCORES.command),
    (SAMPLES / "images.npy", "sample.json", save_array, harness.SET.command),
    (REFERENCE / "reference.npz", "reference.json", save_arrays,
     harness.SCORES.command),
    (REFERENCE / "features.npy", "reference.json", save_array, harness.SCORES.command),
    (SETS / "mix/images.npy", "set.json", save_array, harness.CLASSIFY.command),
    (MODEL / "model.safetensors", "model.json", save_weights, harness.SAMPLE.command),
    (MODEL / "model.safetensors", "model.json", save_pickle, harness.SAMPLE.command),
]  # fmt: skip


def vouch(path: Path, record: Path) -> None:
    """Write the record anew, for the files that are there."""
    values = read_json(record)
    write_record(record, values, *values["files"])
    assert read_json(record)["files"][path.name]["sha256"] == checksum(path)


@pytest.mark.parametrize(("path", "record", "save", "command"), RESULTS)
def test_code_in_a_result_is_not_run(copied, path, record, save, command):
    save(copied / path)
    vouch(copied / path, (copied / path).with_name(record))
    message = harness.run(copied, *command).refused()
    assert not (copied / MARK).exists()
    assert path.parent.as_posix() in message


@pytest.mark.parametrize("save", [save_weights, save_pickle])
def test_code_in_a_checkpoint_is_not_run(study, copied, save):
    for output in TRAIN.outputs:
        (copied / output).unlink()
    (copied / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    save(copied / CHECKPOINT)
    ended = harness.run(copied, *TRAIN.command).check()
    assert f"The checkpoint {CHECKPOINT} is damaged" in ended.output
    assert not (copied / MARK).exists()
    assert harness.same_files(study, copied, TRAIN.outputs)


@pytest.mark.parametrize("save", [save_weights, save_pickle])
def test_code_in_the_weights_of_the_extractor_is_not_run(copied, save):
    path = copied / "weights.pth"
    save(path)
    weights = {"files": {"weights.pth": {"sha256": checksum(path)}}}
    evaluation = {"extractor": "inception-v3", "weights": weights}
    harness.write_config(copied, evaluation=evaluation)
    folder = load_study(copied / "tiny.yaml").resource_folder("inception-v3")
    (copied / folder).mkdir(parents=True)
    path.rename(copied / folder / path.name)
    message = harness.run(copied, *harness.REFER.command).refused()
    assert not (copied / MARK).exists()
    assert f"{folder}/weights.pth does not hold a plain state dict" in message


def place(folder: Path, **dataset) -> Path:
    dataset |= {"train": 20, "held_out": 4}
    harness.write_config(folder, datasets={"mine": dataset})
    archives = folder / load_study(folder / "tiny.yaml").resource_folder("mine")
    archives.mkdir(parents=True)
    return archives


def prepare(folder: Path) -> str:
    message = harness.run(folder, "preprocess", "--dataset", "mine").refused()
    assert not (folder / MARK).exists()
    return message


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
def test_code_in_a_mat_file_is_not_run(tmp_path, name):
    from scipy.io import savemat

    files = {name: {} for name in FLOWERS_FILES}
    archives = place(tmp_path, format="oxford_flowers", files=files)
    savemat(archives / "imagelabels.mat", {"labels": [1, 2, 3]})
    savemat(archives / "setid.mat", {"trnid": [1], "tstid": [2], "valid": [3]})
    (archives / FLOWERS_FILES[0]).touch()
    save_pickle(archives / name)
    assert f"{name} is damaged" in prepare(tmp_path)


def test_code_in_a_parquet_file_is_not_run(tmp_path):
    """By the extension type that Arrow unpickled before 14.0.1 (CVE-2023-47248)."""
    archives = place(tmp_path, format="parquet", files={"a.parquet": {}})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": PICKLE,
    }
    field = pa.field("image", kind, metadata=extension)
    images = pa.array([{"bytes": PICKLE, "path": "a.png"}] * 30, kind)
    table = pa.table([images], schema=pa.schema([field]))
    pq.write_table(table, archives / "a.parquet")
    assert "mine" in prepare(tmp_path)  # no row is an image


@pytest.mark.parametrize(
    "text",
    [
        f"study: !!python/object/apply:os.mkdir [{MARK}]",
        f"study: !!python/object/new:os.mkdir [{MARK}]",
        "!!python/name:os.system : 1",
    ],
)
def test_code_in_a_config_is_not_run(tmp_path, text):
    (tmp_path / "tiny.yaml").write_text(text + "\n" + yaml.safe_dump({"seed": 1}))
    message = harness.run(tmp_path, *harness.PREPROCESS.command).refused()
    assert "tiny.yaml is not valid YAML" in message
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("save", [save_array, save_arrays, save_weights, save_pickle])
def test_the_code_would_run_if_somebody_let_it(tmp_path, monkeypatch, save):
    """What could not run would prove nothing."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "file.npy")
    if save in (save_array, save_arrays):
        loaded = np.load("file.npy", allow_pickle=True)
        _ = loaded["mean"] if save is save_arrays else loaded
    elif save is save_weights:
        torch.load("file.npy", weights_only=False)
    else:
        pickle.loads((tmp_path / "file.npy").read_bytes())
    assert (tmp_path / MARK).exists()
