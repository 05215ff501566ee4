"""From archives and folders to the array: every format, rejection and choice."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from noisesteps import config
from noisesteps.data import labels, load_images, prepare, readers
from noisesteps.data.array import manifest
from noisesteps.data.readers import FLOWERS_FILES, FlowersReader
from noisesteps.errors import ConfigError, DataError, StageError

REAL = Path(__file__).parents[1] / "../shared/data"
SMALL = config.Preprocess(image_size=16)


def jpeg(value: int, side: int = 16) -> bytes:
    """Encode a grey square; each value gives other bytes."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, "JPEG", quality=95)
    return file.getvalue()


def files_of(*names: str) -> dict[str, config.RemoteFile]:
    return {name: config.RemoteFile() for name in names}


def zip_set(**keys) -> config.ZipArchive:
    return config.ZipArchive(format="zip", files=files_of("a.zip"), **keys)


def parquet_set(*files: str, **keys) -> config.Parquet:
    files = files_of(*(files or ("a.parquet",)))
    return config.Parquet(format="parquet", files=files, **keys)


def flower_set(**keys) -> config.OxfordFlowers:
    files = files_of(*FLOWERS_FILES)
    return config.OxfordFlowers(format="oxford_flowers", files=files, **keys)


def folder_set(path: Path, **keys) -> config.Folder:
    return config.Folder(format="folder", path=str(path), **keys)


def write_zip(folder: Path, members: dict[str, bytes], name: str = "a.zip") -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return folder


def write_folder(root: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_parquet(folder: Path, rows: list[dict], name="a.parquet", **keys) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name, **keys)
    return folder


