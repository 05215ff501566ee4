"""Bad configs and bad inputs: one sentence that names key or file, nothing written.

Every case is a study that somebody might really have; `harness.refusal` insists on an
exit code, one sentence, no traceback, and a folder that stays as it was.
"""

import copy
import shutil
import zipfile
from pathlib import Path

import harness
import hostile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from harness import DATA, MODEL, REFERENCE, RUN, SAMPLES, SETS
from scipy.io import savemat

from noisesteps import stages
from noisesteps.config import load_study
from noisesteps.data.readers import FLOWERS_FILES
from noisesteps.files import read_json
from noisesteps.records import write_record

PREPARE = ("preprocess", "--dataset", "mine")

# Configs whose YAML is one, with a value that cannot be.
VALUES = [
    ("diffusion.steps", [0, 100]),
    ("diffusion.steps", [10_001]),
    ("diffusion.steps", []),
    ("diffusion.steps", 100),
    ("diffusion.steps", [5, 5]),
    ("diffusion.steps", [1.5]),
    ("diffusion.schedules", ["quadratic"]),
    ("diffusion.schedule", ["linear"]),
    ("training.epoch", 3),
    ("training.epochs", -1),
    ("training.epochs", None),
    ("training.epochs", 10**20),
    ("training.batch_size", 0),
    ("training.batch_size", 21),
    ("training.learning_rate", "1e-4"),
    ("training.learning_rate", float("nan")),
    ("training.learning_rate_min", 0.5),
    ("training.precision", "fp8"),
    ("training.ema_decay", 1.0),
    ("training.tensorboard", "yes"),
    ("training.wandb", "online"),
    ("preprocess.image_size", 30),
    ("preprocess.background", [0, 0, 256]),
    ("preprocess.minimum_size", 0),
    ("preprocess", None),
    ("network.preset", "ddpm-1b"),
    ("sampling.batch_size", 7),
    ("sampling.images", 5),
    ("sampling.sampling_steps", 6),
    ("evaluation.extractor", "inception-v3"),
    ("evaluation.extractor", "vgg"),
    ("classification.steps", 7),
    ("classification.schedule", "cosine"),
    ("classification.datasets", ["toy_flowers", "cats"]),
    ("classification.images_per_class", 21),
    ("datasets.toy_flowers.format", "toy_cats"),
    ("datasets.toy_flowers.train", "many"),
    ("datasets.toy_flowers.train", 10**11),
    ("datasets.toy_flowers.held_out", 0),
    ("datasets.mine", {"format": "folder", "path": "nowhere"}),
    ("datasets.mine", {"format": "folder", "path": "~nosuchuser/x"}),
    ("datasets.mine", {"format": "zip", "files": {}}),
    ("datasets.mine", {"format": "zip", "files": {"a.zip": {"url": "ftp://x/a.zip"}}}),
    ("datasets.mine", {"format": "zip", "files": {"a.zip": {"sha256": "0"}}}),
    ("datasets.mine", {"format": "oxford_flowers", "files": {"102flowers.tgz": {}}}),
    ("datasets.mine", {"format": "zip", "files": {"a.zip": {}}, "held_out": None}),
    ("datasets", {}),
    ("figures.dpi", 10_000),
    ("seed", -1),
    ("seed", 0.5),
    ("study", None),
    ("surprise", 1),
]


@pytest.mark.parametrize(("key", "value"), VALUES, ids=str)
def test_a_bad_value_names_its_key(tmp_path, key, value):
    values = copy.deepcopy(harness.STUDY)
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    place[last] = value
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    message = harness.refusal(tmp_path, *harness.PREPROCESS.command)
    assert message.startswith("tiny.yaml")
    assert last in message


