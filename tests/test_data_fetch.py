"""Fetching, against a server on this machine that misbehaves in known ways."""

from __future__ import annotations

import functools
import logging
import threading
from types import SimpleNamespace

import pytest

from file_server import CONTENT, MD5, OTHER, SHA256, answer, answer_range, serving
from noisesteps.config import (
    Distribution,
    Mirror,
    OxfordFlowers,
    Parquet,
    RemoteFile,
    ZipArchive,
)
from noisesteps.data import fetch
from noisesteps.data.download import Patience
from noisesteps.errors import DataError

QUICK = Patience(attempts=3, timeout=0.5, wait=0.01)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def get(server, tmp_path):
    """Fetch `a.bin` of the server into a folder, quickly."""

    def run(mirror=None, hint=None, **remote):
        file = RemoteFile(**{"url": f"{server.url}/a.bin", **remote})
        distribution = Distribution(files={"a.bin": file}, mirror=mirror, hint=hint)
        return fetch(distribution, "stars", tmp_path / "in", QUICK)

    return run


def assert_one_sentence(error: pytest.ExceptionInfo, *parts: str):
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text
    for part in parts:
        assert str(part) in text


def assert_nothing_left(folder):
    assert [path.name for path in folder.iterdir()] == []


@pytest.mark.parametrize("published", [{"sha256": SHA256}, {"md5": MD5}])
def test_download_is_verified_and_described(get, server, tmp_path, published):
    record = get(**published)
    origin = f"{server.url}/a.bin"
    assert record == {
        "a.bin": {"sha256": SHA256, "bytes": len(CONTENT), "origin": origin}
    }
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.bin"]


