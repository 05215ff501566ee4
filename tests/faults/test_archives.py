"""Archives and images that attack who reads them: refused in bounded time and memory.

Every one is read by the real `preprocess`, in a process that may use one more GiB of
memory and two minutes of processor time: one that takes what it is told to take dies.
"""

import csv
import resource
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import harness
import hostile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import DEFLATED, STORED, TEN_GB, picture, tar_header
from scipy.io import savemat

from noisesteps.config import load_study
from noisesteps.data.readers import FLOWERS_FILES

FULL = pytest.mark.faults_full
PREPARE = ("preprocess", "--dataset", "mine")
OUTPUT = harness.RESULTS / "data/mine"
BZIP2, LZMA = 12, 14
LEADING_OUT = ["../a.png", "/etc/a.png", "b/../../a.png", "..\\a.png", "C:\\a.png"]
LINK, DEVICE = stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666
GOOD = {f"{value}.png": picture(value) for value in range(30)}


@dataclass(frozen=True)
class Bounded:
    """Allow a process so much more memory, and so much time of the processor."""

    memory: int = 1 << 30
    seconds: int = 120

    def __call__(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (self.seconds, self.seconds))


def place(folder: Path, **dataset) -> Path:
    """Write the config of a data set `mine`; return the folder for its files."""
    values = {"train": 20, "held_out": 4, **dataset}
    harness.write_config(folder, datasets={"mine": values})
    archives = folder / load_study(folder / "tiny.yaml").resource_folder("mine")
    archives.mkdir(parents=True)
    return archives


def a_zip(folder: Path) -> Path:
    return place(folder, format="zip", files={"a.zip": {}}) / "a.zip"


def some_flowers(folder: Path) -> Path:
    """Place the labels and the split of a small Oxford Flowers; return its tar."""
    files = {name: {} for name in FLOWERS_FILES}
    archives = place(folder, format="oxford_flowers", files=files)
    split = {"trnid": [1, 2], "tstid": range(3, 25), "valid": range(25, 31)}
    numbers = {key: np.array(value, np.int64) for key, value in split.items()}
    savemat(archives / "setid.mat", numbers)
    savemat(archives / "imagelabels.mat", {"labels": np.ones(30, np.uint8)})
    return archives / FLOWERS_FILES[0]


def refusal(folder: Path, archive: Path, memory: int = 1 << 30) -> str:
    """Prepare the data set; insist on a refusal that names the archive."""
    before = harness.states(folder)
    message = harness.run(folder, *PREPARE, injury=Bounded(memory)).refused()
    assert str(archive.relative_to(folder)) in message
    assert "get the" in message or "fetch` again" in message
    assert harness.states(folder) == before
    return message


def rejections(folder: Path) -> dict[str, str]:
    """Prepare the data set, which is possible; return what it rejects, and why."""
    harness.run(folder, *PREPARE, injury=Bounded()).check()
    with (folder / OUTPUT / "rejected.csv").open(newline="") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


# Zip


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_zip_with_a_name_that_leads_out_is_refused(tmp_path, name):
    archive = a_zip(tmp_path)
    members = [(member, STORED, len(file), file) for member, file in GOOD.items()]
    hostile.write_zip(archive, [*members, (name, STORED, 0, b"")])
    assert f"holds {name!r}, a name that leads out" in refusal(tmp_path, archive)


@pytest.mark.parametrize("mode", [LINK, DEVICE])
def test_a_zip_with_a_link_or_a_device_is_refused(tmp_path, mode):
    archive = a_zip(tmp_path)
    member = zipfile.ZipInfo("a.png")
    member.external_attr = mode << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(member, "/etc/passwd")
    assert "holds 'a.png', which is a link or a device" in refusal(tmp_path, archive)


def test_a_zip_of_ten_gigabytes_is_refused(tmp_path):
    archive = a_zip(tmp_path)
    size = TEN_GB // 3
    packed = hostile.deflated_zeros(size)
    members = [(f"{n}.png", DEFLATED, size, packed) for n in range(3)]
    hostile.write_zip(archive, members)
    assert archive.stat().st_size < 11_000_000
    assert "unpacks to 9,999,999,999 bytes" in refusal(tmp_path, archive)


@pytest.mark.parametrize("stated", [None, pytest.param(3, marks=FULL)])
def test_a_zip_of_a_million_entries_is_refused(tmp_path, stated):
    """Also where its end states a few: then they are counted."""
    archive = a_zip(tmp_path)
    hostile.write_zip(archive, [("a", STORED, 0, b"")], copies=10**6, stated=stated)
    said = "holds 1,000,000 files" if stated is None else "more than 500,000 files"
    assert said in refusal(tmp_path, archive)


def test_a_zip_of_endless_names_is_refused(tmp_path):
    archive = a_zip(tmp_path)
    hostile.write_zip(archive, [("a" * 60_000, STORED, 0, b"")], copies=2000)
    assert "holds more than 96 MiB of names" in refusal(tmp_path, archive)