NO_STUDIES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "latin-1": "study: Blüte".encode("latin-1"),
    "UTF-16": "study: a".encode("utf-16"),
    "a list": b"- 1",
    "a word": b"study",
    "not closed": b"a: [",
    "a tab": b"study:\n\tseed: 1",
    "a key twice": b"a: 1\na: 2",
    "a day that is none": b"study: 2026-02-30",
    "a number of 6,000 digits": b"seed: " + b"9" * 6000,
    "a number that is none": b"seed: !!int abc",
    "a merge key": b"a: &a {b: 1}\nc: {<<: *a}",
    "a list as key": b"? [a]\n: 1",
    "nested far too deeply": b"[" * 100_000,
    "aliases of aliases": b"a: &a [x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9))
        for c in range(ord("b"), ord("z"))
    ),
    "two documents": b"a: 1\n---\nb: 1",
    "JSON of a machine": b'{"study": null}',
}


# A value without end would be printed until memory ends, and nothing interrupts that.
@pytest.mark.timeout(60, method="thread")
@pytest.mark.parametrize("case", NO_STUDIES)
def test_a_file_that_is_no_study_is_named(tmp_path, case):
    (tmp_path / "tiny.yaml").write_bytes(NO_STUDIES[case])
    assert "tiny.yaml" in harness.refusal(tmp_path, *harness.PREPROCESS.command)


@pytest.mark.parametrize("case", ["missing", "a folder", "a link to nothing"])
def test_a_config_that_cannot_be_read_is_named(tmp_path, case):
    path = tmp_path / "tiny.yaml"
    if case == "a folder":
        path.mkdir()
    elif case == "a link to nothing":
        path.symlink_to("nowhere")
    message = harness.refusal(tmp_path, *harness.PREPROCESS.command)
    assert "tiny.yaml cannot be read" in message


# Data sets: what makes their files, and what the sentence says.


def use(folder: Path, **dataset) -> Path:
    """Write the config of a data set `mine`; return the folder for its files."""
    values = {"train": 20, "held_out": 4, **dataset}
    harness.write_config(folder, datasets={"mine": values}, training={"batch_size": 1})
    if "files" not in dataset:
        return folder
    archives = folder / load_study(folder / "tiny.yaml").resource_folder("mine")
    archives.mkdir(parents=True)
    return archives


def a_folder(folder: Path, files: dict[str, bytes], **keys) -> None:
    (folder / "images").mkdir(parents=True)
    for name, content in files.items():
        (folder / "images" / name).write_bytes(content)
    use(folder, format="folder", path="images", **keys)


def a_zip(folder: Path, files: dict[str, bytes], **keys) -> Path:
    path = use(folder, format="zip", files={"a.zip": {}}, **keys) / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def a_parquet(folder: Path, rows: list[dict], **keys) -> None:
    a_table(folder, pa.Table.from_pylist(rows), **keys)


def a_table(folder: Path, table: pa.Table, **keys) -> None:
    archives = use(folder, format="parquet", files={"a.parquet": {}}, **keys)
    pq.write_table(table, archives / "a.parquet")


def images_with(*paths: pa.Array) -> pa.StructArray:
    """Return an image column whose `path` is what it should not be."""
    contents = pa.array(IMAGES.values(), pa.binary())
    names = ["bytes", *["path"] * len(paths)]
    return pa.StructArray.from_arrays([contents, *paths], names=names)


def flowers(folder: Path, **numbers) -> Path:
    files = {name: {} for name in FLOWERS_FILES}
    archives = use(folder, format="oxford_flowers", files=files, train=2, held_out=1)
    split = {"trnid": [1], "tstid": [2], "valid": [3], **numbers}
    values = split.pop("labels", np.array([1, 2, 3]))
    savemat(archives / "imagelabels.mat", {"labels": values} if len(values) else {})
    savemat(archives / "setid.mat", {k: v for k, v in split.items() if v is not None})
    (archives / FLOWERS_FILES[0]).write_bytes(hostile.gzipped(b"", 10_240))
    return archives


