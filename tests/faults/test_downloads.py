"""Servers that break, stall, lie and never end, against the real `fetch`.

Refused or made good by a retry, nothing is left that looks like the file; and when the
server has recovered, the same command finishes.
"""

import threading
import time
from dataclasses import dataclass, replace

import harness
import pytest

from file_server import CONTENT, SHA256, answer, answer_range, serving
from noisesteps.config import load_study

FETCH = ("fetch", "--source", "mine")
HALF = len(CONTENT) // 2
LARGEST = 4 * len(CONTENT)


@dataclass(frozen=True)
class Impatient:
    """Wait for a server a fraction of the time, and take smaller files only."""

    def __call__(self) -> None:
        from noisesteps.data import download

        patience = replace(
            download.Patience(),
            **{"attempts": 3, "timeout": 0.5, "wait": 0.01, "largest": LARGEST},
        )
        download.Patience = lambda: patience


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def folder(server, tmp_path):
    """Return a study with a data set that is to be had from the server."""
    files = {"a.bin": {"url": f"{server.url}/a.bin", "sha256": SHA256}}
    return study_with(tmp_path, files)


def study_with(folder, files):
    dataset = {"format": "zip", "files": files, "train": 20, "held_out": 4}
    return harness.write_config(folder, datasets={"mine": dataset})


def place(folder):
    return folder / load_study(folder / "tiny.yaml").resource_folder("mine")


# How a server behaves, to be made good by trying again.


def breaks_once(handler, attempt):
    if attempt == 1:
        answer(handler, body=CONTENT[:HALF], length=len(CONTENT))
    else:
        answer_range(handler)


def stalls_once(handler, attempt):
    if attempt == 1:
        stalls(handler, attempt)
    else:
        answer_range(handler)


def is_busy_once(handler, attempt):
    answer(handler, 503, b"") if attempt == 1 else answer_range(handler)


def sends_garbage_after_a_break(handler, attempt):
    match attempt:
        case 1:
            answer(handler, body=CONTENT[:HALF], length=len(CONTENT))
        case 2:
            span = f"bytes {HALF}-{len(CONTENT) - 1}/{len(CONTENT)}"
            answer(handler, 206, bytes(len(CONTENT) - HALF), Content_Range=span)
        case _:
            answer_range(handler)


# How it behaves for ever.