def write_flowers(folder: Path, members: dict[str, bytes], **split: list[int]) -> Path:
    """Write a small Oxford Flowers: label of image n is 10 + n."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "102flowers.tgz", "w:gz") as archive:
        for name, content in members.items():
            add_member(archive, name, content)
    ids = {"trnid": [1, 2], "tstid": [3, 4, 5, 6], "valid": [7, 8], **split}
    savemat(folder / "setid.mat", {key: np.array(value) for key, value in ids.items()})
    savemat(folder / "imagelabels.mat", {"labels": np.arange(11, 19)})
    return folder


def add_member(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def flowers(*numbers: int) -> dict[str, bytes]:
    return {f"jpg/image_{n:05d}.jpg": jpeg(10 * n) for n in numbers or range(1, 9)}


GREYS = {f"{value:03d}.jpg": jpeg(value) for value in range(0, 200, 10)}


@pytest.fixture
def run(tmp_path):
    """Prepare a data set named `stars` and write `dataset.json` as the stage does."""

    def prepare_stars(dataset, fetched=None, preprocess=SMALL, seed=0, name="stars"):
        output = tmp_path / "output"
        counts = prepare(name, dataset, preprocess, seed, fetched, output)
        (output / "dataset.json").write_text(json.dumps(counts))
        return counts

    prepare_stars.folder = tmp_path / "output"
    return prepare_stars


def sources(run, split: str | None = None) -> list[str]:
    rows = manifest(run.folder)
    return [row["source"] for row in rows if split in (None, row["split"])]


def rejected(run) -> dict[str, str]:
    with (run.folder / "rejected.csv").open(newline="") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def assert_one_sentence(error: pytest.ExceptionInfo, *parts: object):
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text
    for part in parts:
        assert str(part) in text


# The real archives.


@pytest.mark.skipif(not REAL.exists(), reason="the real archives are not here")
@pytest.mark.parametrize(
    ("name", "dataset", "counts"),
    [
        ("oxford_flowers", flower_set(), (8189, 7169, 1020, 0, 102)),
        (
            "smithsonian_butterflies",
            parquet_set(
                "train-00000-of-00001.parquet", label_column="name", held_out=132
            ),
            (832, 700, 132, 0, 10),
        ),
        (
            "anime_faces",
            config.ZipArchive(
                format="zip",
                files=files_of("highresolution-anime-face-dataset-512x512.zip"),
                prefix="portraits",
                held_out=500,
            ),
            (4709, 4209, 500, 291, 0),
        ),
    ],
)
def test_real_archives(run, name, dataset, counts):
    found = run(dataset, REAL / name, name=name)
    keys = ("images", "train", "held_out", "rejected", "classes")
    assert tuple(found[key] for key in keys) == counts
    assert found["found"] == counts[0] + counts[3]
    images = load_images(run.folder)
    assert images.train.shape == (counts[1], 3, 16, 16)
    assert images.held_out.shape == (counts[2], 3, 16, 16)
    assert images.train.std() > 20


@pytest.mark.skipif(not REAL.exists(), reason="the real archives are not here")
def test_real_flowers_are_labelled_as_torchvision_labels_them():
    from scipy.io import loadmat

    folder = REAL / "oxford_flowers"
    truth = loadmat(folder / "imagelabels.mat")["labels"].ravel()
    paths = [folder / name for name in FLOWERS_FILES]
    valid = set(loadmat(folder / "setid.mat")["valid"].ravel())
    for candidate in FlowersReader(*paths).candidates():
        number = int(candidate.source[6:11])
        assert candidate.label == str(truth[number - 1])
        assert (candidate.split == "held_out") == (number in valid)


# Oxford Flowers.


def test_flowers_follow_the_official_split(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        counts = run(flower_set(), write_flowers(tmp_path / "in", flowers()))
    assert "stars: 8 images = 6 to train + 2 held out; 0 rejected" in caplog.text
    assert (counts["images"], counts["train"], counts["held_out"]) == (8, 6, 2)
    assert sources(run, "train") == [f"image_{n:05d}.jpg" for n in range(1, 7)]
    assert sources(run, "held_out") == ["image_00007.jpg", "image_00008.jpg"]
    assert labels(run.folder) == [str(10 + n) for n in range(1, 9)]
    images = load_images(run.folder)
    np.testing.assert_allclose(
        images.train[:, 0, 0, 0], [10, 20, 30, 40, 50, 60], atol=1
    )


def test_flowers_counts_are_chosen_within_each_part(run, tmp_path):
    folder = write_flowers(tmp_path / "in", flowers())
    run(flower_set(train=3, held_out=1), folder)
    train, held_out = sources(run, "train"), sources(run, "held_out")
    assert (len(train), len(held_out)) == (3, 1)
    assert set(held_out) < {"image_00007.jpg", "image_00008.jpg"}
    assert not set(train) & {"image_00007.jpg", "image_00008.jpg"}
    with pytest.raises(DataError) as error:
        run(flower_set(train=7), folder)
    assert_one_sentence(error, "6 usable", "datasets.stars.train to at most 6")


def test_more_held_out_than_trained_on_is_said(run, tmp_path, caplog):
    folder = write_flowers(tmp_path / "in", flowers())
    run(flower_set(train=2, held_out=2), folder)
    assert "lower datasets.stars.held_out" not in caplog.text
    run(flower_set(train=1, held_out=2), folder)
    assert "lower datasets.stars.held_out" in caplog.text


def test_official_split_keeps_duplicates_and_says_so(run, tmp_path, caplog):
    members = flowers()
    members["jpg/image_00007.jpg"] = members["jpg/image_00001.jpg"]
    folder = write_flowers(tmp_path / "in", members)
    assert run(flower_set(), folder)["images"] == 8
    assert (
        "keeps 1 duplicate files (image_00007.jpg = image_00001.jpg); 1" in caplog.text
    )
    with pytest.raises(DataError) as error:
        run(flower_set(), folder, config.Preprocess(on_duplicate="refuse"))
    assert_one_sentence(error, "image_00007.jpg", "image_00001.jpg", "on_duplicate")


def test_official_split_shrinks_only_with_a_warning(run, tmp_path, caplog):
    folder = write_flowers(tmp_path / "in", {**flowers(), "jpg/image_00002.jpg": b"?"})
    assert run(flower_set(), folder)["train"] == 5
    assert "smaller by 1 rejected files: image_00002.jpg (not an image)" in caplog.text


@pytest.mark.parametrize(
    ("split", "part"),
    [({"valid": [1, 8]}, "twice"), ({"valid": [8, 99]}, "image 99")],
)
def test_nonsense_in_the_split_is_refused(run, tmp_path, split, part):
    with pytest.raises(DataError) as error:
        run(flower_set(), write_flowers(tmp_path / "in", flowers(), **split))
    assert_one_sentence(error, "setid.mat", part)


def test_incomplete_or_damaged_flowers_are_refused(run, tmp_path):
    folder = write_flowers(tmp_path / "in", flowers(1, 2, 3, 4, 5, 6, 7))
    with pytest.raises(DataError) as error:
        run(flower_set(), folder)
    assert_one_sentence(error, "lacks 1", "image_00008.jpg")

    whole = write_flowers(folder, flowers()) / "102flowers.tgz"
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(DataError) as error:
        run(flower_set(), folder)
    assert_one_sentence(error, whole, "damaged")

    (folder / "setid.mat").write_bytes(b"no matrices")
    with pytest.raises(DataError) as error:
        run(flower_set(), folder)
    assert_one_sentence(error, folder / "setid.mat", "damaged")

    (folder / "setid.mat").unlink()
    with pytest.raises(DataError) as error:
        run(flower_set(), folder)
    assert_one_sentence(error, folder / "setid.mat", "noisesteps fetch")


UNSAFE = ["/etc/a.jpg", "../a.jpg", "b/../../a.jpg", "..\\a.jpg", "C:\\a.jpg"]


@pytest.mark.parametrize("name", UNSAFE)
def test_tar_members_that_lead_out_are_refused(run, tmp_path, name):
    folder = write_flowers(tmp_path / "in", {**flowers(), name: jpeg(1)})
    with pytest.raises(DataError) as error:
        run(flower_set(), folder)
    assert_one_sentence(error, repr(name), "leads out")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_tar_links_and_devices_are_refused(run, tmp_path, kind):
    folder = write_flowers(tmp_path / "in", flowers())
    with tarfile.open(folder / "102flowers.tgz", "w:gz") as archive:
        add_member(archive, "jpg/image_00001.jpg", type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError) as error:
        run(flower_set(), folder)
    assert_one_sentence(error, "image_00001.jpg", "a link or a device")


def test_a_tar_unpacks_to_a_limit_in_all(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAXIMUM_TAR_BYTES", 1 << 16)
    members = {f"jpg/other_{n}": bytes(1 << 14) for n in range(9)}
    with pytest.raises(DataError) as error:
        run(flower_set(), write_flowers(tmp_path / "in", members | flowers()))
    assert_one_sentence(error, "102flowers.tgz", "unpacks to more than")


def test_a_large_image_in_a_tar_is_rejected_unread(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAXIMUM_BYTES", 1 << 14)
    large = {"jpg/image_00002.jpg": jpeg(20) + bytes(1 << 14)}
    run(flower_set(), write_flowers(tmp_path / "in", flowers() | large))
    assert rejected(run) == {"image_00002.jpg": "larger than 64 MiB"}


# Zip archives.


def test_zip_prefix_and_labels(run, tmp_path):
    members = {
        "set/café au lait/1.jpg": jpeg(10),
        "set/café au lait/deep er/2.jpg": jpeg(20),
        "set/3.jpg": jpeg(30),
        "settle/4.jpg": jpeg(40),
        "set/.DS_Store": b"junk",
        "set/__MACOSX/5.jpg": b"junk",
    }
    folder = write_zip(tmp_path / "in", members)
    for prefix in ("set", "set/"):
        counts = run(zip_set(prefix=prefix), folder)
        assert (counts["images"], counts["classes"]) == (3, 2)
        found = dict(zip(sources(run), labels(run.folder), strict=True))
        assert found == {
            "set/café au lait/1.jpg": "café au lait",
            "set/café au lait/deep er/2.jpg": "café au lait/deep er",
            "set/3.jpg": "",
        }
    with pytest.raises(DataError) as error:
        run(zip_set(prefix="elsewhere"), folder)
    assert_one_sentence(error, "elsewhere", "datasets.stars.prefix")


@pytest.mark.parametrize("name", UNSAFE)
def test_zip_members_that_lead_out_are_refused(run, tmp_path, name):
    with pytest.raises(DataError) as error:
        run(zip_set(), write_zip(tmp_path / "in", {**GREYS, name: jpeg(1)}))
    assert_one_sentence(error, repr(name), "leads out")


def test_zip_links_are_refused(run, tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DataError) as error:
        run(zip_set(), write_zip(tmp_path / "in", {link: b"/etc/passwd"}))
    assert_one_sentence(error, "link.jpg", "a link or a device")


def test_zip_member_bombs_and_damage_are_rejected(run, tmp_path):
    zeros = {"bomb.jpg": bytes((64 << 20) + 1)}
    folder = write_zip(tmp_path / "in", {**GREYS, **zeros})
    data = bytearray((folder / "a.zip").read_bytes())
    with zipfile.ZipFile(folder / "a.zip") as archive:
        start = archive.getinfo("010.jpg").header_offset
    data[start + 60] ^= 255
    (folder / "a.zip").write_bytes(data)
    run(zip_set(), folder)
    assert rejected(run)["bomb.jpg"] == "larger than 64 MiB"
    assert "damaged in the archive" in rejected(run)["010.jpg"]
    assert len(sources(run)) == len(GREYS) - 1


def test_the_entries_of_a_zip_are_counted(run, tmp_path, monkeypatch):
    """Whatever number its end states."""
    monkeypatch.setattr(readers, "MAXIMUM_MEMBERS", 5)
    folder = write_zip(tmp_path / "in", GREYS)
    content = bytearray((folder / "a.zip").read_bytes())
    end = content.rindex(b"PK\5\6")
    content[end + 8 : end + 12] = struct.pack("<2H", 1, 1)
    (folder / "a.zip").write_bytes(content)
    with pytest.raises(DataError) as error:
        run(zip_set(), folder)
    assert_one_sentence(error, folder / "a.zip", "more than 5 files")


def test_damaged_and_repetitive_zips_are_refused(run, tmp_path):
    folder = write_zip(tmp_path / "in", GREYS)
    path = folder / "a.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError) as error:
        run(zip_set(), folder)
    assert_one_sentence(error, path, "damaged")
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "w") as archive,
    ):
        archive.writestr("a.jpg", jpeg(1))
        archive.writestr("a.jpg", jpeg(2))
    with pytest.raises(DataError) as error:
        run(zip_set(), folder)
    assert_one_sentence(error, "a.jpg")


# Parquet.


def parquet_rows(values) -> list[dict]:
    return [
        {"image": {"bytes": jpeg(v), "path": f"{v:03d}.jpg"}, "name": f"n{v % 20}"}
        for v in values
    ]


def test_parquet_files_row_groups_and_labels(run, tmp_path):
    folder = write_parquet(tmp_path / "in", parquet_rows(range(0, 100, 10)), "b.pq")
    write_parquet(folder, parquet_rows(range(100, 200, 10)), "a.pq", row_group_size=3)
    counts = run(parquet_set("b.pq", "a.pq", label_column="name"), folder)
    assert (counts["images"], counts["classes"]) == (20, 2)
    assert sources(run) == sorted(GREYS)
    np.testing.assert_allclose(
        load_images(run.folder).train[:, 0, 0, 0], range(0, 200, 10), atol=1
    )
    assert labels(run.folder) == ["n0", "n10"] * 10


@pytest.mark.parametrize("paths", [[None, None], ["same.jpg", "same.jpg"]])
def test_parquet_rows_without_names_are_numbered(run, tmp_path, paths):
    rows = [
        {"image": {"bytes": jpeg(v), "path": p}}
        for v, p in zip((1, 99), paths, strict=True)
    ]
    run(parquet_set(), write_parquet(tmp_path / "in", rows))
    assert sources(run) == ["a.parquet[0]", "a.parquet[1]"]


def test_parquet_without_a_path_field_and_with_empty_rows(run, tmp_path):
    rows = [{"image": {"bytes": jpeg(1)}}, {"image": None}, {"image": {"bytes": None}}]
    counts = run(parquet_set(), write_parquet(tmp_path / "in", rows))
    assert (counts["images"], counts["found"]) == (1, 3)
    assert set(rejected(run).values()) == {"the row holds no image"}


def test_parquet_columns_are_checked(run, tmp_path):
    folder = write_parquet(tmp_path / "in", parquet_rows([1, 50]))
    for keys, part in [
        ({"image_column": "picture"}, "datasets.stars.image_column to one of image"),
        ({"image_column": "name"}, "no {bytes, path} structure"),
        ({"label_column": "species"}, "datasets.stars.label_column"),
    ]:
        with pytest.raises(DataError) as error:
            run(parquet_set(**keys), folder)
        assert_one_sentence(error, part)
    (folder / "a.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DataError) as error:
        run(parquet_set(), folder)
    assert_one_sentence(error, folder / "a.parquet", "damaged")


def test_a_large_image_in_a_parquet_file_is_rejected_unread(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAXIMUM_BYTES", 1 << 14)
    rows = parquet_rows(range(0, 100, 10))
    rows[3]["image"]["bytes"] += bytes(1 << 14)
    run(parquet_set(), write_parquet(tmp_path / "in", rows))
    assert rejected(run) == {"030.jpg": "larger than 64 MiB"}


# Folders.


@pytest.mark.timeout(60)  # a pipe that is opened is waited for
def test_folder_labels_and_links(run, tmp_path):
    root = write_folder(
        tmp_path / "my pictures",
        {"b/1.jpg": jpeg(10), "a ö/2.PNG": jpeg(20), "3": jpeg(30), ".x/4.jpg": b""},
    )
    outside = write_folder(tmp_path / "outside", {"secret.jpg": jpeg(40)})
    (root / "out.jpg").symlink_to(outside / "secret.jpg")
    (root / "out").symlink_to(outside)
    (root / "round").symlink_to(root / "round")
    os.mkfifo(root / "fifo.jpg")
    counts = run(folder_set(root))
    assert sources(run) == ["3", "a ö/2.PNG", "b/1.jpg"]
    assert labels(run.folder) == ["", "a ö", "b"]
    assert counts["found"] == 7
    assert rejected(run) == {
        "fifo.jpg": "not a regular file",
        "out": "a link that leads out of the folder",
        "out.jpg": "a link that leads out of the folder",
        "round": "a link that leads out of the folder",
    }


def test_a_large_file_in_a_folder_is_rejected_unread(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAXIMUM_BYTES", 1 << 14)
    large = {"large.jpg": jpeg(5) + bytes(1 << 14)}
    run(folder_set(write_folder(tmp_path / "in", GREYS | large)))
    assert rejected(run) == {"large.jpg": "larger than 64 MiB"}


def test_folder_names_that_are_no_utf8(run, tmp_path):
    root = write_folder(tmp_path / "in", {"a.jpg": jpeg(10)})
    try:
        Path(os.fsdecode(bytes(root) + b"/b\xff.jpg")).write_bytes(jpeg(20))
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    run(folder_set(root))
    assert sources(run) == ["a.jpg", "b\\xff.jpg"]


def test_missing_and_empty_folders(run, tmp_path):
    with pytest.raises(DataError) as error:
        run(folder_set(tmp_path / "none"))
    assert_one_sentence(error, "datasets.stars.path", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        run(folder_set(tmp_path / "empty"))
    assert_one_sentence(error, "holds no files")


# Rejections, splits and choices, whatever the format.


def test_every_reason_is_written_down(run, tmp_path, caplog):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(file, "JPEG")
    photo = file.getvalue()
    bad = {
        "half.jpg": photo[: len(photo) // 2],
        "note.txt": b"hello",
        "tiny.jpg": jpeg(7, side=4),
        "twin.jpg": GREYS["020.jpg"],
        "void.jpg": b"",
    }
    counts = run(folder_set(write_folder(tmp_path / "in", {**GREYS, **bad})))
    reasons = rejected(run)
    twin = "020.jpg" if "twin.jpg" in reasons else "twin.jpg"
    other = ({"020.jpg", "twin.jpg"} - {twin}).pop()
    assert reasons.pop(other) == f"duplicate of {twin}"
    assert "truncated" in reasons.pop("half.jpg")
    assert reasons == {
        "note.txt": "not an image",
        "tiny.jpg": "4x4: a side is below minimum_size 8",
        "void.jpg": "not an image",
    }
    assert (counts["found"], counts["rejected"]) == (len(GREYS) + 5, 5)
    assert counts["images"] == len(GREYS)
    assert "stars is smaller by 5 rejected files" in caplog.text


def test_a_name_in_a_warning_does_not_break_its_line(run, tmp_path, caplog):
    bad = {"bad\n\x1b[31m.jpg": b"hello"}
    run(folder_set(write_folder(tmp_path / "in", {**GREYS, **bad})))
    assert r"1 rejected files: bad\n\x1b[31m.jpg (not an image)" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("bad.jpg", b"hello", "on_bad_file"),
        ("twin.jpg", GREYS["020.jpg"], "on_duplicate"),
    ],
)
def test_refusal_names_file_and_key(run, tmp_path, name, content, key):
    folder = write_folder(tmp_path / "in", {**GREYS, name: content})
    with pytest.raises(DataError) as error:
        run(folder_set(folder), None, config.Preprocess(**{key: "refuse"}))
    assert_one_sentence(error, name, "of stars", f"preprocess.{key}")
    assert not (run.folder / "images.npy").exists()


def test_duplicates_can_be_kept(run, tmp_path, caplog):
    folder = write_folder(tmp_path / "in", {**GREYS, "twin.jpg": GREYS["020.jpg"]})
    counts = run(folder_set(folder), None, config.Preprocess(on_duplicate="keep"))
    assert (counts["images"], counts["rejected"]) == (len(GREYS) + 1, 0)
    assert "keeps 1 duplicate files" in caplog.text


def test_chosen_images_depend_on_names_and_seed_alone(run, tmp_path):
    forward = write_zip(tmp_path / "forward", GREYS)
    backward = write_zip(tmp_path / "backward", dict(reversed(GREYS.items())))
    chosen = []
    for folder in (forward, backward):
        digest = run(zip_set(train=8, held_out=4), folder)["sha256"]
        chosen.append((digest, manifest(run.folder)))
    assert chosen[0] == chosen[1]
    assert len(sources(run, "train")) == 8 and len(sources(run, "held_out")) == 4
    assert len(set(sources(run))) == 12
    run(zip_set(train=8, held_out=4), forward, seed=1)
    assert sources(run) != [row["source"] for row in chosen[0][1]]


def test_held_out_images_stay_when_training_asks_for_more(run, tmp_path):
    folder = write_zip(tmp_path / "in", GREYS)
    held_out, train = [], []
    for count in (3, 9, None):
        run(zip_set(train=count, held_out=4), folder)
        held_out.append(sources(run, "held_out"))
        train.append(set(sources(run, "train")))
    assert held_out[0] == held_out[1] == held_out[2]
    assert train[0] < train[1] < train[2]
    assert len(train[2]) == len(GREYS) - 4


def test_bad_choices_are_replaced_so_that_the_count_holds(run, tmp_path):
    folder = write_zip(tmp_path / "in", GREYS)
    run(zip_set(train=8, held_out=4), folder)
    bad = [*sources(run, "train")[:2], *sources(run, "held_out")[:1]]
    good = set(sources(run)) - set(bad)
    write_zip(folder, {**GREYS, **{name: name.encode() for name in bad}})
    counts = run(zip_set(train=8, held_out=4), folder)
    assert (counts["train"], counts["held_out"], counts["rejected"]) == (8, 4, 3)
    assert good < set(sources(run))
    assert set(rejected(run)) == set(bad)


def test_only_the_chosen_are_decoded(run, tmp_path):
    members = {**GREYS, **{f"bad{n}.jpg": b"?%d" % n for n in range(50)}}
    folder = write_zip(tmp_path / "in", members)
    counts = run(zip_set(train=5), folder)
    assert counts["train"] == 5 and counts["found"] == 70
    assert len(rejected(run)) < 50


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"train": 17, "held_out": 4}, "datasets.stars.train to at most 16"),
        ({"train": 1, "held_out": 30}, "datasets.stars.held_out to at most 19"),
        ({"held_out": 30}, "datasets.stars.held_out to at most 19"),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"bad.jpg": b"?", "twin.jpg": GREYS["020.jpg"]}])
def test_too_few_images_name_the_key_to_lower(run, tmp_path, keys, part, extra):
    folder = write_zip(tmp_path / "in", {**GREYS, **extra})
    with pytest.raises(DataError) as error:
        run(zip_set(**keys), folder)
    expected = part
    if len(extra) + len(GREYS) < keys["held_out"] + (keys.get("train") or 1):
        expected = part.rsplit(" ", 1)[0]  # found before any file was decoded
    assert_one_sentence(error, "stars has 2", expected)


@pytest.mark.parametrize("held_out", [20, 3])
def test_nothing_usable_or_nothing_left_to_train_on(run, tmp_path, held_out):
    members = GREYS if held_out == 20 else dict.fromkeys("abcd", b"no")
    folder = write_zip(tmp_path / "in", members)
    with pytest.raises(DataError) as error:
        run(zip_set(held_out=held_out), folder)
    assert_one_sentence(error, "too few", "held_out")
    assert held_out == 20 or "(rejected: a: " in str(error.value)
    assert not (run.folder / "images.npy").exists()


def test_held_out_null_needs_an_official_split(run, tmp_path):
    with pytest.raises(ConfigError) as error:
        run(zip_set(held_out=None), write_zip(tmp_path / "in", GREYS))
    assert_one_sentence(error, "datasets.stars.held_out")


def test_aspect_ratios_are_noted(run, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "PNG")
    folder = write_folder(tmp_path / "in", {**GREYS, "wide.png": file.getvalue()})
    counts = run(folder_set(folder))
    assert counts["stretched"] == 1
    assert "stretched to the square" in counts["resize"]


# The array.


def test_output_is_three_whole_files(run, tmp_path):
    run(folder_set(write_folder(tmp_path / "in", GREYS), held_out=5))
    names = {"dataset.json", "images.npy", "manifest.csv", "rejected.csv"}
    assert {path.name for path in run.folder.iterdir()} == names
    rows = manifest(run.folder)
    assert [row["index"] for row in rows] == [str(n) for n in range(20)]
    assert [row["split"] for row in rows] == ["train"] * 15 + ["held_out"] * 5
    images = load_images(run.folder)
    assert not images.train.flags.writeable
    assert len(images.train) == 15 and len(images.held_out) == 5


def test_array_that_is_missing_or_of_other_size_is_refused(run, tmp_path):
    with pytest.raises(StageError) as error:
        load_images(tmp_path)
    assert_one_sentence(error, tmp_path, "dataset.json", "noisesteps preprocess")
    with pytest.raises(StageError):
        labels(tmp_path)
    counts = run(folder_set(write_folder(tmp_path / "in", GREYS)))
    for problem in ({**counts, "train": 3}, {}, []):
        (run.folder / "dataset.json").write_text(json.dumps(problem))
        with pytest.raises(StageError):
            load_images(run.folder)