IMAGES = {f"{value}.png": hostile.picture(value) for value in range(30)}
ROWS = [{"image": {"bytes": image, "path": name}} for name, image in IMAGES.items()]
NAMES = pa.array(IMAGES)
LATE = pa.array([2**62] * len(IMAGES), pa.timestamp("us"))  # in the year 148,109
NO_UTF_8 = pa.array([b"\xff"] * len(IMAGES)).view(pa.string())
REFUSE = {"preprocess": {"on_bad_file": "refuse", "on_duplicate": "refuse"}}


def refuse_bad(folder: Path) -> None:
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    values["preprocess"] |= REFUSE["preprocess"]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))


def an_empty_folder(folder):
    a_folder(folder, {})


def a_folder_of_texts(folder):
    a_folder(folder, {f"{n}.png": b"text" for n in range(30)})


def too_few_images(folder):
    a_folder(folder, dict(list(IMAGES.items())[:23]))


def a_bad_image_to_refuse(folder):
    a_folder(folder, IMAGES | {"bad\n\x1b[31m.png": b"text"}, train=26)
    refuse_bad(folder)


def a_duplicate_to_refuse(folder):
    a_folder(folder, IMAGES | {"twin.png": hostile.picture(3)}, train=27)
    refuse_bad(folder)


def no_archive(folder):
    use(folder, format="zip", files={"a.zip": {}})


def a_text_for_a_zip(folder):
    a_zip(folder, IMAGES).write_bytes(b"text")


def an_empty_zip(folder):
    a_zip(folder, {})


def half_a_zip(folder):
    harness.truncate(a_zip(folder, IMAGES), 0.5)


def a_folder_for_a_zip(folder):
    path = a_zip(folder, IMAGES)
    path.unlink()
    path.mkdir()


def a_prefix_that_is_not_there(folder):
    a_zip(folder, IMAGES, prefix="elsewhere")


def a_zip_of_encrypted_images(folder):
    path = a_zip(folder, IMAGES)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 1)
    path.write_bytes(content)


def a_text_for_a_parquet_file(folder):
    a_parquet(folder, ROWS)
    next(folder.rglob("a.parquet")).write_bytes(b"text")


def half_a_parquet_file(folder):
    a_parquet(folder, ROWS)
    harness.truncate(next(folder.rglob("a.parquet")), 0.5)


def a_column_that_is_not_there(folder):
    a_parquet(folder, ROWS, image_column="picture")


def a_column_of_numbers(folder):
    a_parquet(folder, [{"image": 1}] * 30)


def labels_that_are_not_there(folder):
    a_parquet(folder, ROWS, label_column="species")


def a_parquet_file_without_rows(folder):
    archives = use(folder, format="parquet", files={"a.parquet": {}})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([], kind)}), archives / "a.parquet")


def a_parquet_file_of_nested_bytes(folder):
    a_parquet(folder, [{"image": {"bytes": [b"a"], "path": "a"}}] * 30)


def two_columns_of_images(folder):
    columns = [images_with(NAMES)] * 2
    a_table(folder, pa.Table.from_arrays(columns, names=["image"] * 2))


def two_columns_of_labels(folder):
    columns = [images_with(NAMES), NAMES, NAMES]
    table = pa.Table.from_arrays(columns, names=["image", "label", "label"])
    a_table(folder, table, label_column="label")


def a_column_whose_name_is_not_utf_8(folder):
    a_parquet(folder, ROWS)
    path = next(folder.rglob("a.parquet"))
    path.write_bytes(path.read_bytes().replace(b"image", b"im\xffge"))


def two_paths_of_an_image(folder):
    a_table(folder, pa.table({"image": images_with(NAMES, NAMES)}))


def a_path_of_lists(folder):
    a_table(folder, pa.table({"image": images_with(pa.array([["a"]] * len(IMAGES)))}))


def a_path_of_structures(folder):
    paths = pa.array([{"a": "b"}] * len(IMAGES))
    a_table(folder, pa.table({"image": images_with(paths)}))


