"""Whole files, their checksums, and one process at a time for an output."""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesteps import provenance
from noisesteps.errors import BusyError, StageError
from noisesteps.files import atomic, read_json, sweep, write_array, writing
from noisesteps.locks import exclusive
from noisesteps.records import verify, write_record

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=8,
).filter(lambda value: "Infinity" not in json.dumps(value))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(24.0).reshape(4, 6).T[::2],
        np.zeros((0, 3), np.float32),
        np.float64(3.5),
    ],
    ids=["plain", "strided", "empty", "scalar"],
)
def test_an_array_is_written_as_numpy_writes_it(tmp_path, array):
    write_array(tmp_path / "a.npy", array)
    theirs = io.BytesIO()
    np.save(theirs, np.atleast_1d(np.ascontiguousarray(array)))
    assert (tmp_path / "a.npy").read_bytes() == theirs.getvalue()


@settings(deadline=None)
@given(value=VALUES)
def test_a_record_is_read_back_as_json_has_it(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("record") / "r.json"
    write_record(path, {"value": value, "pair": (1, 2)})
    assert read_json(path) == json.loads(json.dumps({"value": value, "pair": [1, 2]}))


def test_a_changed_record_is_refused_and_spaces_are_not(tmp_path):
    path = tmp_path / "r.json"
    write_record(path, {"value": 1.5})
    text = path.read_text()
    path.write_text(text.replace("\n", "\n\n"))
    assert read_json(path) == {"value": 1.5}
    path.write_text(text.replace("1.5", "1.6"))
    with pytest.raises(ValueError, match="SHA-256"):
        read_json(path)


def test_a_record_of_files_without_its_checksum_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    write_record(tmp_path / "a.json", {"a": 1}, "a.txt")
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("record_sha256", "record_sha257"))
    with pytest.raises(ValueError, match="SHA-256 is missing"):
        read_json(tmp_path / "a.json")


def test_a_file_is_compared_with_its_record(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"whole")
    write_record(tmp_path / "r.json", {}, "a.bin")
    record = read_json(tmp_path / "r.json")
    assert verify(tmp_path, "a.bin", record, "sample") == tmp_path / "a.bin"
    (tmp_path / "a.bin").write_bytes(b"Whole")
    with pytest.raises(StageError, match=r"a\.bin is damaged \(its SHA-256 is not"):
        verify(tmp_path, "a.bin", record, "sample")
    (tmp_path / "a.bin").write_bytes(b"whol")
    with pytest.raises(StageError, match=r"\(4 bytes instead of 5\)"):
        verify(tmp_path, "a.bin", record, "sample")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(StageError, match="is missing; run `noisesteps sample`"):
        verify(tmp_path, "a.bin", record, "sample")
    assert verify(tmp_path, "other", record, "sample") == tmp_path / "other"


def test_errors_of_other_files_and_of_the_network_pass(tmp_path):
    with pytest.raises(ConnectionResetError), atomic(tmp_path / "a"):
        raise ConnectionResetError(104, "reset")
    with pytest.raises(PermissionError), writing(tmp_path / "a"):
        raise PermissionError(13, "denied", "/elsewhere/b")
    with (
        pytest.raises(StageError, match="a cannot be written"),
        writing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_data_reach_the_disk_before_their_name_does(tmp_path, monkeypatch):
    """A power cut cannot be had in a test: the order of the flushes can be seen."""
    flushed, path = [], tmp_path / "a"

    def fsync(descriptor):
        flushed.append((os.fstat(descriptor).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(path) as temporary:
        temporary.write_text("whole")
    data, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert flushed == [(data, False), (folder, True)]


def test_only_leftovers_are_swept(tmp_path):
    kept = [".git", "a.npy", ".a.lock", ".b.12.partial.csv/x", ".tmpfiles", "x.partial"]
    swept = [".a.123.partial.npy", ".b.9.partial", ".tmpcNBjVZ"]
    for name in kept + swept:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    sweep(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert left - {".b.12.partial.csv"} == set(kept)


def test_of_a_file_only_its_own_leftovers_are_swept(tmp_path):
    for name in (".a.1.partial.csv", ".b.1.partial.csv", ".a.1.partial.svg"):
        (tmp_path / name).write_bytes(b"")
    sweep(tmp_path / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == [".b.1.partial.csv"]


def test_a_lock_names_its_holder_and_leaves_no_file(tmp_path):
    output = tmp_path / "new" / "output"
    with exclusive(output):
        holder = rf"by process {os.getpid()} on "
        with pytest.raises(BusyError, match=holder), exclusive(output):
            pytest.fail("locked twice")
        assert output.with_name(".output.lock").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
    with exclusive(output):
        pass


def test_a_lock_that_cannot_be_signed_is_held(tmp_path, monkeypatch):
    """On a full disk there is no room to say whose it is."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with exclusive(tmp_path / "output"):
        by = "by another process"
        with pytest.raises(BusyError, match=by), exclusive(tmp_path / "output"):
            pytest.fail("locked twice")


def test_a_failure_under_a_lock_leaves_no_new_folders(tmp_path):
    with pytest.raises(StageError), exclusive(tmp_path / "new" / "output"):
        raise StageError("no")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StageError), exclusive(tmp_path / "new" / "output"):
        Path(tmp_path, "new", "kept").touch()
        raise StageError("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "kept"]


def test_the_revision_is_gits_in_a_checkout_and_in_a_worktree(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path / "checkout"), *name, *words],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    (tmp_path / "checkout").mkdir()
    git("init", "--quiet", "--initial-branch", "trunk")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "other"))
    git("worktree", "add", "--quiet", "--detach", str(tmp_path / "detached"))
    git("commit", "--quiet", "--allow-empty", "--message", "second")
    git("pack-refs", "--all")
    first, second = git("rev-parse", "HEAD~1"), git("rev-parse", "HEAD")
    expected = {"checkout": second, "other": first, "detached": first, "none": None}
    for place, commit in expected.items():
        monkeypatch.setattr(provenance, "PACKAGE", tmp_path / place / "src/noisesteps")
        assert provenance.revision.__wrapped__() == commit