BOMBS = {
    "states 100 bytes": (DEFLATED, 100, "damaged in the archive"),
    "states 65 MiB": (DEFLATED, 65 << 20, "larger than 64 MiB"),
    "bzip2": (BZIP2, 100, "neither stored nor deflated"),
    "lzma": (LZMA, 100, "neither stored nor deflated"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_among_the_images_of_a_zip_is_rejected(tmp_path, case):
    method, stated, reason = BOMBS[case]
    archive = a_zip(tmp_path)
    members = [(member, STORED, len(file), file) for member, file in GOOD.items()]
    packed = hostile.deflated_zeros(TEN_GB if method == DEFLATED else 1)
    hostile.write_zip(archive, [*members, ("bomb.png", method, stated, packed)])
    place_all(tmp_path)
    found = rejections(tmp_path)
    assert list(found) == ["bomb.png"]
    assert reason in found["bomb.png"]


def place_all(folder: Path) -> None:
    """Take every image, so that the bad ones are examined."""
    keys = {"format": "zip", "files": {"a.zip": {}}, "train": None, "held_out": 4}
    harness.write_config(folder, datasets={"mine": keys})


KINDS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "JPEG2000")


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_images_of_huge_dimensions_are_rejected(tmp_path, side, record_property):
    archive = a_zip(tmp_path)
    files = GOOD | {f"huge.{kind}": hostile.huge(kind, side) for kind in KINDS}
    members = [(member, STORED, len(file), file) for member, file in files.items()]
    hostile.write_zip(archive, members)
    place_all(tmp_path)
    found = rejections(tmp_path)
    assert sorted(found) == sorted(f"huge.{kind}" for kind in KINDS)
    assert all("more than 64,000,000 pixels" in reason for reason in found.values())
    record_property("tried", len(KINDS))


# Tar


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_tar_with_a_name_that_leads_out_is_refused(tmp_path, name):
    archive = some_flowers(tmp_path)
    archive.write_bytes(hostile.gzipped(tar_header(name, 0), 1024))
    assert f"holds {name!r}, a name that leads out" in refusal(tmp_path, archive)


SPECIAL = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_tar_with_a_link_or_a_device_is_refused(tmp_path, kind):
    archive = some_flowers(tmp_path)
    header = tar_header("jpg/image_00001.jpg", 0, SPECIAL[kind])
    archive.write_bytes(hostile.gzipped(header, 1024))
    assert "image_00001.jpg', which is a link or a device" in refusal(tmp_path, archive)


@pytest.mark.parametrize("name", ["jpg/image_00001.jpg", "jpg/other"])
def test_a_tar_with_a_file_of_ten_gigabytes_is_refused(tmp_path, name):
    archive = some_flowers(tmp_path)
    archive.write_bytes(hostile.gzipped(tar_header(name, TEN_GB), TEN_GB))
    assert f"holds {name!r}, of 10,000,000,000 bytes" in refusal(tmp_path, archive)


def test_a_tar_with_a_name_of_ten_gigabytes_is_refused(tmp_path):
    archive = some_flowers(tmp_path)
    header = tar_header("././@LongLink", TEN_GB, tarfile.GNUTYPE_LONGNAME)
    archive.write_bytes(hostile.gzipped(header, TEN_GB))
    assert "a header of 10,000,000,000 bytes" in refusal(tmp_path, archive)


def test_a_tar_of_nothing_but_zeros_is_refused(tmp_path):
    archive = some_flowers(tmp_path)
    archive.write_bytes(hostile.gzipped(b"", TEN_GB))
    refusal(tmp_path, archive)


@FULL
def test_a_tar_that_unpacks_to_ten_gigabytes_in_all_is_refused(tmp_path):
    """Each of its files is small enough; the zeros after the first end the archive."""
    archive = some_flowers(tmp_path)
    size = 1 << 30
    member = hostile.gzipped(tar_header("jpg/other", size), size)[:-10]
    archive.write_bytes(member + member[10:] * 9)
    assert "unpacks to more than 2 GiB" in refusal(tmp_path, archive)


def test_a_tar_of_a_million_entries_is_refused(tmp_path):
    archive = some_flowers(tmp_path)
    archive.write_bytes(hostile.many_members(10**6))
    assert "holds more than 50,000 files" in refusal(tmp_path, archive)


# Tables


def test_a_variable_of_ten_million_numbers_is_refused(tmp_path):
    archive = some_flowers(tmp_path)
    archive.touch()
    labels = archive.with_name("imagelabels.mat")
    savemat(labels, {"labels": np.zeros(10**7, np.uint8)}, do_compression=True)
    assert labels.stat().st_size < 200_000
    assert "holds more than 1,000,000 numbers" in refusal(tmp_path, labels)


ARROW = 4 << 30  # Arrow reserves addresses, by the GiB, that it does not use


def a_parquet(folder: Path, rows: int, name: str) -> Path:
    """Place a parquet file that names the same image in every row, and once."""
    archives = place(folder, format="parquet", files={"a.parquet": {}})
    names = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [name])
    images = pa.StructArray.from_arrays(
        [pa.nulls(rows, pa.binary()), names], ["bytes", "path"]
    )
    table = pa.table({"image": images})
    pq.write_table(
        table, archives / "a.parquet", compression="zstd", store_schema=False
    )
    return archives / "a.parquet"


def test_a_parquet_file_of_a_million_rows_is_refused(tmp_path):
    archive = a_parquet(tmp_path, 10**6, "a")
    assert "holds more than 500,000 rows" in refusal(tmp_path, archive, ARROW)


def test_a_parquet_file_of_ten_gigabytes_of_names_is_refused(tmp_path):
    archive = a_parquet(tmp_path, 10**4, "a" * 10**6)
    assert archive.stat().st_size < 1_100_000
    assert "holds more than 96 MiB of names" in refusal(tmp_path, archive, ARROW)