def a_path_of_times(folder):
    a_table(folder, pa.table({"image": images_with(LATE)}))


def a_path_that_is_not_utf_8(folder):
    a_table(folder, pa.table({"image": images_with(NO_UTF_8)}))


def labels_beyond_all_times(folder):
    table = pa.table({"image": images_with(NAMES), "label": LATE})
    a_table(folder, table, label_column="label")


def labels_that_are_not_utf_8(folder):
    table = pa.table({"image": images_with(NAMES), "label": NO_UTF_8})
    a_table(folder, table, label_column="label")


def labels_of_images(folder):
    a_parquet(folder, ROWS, label_column="image")


def flowers_without_labels(folder):
    flowers(folder, labels=np.array([]))


def flowers_without_a_split(folder):
    flowers(folder, valid=None)


def a_split_of_words(folder):
    flowers(folder, trnid=["one"])


def a_split_of_fractions(folder):
    flowers(folder, trnid=[1.5])


def a_split_of_cells(folder):
    flowers(folder, trnid=np.array([[1], "a"], dtype=object))


def an_image_in_two_parts(folder):
    flowers(folder, valid=[1])


def an_image_without_a_label(folder):
    flowers(folder, valid=[4])


def a_negative_image(folder):
    flowers(folder, valid=[-1])


def an_empty_tar(folder):
    flowers(folder)


def a_zip_for_a_tar(folder):
    with zipfile.ZipFile(flowers(folder) / FLOWERS_FILES[0], "w") as archive:
        archive.writestr("a", "b")


def a_file_for_the_output(folder):
    a_folder(folder, IMAGES)
    (folder / DATA.parent).mkdir(parents=True)
    (folder / DATA.parent / "mine").write_text("")


def a_file_for_the_results(folder):
    a_folder(folder, IMAGES)
    (folder / "results").write_text("")


DATASETS = {
    an_empty_folder: "images holds no files",
    a_folder_of_texts: "0 usable images among 30 files",
    too_few_images: "lower datasets.mine.train to at most 19",
    a_bad_image_to_refuse: r"bad\n\x1b[31m.png of mine cannot be used",
    a_duplicate_to_refuse: "of mine has the bytes of",
    no_archive: "a.zip is missing; run `noisesteps fetch --source mine`",
    a_text_for_a_zip: "a.zip is damaged",
    an_empty_zip: "correct datasets.mine.prefix",
    half_a_zip: "a.zip is damaged",
    a_folder_for_a_zip: "a.zip is missing",
    a_prefix_that_is_not_there: "correct datasets.mine.prefix",
    a_zip_of_encrypted_images: "encrypted",
    a_text_for_a_parquet_file: "a.parquet is damaged",
    half_a_parquet_file: "a.parquet is damaged",
    a_column_that_is_not_there: "set datasets.mine.image_column to one of image",
    a_column_of_numbers: "set datasets.mine.image_column",
    labels_that_are_not_there: "set datasets.mine.label_column to one of image",
    a_parquet_file_without_rows: "mine has 0 usable images",
    a_parquet_file_of_nested_bytes: "set datasets.mine.image_column",
    two_columns_of_images: "a.parquet has several columns image; rename them",
    two_columns_of_labels: "a.parquet has several columns label; rename them",
    a_column_whose_name_is_not_utf_8: "a.parquet is damaged",
    two_paths_of_an_image: "set datasets.mine.image_column",
    a_path_of_lists: "set datasets.mine.image_column",
    a_path_of_structures: "set datasets.mine.image_column",
    a_path_of_times: "set datasets.mine.image_column",
    a_path_that_is_not_utf_8: "column image of",
    labels_beyond_all_times: "set datasets.mine.label_column to another",
    labels_that_are_not_utf_8: "set datasets.mine.label_column to another",
    labels_of_images: "set datasets.mine.label_column to one of texts",
    flowers_without_labels: "imagelabels.mat has no `labels`",
    flowers_without_a_split: "setid.mat has no `valid`",
    a_split_of_words: "setid.mat is damaged (`trnid` is not made of whole numbers)",
    a_split_of_fractions: "setid.mat is damaged",
    a_split_of_cells: "setid.mat is damaged",
    an_image_in_two_parts: "setid.mat names image_00001.jpg twice",
    an_image_without_a_label: "setid.mat names image 4",
    a_negative_image: "setid.mat names image -1",
    an_empty_tar: "102flowers.tgz lacks 3 of the images",
    a_zip_for_a_tar: "102flowers.tgz is damaged",
    a_file_for_the_output: "results/tiny/data/mine",
    a_file_for_the_results: "results",
}