def breaks(handler, attempt):
    """Break the transfer after a tenth of the file, wherever it goes on."""
    start = (attempt - 1) * len(CONTENT) // 10
    span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    body = CONTENT[start : start + len(CONTENT) // 10]
    code, keys = (206, {"Content_Range": span}) if start else (200, {})
    answer(handler, code, body, length=len(CONTENT) - start, **keys)


def stalls(handler, attempt):
    answer(handler, body=CONTENT[:100], length=len(CONTENT))
    handler.wfile.flush()
    time.sleep(2)


def trickles(handler, attempt):
    answer(handler, body=b"", length=len(CONTENT))
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            handler.wfile.write(b"a")
        except OSError:
            return
        time.sleep(0.1)


def redirects_to_a_page(handler, attempt):
    if handler.path == "/a.bin":
        answer(handler, 302, b"", Location="/login")
    else:
        answer(handler, body=b"<!doctype html>Log in", Content_Type="text/html")


def redirects_in_a_circle(handler, attempt):
    answer(handler, 302, b"", Location="/a.bin")


def redirects_to_a_file(handler, attempt):
    answer(handler, 302, b"", Location="file:///etc/passwd")


def sends_another_file(handler, attempt):
    answer(handler, body=CONTENT[:-1] + b"?")


def sends_less(handler, attempt):
    answer(handler, body=CONTENT[:-1])


def states_an_endless_length(handler, attempt):
    answer(handler, body=b"a", length=10**15)


def sends_endless_bytes(handler, attempt):
    handler.send_response(200)
    handler.end_headers()
    send_for_ever(handler, lambda: b"a" * 65536)


def sends_endless_chunks(handler, attempt):
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    send_for_ever(handler, lambda: b"10000\r\n" + b"a" * 65536 + b"\r\n")


def send_for_ever(handler, piece):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            handler.wfile.write(piece())
        except OSError:
            return


def is_not_there(handler, attempt):
    answer(handler, 404, b"no")


def is_busy(handler, attempt):
    answer(handler, 503, b"")


MADE_GOOD = (breaks_once, stalls_once, is_busy_once, sends_garbage_after_a_break)
REFUSED = {
    breaks: "the connection broke;",
    stalls: "the server stopped answering",
    trickles: "the server sends too slowly",
    redirects_to_a_page: "the server sent a web page instead of the file",
    redirects_in_a_circle: "cannot be fetched",
    redirects_to_a_file: "cannot be fetched",
    sends_another_file: f"but {SHA256} is expected",
    sends_less: f"but {SHA256} is expected",
    states_an_endless_length: f"the server sends more than {LARGEST:,} bytes",
    sends_endless_bytes: f"the server sends more than {LARGEST:,} bytes",
    sends_endless_chunks: f"the server sends more than {LARGEST:,} bytes",
    is_not_there: "the server answered HTTP 404",
    is_busy: "the server answered HTTP 503",
}


@pytest.mark.parametrize("behaviour", MADE_GOOD, ids=lambda f: f.__name__)
def test_a_download_goes_on_after_a_failure(server, folder, behaviour):
    server.behaviour = behaviour
    ended = harness.run(folder, *FETCH, injury=Impatient()).check()
    assert "trying again" in ended.output
    assert (place(folder) / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", REFUSED, ids=lambda f: f.__name__)
def test_a_download_that_cannot_be_had_leaves_nothing(server, folder, behaviour):
    server.behaviour = behaviour
    message = harness.run(folder, *FETCH, injury=Impatient()).refused()
    assert message.startswith("a.bin of mine cannot be fetched: ")
    assert REFUSED[behaviour] in message
    assert f"get it from {server.url}/a.bin" in message
    assert "put it at resources/mine/" in message
    # A part may stay, under a name that nothing reads, where it can be continued.
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"tiny.yaml", "a.bin.part"}
    assert sum(path.stat().st_size for path in left) < LARGEST + len(CONTENT)

    server.behaviour = answer_range
    harness.run(folder, *FETCH).check()
    assert (place(folder) / "a.bin").read_bytes() == CONTENT
    assert not (place(folder) / "a.bin.part").exists()


def test_a_killed_download_goes_on(server, folder):
    reached = threading.Event()

    def half(handler, attempt):
        answer(handler, body=CONTENT[:HALF], length=len(CONTENT))
        handler.wfile.flush()
        reached.set()
        time.sleep(5)

    server.behaviour = half
    process = harness.start(folder, *FETCH)
    part = place(folder) / "a.bin.part"
    harness.wait_until(
        lambda: reached.is_set() and part.exists() and part.stat().st_size > 0, process
    )
    process.kill()
    harness.end(process)
    assert not (place(folder) / "a.bin").exists()
    server.behaviour = answer_range
    harness.run(folder, *FETCH).check()
    assert (place(folder) / "a.bin").read_bytes() == CONTENT
    assert server.ranges[-1].startswith("bytes=")


def pages_as_octets(handler, attempt):
    page = b"\xef\xbb\xbf<!-- log in --><head></head>"
    answer(handler, body=page, Content_Type="application/octet-stream")


def empties(handler, attempt):
    answer(handler, body=b"")


def excuses(handler, attempt):
    answer(handler, body=b'{"error": "quota"}', Content_Type="application/json")


@pytest.mark.parametrize(
    "behaviour", [pages_as_octets, empties, excuses], ids=lambda f: f.__name__
)
def test_without_a_checksum_the_format_decides(server, tmp_path, behaviour):
    folder = study_with(tmp_path, {"a.zip": {"url": f"{server.url}/a.zip"}})
    server.behaviour = behaviour
    message = harness.run(folder, *FETCH, injury=Impatient()).refused()
    assert message.startswith("a.zip of mine cannot be fetched: the server sent ")
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"tiny.yaml"}
    server.behaviour = lambda handler, _: answer(handler, body=b"PK\3\4" + CONTENT)
    harness.run(folder, *FETCH).check()
    # It begins as a zip and is none: both files have to go, or the record stays.
    message = harness.run(folder, "preprocess", "--dataset", "mine").refused()
    assert "a.zip is damaged" in message
    assert "/a.zip.sha256 and run `noisesteps fetch` again" in message


def test_a_file_changed_after_its_download_is_refused(server, folder):
    harness.run(folder, *FETCH).check()
    harness.flip(place(folder) / "a.bin", 1000)
    for command in (FETCH, ("preprocess", "--dataset", "mine")):
        message = harness.run(folder, *command).refused()
        assert "a.bin" in message
        assert "sha256" in message.lower().replace("-", "")