def test_file_in_place_is_accepted_without_the_network(get, server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin").write_bytes(CONTENT)
    assert get(sha256=SHA256)["a.bin"]["origin"] == "already in place"
    assert get(url=None, md5=MD5)["a.bin"]["sha256"] == SHA256
    assert server.ranges == []


def test_wrong_file_in_place_is_refused_and_left_alone(get, server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin").write_bytes(b"other")
    with pytest.raises(DataError) as error:
        get(sha256=SHA256)
    assert_one_sentence(error, SHA256, OTHER, tmp_path / "in/a.bin", server.url)
    assert (tmp_path / "in/a.bin").read_bytes() == b"other"
    assert server.ranges == []


def test_broken_transfer_goes_on_where_it_broke(get, server, tmp_path):
    half = len(CONTENT) // 2

    def behaviour(handler, attempt):
        if attempt == 1:
            answer(handler, body=CONTENT[:half], length=len(CONTENT))
        else:
            answer_range(handler)

    server.behaviour = behaviour
    get(sha256=SHA256)
    assert server.ranges == [None, f"bytes={half}-"]
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def test_partial_file_of_an_earlier_run_is_continued(get, server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin.part").write_bytes(CONTENT[:1000])
    get(sha256=SHA256)
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        pytest.param(CONTENT, 1, id="complete but for its name"),
        pytest.param(CONTENT + b"more", 2, id="too long"),
        pytest.param(b"bad" + CONTENT[3:1000], 2, id="of another file"),
    ],
)
def test_odd_partial_files_are_overcome(get, server, tmp_path, part, requests):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin.part").write_bytes(part)
    get(sha256=SHA256)
    assert len(server.ranges) == requests
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def test_server_that_cannot_continue_sends_the_whole(get, server, tmp_path):
    server.behaviour = lambda handler, _: answer(handler)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin.part").write_bytes(b"x" * 1000)
    get(sha256=SHA256)
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def test_server_that_continues_elsewhere_is_not_trusted(get, server, tmp_path):
    def behaviour(handler, attempt):
        if attempt == 1:
            answer(handler, 206, CONTENT[5:], Content_Range="bytes 5-9/10")
        else:
            answer_range(handler)

    server.behaviour = behaviour
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin.part").write_bytes(CONTENT[:1000])
    get(sha256=SHA256)
    assert server.ranges == ["bytes=1000-", None]


def test_bytes_are_kept_as_sent_whatever_encoding_is_claimed(get, server):
    def behaviour(handler, _):
        answer(handler, Content_Encoding="x-gzip", Content_Type="application/x-tar")

    server.behaviour = behaviour
    assert get(sha256=SHA256)["a.bin"]["bytes"] == len(CONTENT)


def test_stalled_server_is_given_up(get, server, tmp_path):
    release = threading.Event()

    def behaviour(handler, _):
        answer(handler, body=CONTENT[:100], length=len(CONTENT))
        handler.wfile.flush()
        release.wait(10)

    server.behaviour = behaviour
    with pytest.raises(DataError) as error:
        get(sha256=SHA256)
    release.set()
    assert_one_sentence(error, "stopped answering", tmp_path / "in/a.bin")
    assert len(server.ranges) == QUICK.attempts
    assert not (tmp_path / "in/a.bin").exists()


def test_busy_server_is_asked_again(get, server):
    def behaviour(handler, attempt):
        answer(handler, 503, b"") if attempt < 3 else answer_range(handler)

    server.behaviour = behaviour
    assert get(sha256=SHA256)["a.bin"]["sha256"] == SHA256


def test_the_waits_double_up_to_a_minute(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    server.behaviour = lambda handler, _: answer(handler, 503, b"")
    file = RemoteFile(url=f"{server.url}/a.bin", sha256=SHA256)
    with pytest.raises(DataError):
        fetch(Distribution(files={"a.bin": file}), "s", tmp_path, Patience(attempts=9))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusal_says_what_a_person_has_to_do(get, server, tmp_path, status):
    server.behaviour = lambda handler, _: answer(handler, status, b"no")
    with pytest.raises(DataError) as error:
        get(sha256=SHA256, hint="log in at example.org and press Download.")
    assert_one_sentence(
        error,
        "a.bin of stars",
        f"HTTP {status}",
        f"{server.url}/a.bin",
        tmp_path / "in/a.bin",
        "log in at example.org and press Download",
    )
    assert len(server.ranges) == 1
    assert_nothing_left(tmp_path / "in")


def test_no_network_and_no_address(get, tmp_path):
    with pytest.raises(DataError) as error:
        get(url="http://127.0.0.1:9/a.bin", sha256=SHA256)
    assert_one_sentence(error, "cannot be reached", "http://127.0.0.1:9/a.bin")
    with pytest.raises(DataError) as error:
        get(url=None, hint="make an account at example.org")
    assert_one_sentence(error, "by hand", "make an account", tmp_path / "in/a.bin")


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/x-tar"])
@pytest.mark.parametrize("published", [{}, {"sha256": SHA256}])
def test_web_page_is_not_taken_for_the_file(get, server, tmp_path, kind, published):
    page = b"\n <!DOCTYPE html><html>Log in</html>"
    server.behaviour = lambda handler, _: answer(handler, body=page, Content_Type=kind)
    with pytest.raises(DataError) as error:
        get(**published)
    assert_one_sentence(error, "web page", server.url)
    assert_nothing_left(tmp_path / "in")


def test_web_page_that_does_not_begin_as_one_is_told_by_its_type(get, server, tmp_path):
    page = b"<!-- maintenance --><p>Come back later."
    server.behaviour = lambda handler, _: answer(
        handler, body=page, Content_Type="text/html; charset=utf-8"
    )
    with pytest.raises(DataError) as error:
        get()
    assert_one_sentence(error, "web page", server.url)
    assert_nothing_left(tmp_path / "in")


NO_FILES = {
    "a page after a BOM": b"\xef\xbb\xbf<!DOCTYPE html>",
    "a head": b"<head><title>Log in</title></head>",
    "XML": b'<?xml version="1.0"?><html/>',
    "a comment": b"<!-- maintenance --><p>Come back later.",
    "nothing": b"",
    "text": b"Too many requests.",
    "JSON": b'{"error": "quota"}',
    "half a parquet file": b"PAR1" + CONTENT,
}
FLOWERS = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
FORMATS = {
    "a.zip": (ZipArchive, {"a.zip"}, b"PK\3\4"),
    "empty.zip": (ZipArchive, {"empty.zip"}, b"PK\5\6"),
    "a.bin": (ZipArchive, {"a.bin"}, b"PK\3\4"),
    "a.parquet": (Parquet, {"a.parquet"}, b"PAR1"),
    "102flowers.tgz": (OxfordFlowers, FLOWERS, b"\x1f\x8b"),
    "imagelabels.mat": (OxfordFlowers, FLOWERS, b"MATLAB 5.0 MAT-file"),
    "weights.pth": (Distribution, {"weights.pth"}, b"PK\3\4"),
    "old.pth": (Distribution, {"old.pth"}, b"\x80\2"),
}


def without_checksums(server, name) -> Distribution:
    """Return a data set whose files have no published checksum, `name` the first."""
    kind, names, _ = FORMATS[name]
    files = {n: RemoteFile(url=f"{server.url}/{n}") for n in sorted(names)}
    keys = {
        ZipArchive: {"format": "zip"},
        Parquet: {"format": "parquet"},
        OxfordFlowers: {"format": "oxford_flowers"},
    }.get(kind, {})
    return kind(files={name: files.pop(name), **files}, **keys)


@pytest.mark.parametrize("sent", NO_FILES)
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_file_of_the_format_is_not_taken(server, tmp_path, name, sent):
    body = NO_FILES[sent]
    server.behaviour = lambda handler, _: answer(
        handler, body=body, Content_Type="application/octet-stream"
    )
    with pytest.raises(DataError) as error:
        fetch(without_checksums(server, name), "stars", tmp_path / "in", QUICK)
    assert_one_sentence(error, f"{name} of stars", "the server sent", server.url)
    assert_nothing_left(tmp_path / "in")


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_begins_as_its_format_does_is_taken(server, tmp_path, name):
    def behaviour(handler, _):
        *_, start = FORMATS.get(handler.path[1:], FORMATS["imagelabels.mat"])
        answer(handler, body=start + CONTENT + start)

    server.behaviour = behaviour
    found = fetch(without_checksums(server, name), "stars", tmp_path / "in", QUICK)
    assert name in found
    assert (tmp_path / f"in/{name}.sha256").exists()


@pytest.mark.parametrize("sent", ["a comment", "nothing"])
def test_of_an_unknown_format_pages_and_nothing_are_told(get, server, tmp_path, sent):
    server.behaviour = lambda handler, _: answer(handler, body=NO_FILES[sent])
    with pytest.raises(DataError) as error:
        get()
    assert_one_sentence(error, "the server sent", server.url)
    assert_nothing_left(tmp_path / "in")


def test_a_page_in_place_is_not_recorded_as_the_file(server, tmp_path):
    path = tmp_path / "in/a.zip"
    path.parent.mkdir()
    path.write_bytes(b"<html>Log in</html>")
    with pytest.raises(DataError) as error:
        fetch(without_checksums(server, "a.zip"), "stars", tmp_path / "in", QUICK)
    assert_one_sentence(error, f"{path} is a web page", "replace it", server.url)
    assert [found.name for found in path.parent.iterdir()] == ["a.zip"]


def test_wrong_checksum_leaves_nothing(get, server, tmp_path):
    server.behaviour = lambda handler, _: answer(handler, body=b"other")
    with pytest.raises(DataError) as error:
        get(sha256=SHA256)
    assert_one_sentence(error, SHA256, OTHER)
    assert_nothing_left(tmp_path / "in")


def test_first_use_is_recorded_and_a_later_different_file_refused(
    get, server, tmp_path, caplog
):
    file, record = tmp_path / "in/a.bin", tmp_path / "in/a.bin.sha256"
    with caplog.at_level(logging.WARNING):
        get()
    assert record.read_text() == f"{SHA256}  a.bin\n"
    assert "different file will be refused" in caplog.text
    assert get()["a.bin"]["origin"] == "already in place"

    file.write_bytes(b"other")
    with pytest.raises(DataError) as error:
        get()
    assert_one_sentence(error, SHA256, OTHER, record)

    file.unlink()
    server.behaviour = lambda handler, _: answer(handler, body=b"other")
    with pytest.raises(DataError) as error:
        get()
    assert_one_sentence(error, SHA256, OTHER, f"recorded in {record}", "may delete")
    assert not file.exists()

    record.write_text("nonsense\n")
    with pytest.raises(DataError) as error:
        get()
    assert_one_sentence(error, record, "delete it")


def test_without_a_checksum_versions_are_never_joined(get, server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bin.part").write_bytes(b"former version")
    get()
    assert server.ranges == [None]
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def hugging_face(handler, digest):
    """Redirect with the digest in the first answer, as Hugging Face does."""
    if handler.path == "/a.bin":
        answer(handler, 302, b"", Location="/store", X_Linked_Etag=f'"{digest}"')
    else:
        answer(handler)


def test_checksum_sent_by_hugging_face_is_believed(get, server, tmp_path, caplog):
    server.behaviour = lambda handler, _: hugging_face(handler, SHA256)
    with caplog.at_level(logging.WARNING):
        get()
    assert caplog.text == ""
    assert (tmp_path / "in/a.bin.sha256").read_text().startswith(SHA256)


def test_checksum_sent_by_hugging_face_is_enforced(get, server, tmp_path):
    server.behaviour = lambda handler, _: hugging_face(handler, OTHER)
    with pytest.raises(DataError) as error:
        get()
    assert_one_sentence(error, SHA256, OTHER)
    assert_nothing_left(tmp_path / "in")


def test_mirror_as_address(get, server):
    mirror = Mirror(location=f"{server.url}/mirror/", sha256={"a.bin": SHA256})
    record = get(mirror=mirror, url=None)
    assert record["a.bin"]["origin"] == f"{server.url}/mirror/a.bin"


def test_mirror_as_folder(get, tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.bin").write_bytes(CONTENT)
    make = functools.partial(Mirror, location=str(tmp_path / "mirror"))
    with pytest.raises(DataError) as error:
        get(mirror=make(sha256={"a.bin": OTHER}))
    assert_one_sentence(error, SHA256, OTHER)
    assert_nothing_left(tmp_path / "in")
    # The mirror's own checksum counts, not the one of the canonical file.
    record = get(mirror=make(sha256={"a.bin": SHA256}), sha256=OTHER)
    assert record["a.bin"]["origin"] == str(tmp_path / "mirror/a.bin")
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def test_mirror_that_lacks_the_file(get, tmp_path):
    with pytest.raises(DataError) as error:
        get(mirror=Mirror(location=str(tmp_path / "none"), sha256={"a.bin": SHA256}))
    assert_one_sentence(error, tmp_path / "none/a.bin", tmp_path / "in/a.bin")


def test_folder_that_cannot_be_made(get, tmp_path):
    (tmp_path / "in").write_text("a file")
    with pytest.raises(DataError) as error:
        get(sha256=SHA256)
    assert_one_sentence(error, tmp_path / "in", "stars")