@pytest.mark.parametrize("make", DATASETS, ids=lambda make: make.__name__)
def test_a_bad_data_set_is_named_with_the_remedy(tmp_path, make):
    make(tmp_path)
    assert DATASETS[make] in harness.refusal(tmp_path, *PREPARE)


def test_a_batch_larger_than_the_images_that_there_are_is_named(tmp_path):
    """Where the config does not say how many there are."""
    a_folder(tmp_path, IMAGES, train=None)
    harness.run(tmp_path, *PREPARE).check()
    values = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    values["datasets"] = {"mine": values["datasets"]["mine"]}
    values["training"]["batch_size"] = 27
    del values["classification"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    message = harness.refusal(tmp_path, "train", "--dataset", "mine", *RUN[2:])
    assert "training.batch_size 27 exceeds the 26 training images of mine" in message


# Stages: what is missing, or was made for another study.

TOO_EARLY = {
    "train": (("train", *RUN), f"{DATA} holds no prepared data set"),
    "sample": (("sample", *RUN), f"{MODEL}/model.json is missing"),
    "reference": (harness.REFER.command, f"{DATA} holds no prepared data set"),
    "score": (harness.SCORES.command, f"{SAMPLES}/sample.json is missing"),
    "sets": (harness.SET.command, f"{DATA} holds no prepared data set"),
    "classify": (harness.CLASSIFY.command, f"{SETS}/mix/set.json is missing"),
    "tabulate": (harness.TABULATE.command, "is missing; run `noisesteps reference`"),
    "draw": (harness.DRAW.command, f"{SAMPLES}/sample.json is missing"),
    "export": (("export", "images", *RUN, "--output", "out"), "sample.json is missing"),
}


@pytest.mark.parametrize("case", TOO_EARLY)
def test_a_stage_run_too_early_says_what_is_missing(tmp_path, case):
    harness.write_config(tmp_path)
    command, said = TOO_EARLY[case]
    assert said in harness.refusal(tmp_path, *command)


def test_any_missing_file_is_named(tmp_path, monkeypatch):
    harness.write_config(tmp_path)
    lacking = lambda *_: Path("gone.csv").read_text()  # noqa: E731
    monkeypatch.setattr(stages, "preprocess", lacking)
    message = harness.refusal(tmp_path, *harness.PREPROCESS.command)
    assert message == "gone.csv is missing; run the stage that makes it first."


CHOICE = harness.CLASSIFY.command
OPTIONS = {
    "schedule": ("train", *RUN[:2], "--schedule", "cosine", "--steps", "5"),
    "steps": ("train", *RUN[:-1], "7"),
    "training-seed": ("train", *RUN, "--training-seed", "1"),
    "device": ("train", *RUN, "--device", "cuda:99"),
    "sampler": ("sample", *RUN, "--sampler", "ddim-2"),
    "architecture": ("classify", "--architecture", "vgg16", *CHOICE[3:]),
    "set": ("classify", *CHOICE[1:3], "--set", "x", "--seed", "0"),
    "seed": ("classify", *CHOICE[1:5], "--seed", "9"),
    "source": ("fetch", "--source", "toy_flowers"),
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_the_study_does_not_have_is_named(tmp_path, option):
    harness.write_config(tmp_path)
    message = harness.refusal(tmp_path, *OPTIONS[option])
    assert option in message or OPTIONS[option][-1] in message


RECORDS = {
    DATA / "dataset.json": ("train", *RUN),
    MODEL / "model.json": ("sample", *RUN),
    SAMPLES / "sample.json": harness.SCORES.command,
    REFERENCE / "reference.json": harness.SCORES.command,
    SETS / "mix/set.json": harness.CLASSIFY.command,
    harness.SCORE / "score.json": harness.TABULATE.command,
}
NO_RECORDS = {
    "empty": "",
    "text": "text",
    "a list": "[]",
    "nothing in it": "{}",
    "NaN": '{"provenance": NaN}',
    "a number as provenance": '{"provenance": 3}',
    "no settings": '{"provenance": {}}',
    "a number as settings": '{"provenance": {"settings": 3}}',
    "no checksum of its own": '{"provenance": {"settings": {}}}',
    "nested": "[" * 100_000,
}


@pytest.mark.parametrize("case", NO_RECORDS)
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_record_that_is_none_is_named(copied, path, case):
    (copied / path).write_text(NO_RECORDS[case])
    message = harness.refusal(copied, *RECORDS[path])
    assert path.parent.as_posix() in message
    assert "again" in message or "for it" in message


FORGED = {
    "a number as provenance": {"provenance": 3},
    "no settings": {"provenance": {}},
    "a number as settings": {"provenance": {"settings": 3}},
    "a number as files": {"files": 3},
    "a number as a file": {"files": {"images.npy": 3}},
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_record_of_another_form_is_named_whatever_its_checksum(copied, path, case):
    write_record(copied / path, read_json(copied / path) | FORGED[case])
    message = harness.refusal(copied, *RECORDS[path])
    assert path.parent.as_posix() in message
    assert "again" in message or "for it" in message


EXPORT = (*RUN, "--output", "out")


@pytest.mark.parametrize(
    ("path", "key", "command"),
    [
        (DATA / "dataset.json", "mean_square", ("train", *RUN)),
        (MODEL / "model.json", "image_size", ("sample", *RUN)),
        (MODEL / "model.json", "image_size", ("export", "pipeline", *EXPORT)),
        (SAMPLES / "sample.json", "seconds_per_image", harness.SCORES.command),
        (SAMPLES / "sample.json", "method", ("export", "pipeline", *EXPORT)),
        (SAMPLES / "sample.json", "schedule", ("export", "images", *EXPORT)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else Path(value).name,
)
def test_a_record_that_lacks_a_key_is_named(copied, path, key, command):
    record = read_json(copied / path)
    del record[key]
    write_record(copied / path, record)
    message = harness.refusal(copied, *command)
    assert f"{path} is damaged (it lacks the key {key!r}); remove it" in message


def test_a_result_of_other_values_is_named(copied):
    harness.write_config(copied, training={"learning_rate": 3e-4})
    message = harness.refusal(copied, "sample", *RUN)
    assert f"{MODEL}/model.json was made with other values of training" in message


def test_images_of_another_size_are_named(copied):
    """A record that vouches for an array which is not what it describes."""
    path = copied / DATA / "images.npy"
    np.save(path, np.zeros((28, 3, 4, 4), np.uint8))
    record = read_json(path.with_name("dataset.json"))
    write_record(path.with_name("dataset.json"), record, *record["files"])
    message = harness.refusal(copied, "train", *RUN)
    assert f"{DATA} holds no prepared data set (images.npy does not match" in message


def test_an_export_writes_over_nothing(copied):
    (copied / "out").mkdir()
    shutil.copy(copied / "tiny.yaml", copied / "out")
    for kind in ("images", "pipeline"):
        message = harness.refusal(copied, "export", kind, *RUN, "--output", "out")
        assert "out exists and is no empty folder" in message
