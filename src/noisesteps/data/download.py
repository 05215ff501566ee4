"""Put the files of a distribution in place, each with its checksum verified."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from noisesteps.config import Distribution, is_address
from noisesteps.data.kinds import Kind, kind_of, other_than
from noisesteps.errors import DataError
from noisesteps.files import atomic, checksum, write_text

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

PIECE = 1 << 20  # bytes read at a time
LINE_INTERVAL = 15.0  # seconds between progress lines where there is no terminal
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long a transfer may stall, and how often it is tried.

    Attributes
    ----------
    attempts
        Transfers tried before giving up; each goes on where the last one broke off.
    timeout
        Seconds without a byte after which a transfer counts as broken.
    wait
        Seconds before the second attempt; doubled for each further one, up to 60.
    slowest
        Bytes a second, over `timeout` seconds, below which a transfer counts as broken.
    largest
        Bytes of a file beyond which a transfer is given up: the largest that a study
        has asked for, 16 GB of faces, four times over.
    """

    attempts: int = 5
    timeout: float = 30.0
    wait: float = 1.0
    slowest: float = 1000.0
    largest: int = 64 << 30


class _InterruptedError(Exception):
    """A transfer broke off in a way that may not happen again."""


@dataclass(frozen=True)
class _Item:
    """One file to put in place, where it comes from and how it is recognised."""

    source: str
    path: Path
    address: str | None
    algorithm: str
    published: str | None
    hint: str | None
    kind: Kind | None
    recorded: str | None = None

    @property
    def expected(self) -> str | None:
        return self.published or self.recorded

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def record(self) -> Path:
        return first_use_record(self.path)

    def unobtainable(self, reason: str) -> DataError:
        """Say in one sentence what a person has to do to get the file."""
        origin = f"get it from {self.address}" if self.address else "get it by hand"
        hint = f" ({self.hint.strip().rstrip('.')})" if self.hint else ""
        return DataError(
            f"{self.path.name} of {self.source} cannot be fetched: {reason}; "
            f"{origin}{hint}, put it at {self.path} and run again."
        )


def first_use_record(path: Path) -> Path:
    """Name the file beside `path` that keeps the SHA-256 nobody published."""
    return path.with_name(path.name + ".sha256")


def fetch(
    distribution: Distribution,
    source: str,
    folder: Path,
    patience: Patience | None = None,
) -> dict[str, dict]:
    """Put every file of a distribution in `folder`, verified.

    A file that is there already, whoever put it there, is accepted if its checksum
    is right. Otherwise it comes from the mirror, where the distribution has one, or
    from its canonical address. Where no checksum is published, the SHA-256 that
    Hugging Face sends is used; failing that, the file has to begin as its format
    does. The SHA-256 of the first file is recorded beside it (`NAME.sha256`) and any
    later file has to match, also after the first was removed: whoever wants another
    file deletes the record too, which the refusal names.

    Parameters
    ----------
    distribution
        The files, their addresses and checksums.
    source
        Name of the data set or extractor, for messages.
    folder
        Where the files go; made if need be.
    patience
        Timeouts and repetitions of a download.

    Returns
    -------
    dict
        `{file name: {"sha256", "bytes", "origin"}}`.

    Raises
    ------
    DataError
        If a file cannot be had, has a wrong checksum or, where none is known, is not
        of its format. A file that was there before is never changed or removed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return {
            name: _obtain(
                _item(distribution, source, name, folder), patience or Patience()
            )
            for name in distribution.files
        }
    except OSError as error:
        problem = error.strerror or error
        raise DataError(
            f"the files of {source} cannot be put in {folder} ({problem}); make room "
            "or permit writing there."
        ) from error


def _item(distribution: Distribution, source: str, name: str, folder: Path) -> _Item:
    """Gather what is known about one file."""
    remote, mirror = distribution.files[name], distribution.mirror
    address, algorithm, published = remote.url, "sha256", remote.sha256
    if mirror:
        address, published = _join(mirror.location, name), mirror.sha256[name]
    elif published is None and remote.md5:
        algorithm, published = "md5", remote.md5
    hint, kind = distribution.hint, kind_of(distribution, name)
    item = _Item(source, folder / name, address, algorithm, published, hint, kind)
    if published or not item.record.exists():
        return item
    return replace(item, recorded=_recorded(item))


def _join(location: str, name: str) -> str:
    if is_address(location):
        return f"{location.rstrip('/')}/{quote(name)}"
    return str(Path(location, name))


def _recorded(item: _Item) -> str:
    """Read the checksum that was recorded on first use."""
    digest = item.record.read_text(encoding="utf-8", errors="replace").split(" ")[0]
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DataError(
            f"{item.record} holds no SHA-256; delete it to have it made again."
        )
    return digest


def _obtain(item: _Item, patience: Patience) -> dict:
    """Put one file in place and describe it."""
    vouched = None
    if item.path.exists():
        origin = "already in place"
        _verify_in_place(item)
    elif item.address is None:
        raise item.unobtainable("it has no public address")
    else:
        origin = item.address
        logger.info("%s: getting %s from %s", item.source, item.path.name, origin)
        if is_address(origin):
            vouched = _download(item, patience)
        else:
            _copy(item)
    sha256 = checksum(item.path)
    if item.expected is None:
        _record_first_use(item, sha256, vouched)
    return {"sha256": sha256, "bytes": item.path.stat().st_size, "origin": origin}


def _verify_in_place(item: _Item) -> None:
    if not item.path.is_file():
        raise DataError(f"{item.path} is not a file; remove it and run again.")
    if item.expected is None:
        if other := other_than(item.kind, item.path):
            origin = f" from {item.address}" if item.address else ""
            raise DataError(
                f"{item.path} is {other}; replace it with the file{origin} and run "
                "again."
            )
        return
    found = checksum(item.path, item.algorithm)
    if found == item.expected:
        return
    remedy = f"remove it or replace it with the file from {item.address}"
    if item.recorded:
        remedy = f"put the former file back, or delete {item.record} to accept this one"
    raise _mismatch(item, found, str(item.path), remedy)


def _mismatch(item: _Item, found: str, what: str, remedy: str) -> DataError:
    origin = f"recorded in {item.record}" if item.recorded else "expected"
    return DataError(
        f"{what} has {item.algorithm} {found}, but {item.expected} is {origin}; "
        f"{remedy}."
    )


def _record_first_use(item: _Item, sha256: str, vouched: str | None) -> None:
    """Record a SHA-256 that nobody published, with a warning if nobody sent it."""
    write_text(item.record, f"{sha256}  {item.path.name}\n")
    if vouched:
        return
    logger.warning(
        "%s: no checksum of %s is published; its SHA-256 is now recorded in %s, and a "
        "different file will be refused",
        item.source,
        item.path.name,
        item.record,
    )


def _copy(item: _Item) -> None:
    """Copy a file from a mirror folder; the copy is what is verified."""
    import shutil

    origin = Path(item.address)
    if not origin.is_file():
        raise item.unobtainable(f"the mirror has no file {origin}")
    with atomic(item.path) as temporary:
        shutil.copyfile(origin, temporary)
        found = checksum(temporary)
        if found != item.expected:
            raise _mismatch(item, found, str(origin), "mend the mirror or its sha256")


def _download(item: _Item, patience: Patience) -> str | None:
    """Download a file, going on after interruptions.

    Returns the SHA-256 that the server sent with it, if any.
    """
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_InterruptedError),
        stop=tenacity.stop_after_attempt(patience.attempts),
        wait=tenacity.wait_exponential(multiplier=patience.wait, max=60),
        before_sleep=lambda state: logger.warning(
            "%s: %s; trying again", item.path.name, state.outcome.exception()
        ),
        reraise=True,
    )
    try:
        return retrying(_transfer, item, patience)
    except _InterruptedError as error:
        raise item.unobtainable(str(error)) from error


def _transfer(item: _Item, patience: Patience) -> str | None:
    """Make one attempt: receive, verify, and only then give the file its name."""
    import requests
    from urllib3.exceptions import HTTPError

    # Without a checksum two versions could be joined unnoticed: then start afresh.
    resumable = item.expected is not None and item.part.exists()
    offset = item.part.stat().st_size if resumable else 0
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        with requests.get(
            item.address, headers=headers, stream=True, timeout=patience.timeout
        ) as response:
            whole = offset and response.status_code == 416 and _is_whole(item)
            if not whole:
                offset = _check_response(item, response, offset)
                _receive(item, response, offset, patience)
            linked = _linked_sha256(response)
    except (requests.RequestException, HTTPError) as error:
        raise _InterruptedError(_reason(error)) from error
    _verify_download(item, linked, resumed=offset > 0)
    with atomic(item.path) as temporary:
        item.part.replace(temporary)
    return linked


def _is_whole(item: _Item) -> bool:
    """Tell whether the partial file lacked nothing but its name."""
    return checksum(item.part, item.algorithm) == item.expected


def _check_response(item: _Item, response: requests.Response, offset: int) -> int:
    """Refuse what is not the file; return the offset that its bytes start at."""
    status = response.status_code
    if status in TRANSIENT_STATUS:
        raise _InterruptedError(f"the server answered HTTP {status}")
    if status == 416:
        item.part.unlink(missing_ok=True)
        raise _InterruptedError("the server cannot continue the partial file")
    if status not in (200, 206):
        raise item.unobtainable(f"the server answered HTTP {status}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise item.unobtainable("the server sent a web page instead of the file")
    if status == 200:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        item.part.unlink(missing_ok=True)
        raise _InterruptedError("the server continued at a wrong position")
    return offset


def _receive(
    item: _Item, response: requests.Response, offset: int, patience: Patience
) -> None:
    """Append the body to the partial file, from `offset` on."""
    length = response.headers.get("Content-Length", "")
    total = offset + int(length) if length.isdigit() else None
    _refuse_endless(item, total or 0, patience)
    with (
        item.part.open("r+b" if offset else "wb") as file,
        _Progress(item.path.name, offset, total) as progress,
    ):
        file.seek(offset)
        for piece in _pieces(response, patience):
            _refuse_endless(item, file.tell() + len(piece), patience)
            file.write(piece)
            progress.add(len(piece))
    if total is not None and item.part.stat().st_size < total:
        received = item.part.stat().st_size
        raise _InterruptedError(
            f"the connection ended after {received:,} of {total:,} bytes"
        )


def _refuse_endless(item: _Item, size: int, patience: Patience) -> None:
    """Give up on a file larger than any that is wanted; keep nothing of it."""
    if size > patience.largest:
        item.part.unlink(missing_ok=True)
        raise item.unobtainable(
            f"the server sends more than {patience.largest:,} bytes"
        )


def _pieces(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    """Yield what arrives as it arrives, as long as it arrives fast enough."""
    since, received = time.monotonic(), 0
    # The bytes as sent: some servers label .tgz as an encoding, which requests undoes.
    while piece := response.raw.read1(PIECE, decode_content=False):
        received += len(piece)
        if (seconds := time.monotonic() - since) > patience.timeout:
            if received < patience.slowest * seconds:
                raise _InterruptedError("the server sends too slowly")
            since, received = time.monotonic(), 0
        yield piece


def _linked_sha256(response: requests.Response) -> str | None:
    """Return the SHA-256 that Hugging Face sends with a large file, if any."""
    for answer in (*response.history, response):
        digest = answer.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", digest):
            return digest
    return None


def _verify_download(item: _Item, linked: str | None, resumed: bool) -> None:
    """Remove the partial file and complain if it is not the one wanted."""
    algorithm = item.algorithm if item.expected else "sha256"
    expected = item.expected or linked
    found = checksum(item.part, algorithm) if expected else None
    # Where a checksum decides, the content only tells what was sent instead.
    other = other_than(None if expected else item.kind, item.part)
    right = found == expected if expected else not other
    if right:
        return
    item.part.unlink()
    if resumed:
        raise _InterruptedError("the continued file has a wrong checksum")
    if other:
        raise item.unobtainable(f"the server sent {other}")
    origin = "expected"
    if item.recorded:
        origin = f"recorded in {item.record}, which you may delete to accept another"
    raise item.unobtainable(
        f"the file sent has {algorithm} {found}, but {expected} is {origin}"
    )


def _reason(error: Exception) -> str:
    """Name a network failure briefly: the library's own text spans lines."""
    import requests
    from urllib3.exceptions import ProtocolError, ReadTimeoutError

    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return "the server stopped answering"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | ProtocolError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return f"the connection broke ({type(error).__name__})"


class _Progress:
    """A bar on a terminal, a line now and then in a log."""

    def __init__(self, name: str, done: int, total: int | None):
        from tqdm import tqdm

        self.name, self.done, self.total = name, done, total
        self.spoken = time.monotonic()
        self.bar = tqdm(
            desc=name,
            initial=done,
            total=total,
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, size: int) -> None:
        self.done += size
        self.bar.update(size)
        if self.bar.disable and time.monotonic() - self.spoken > LINE_INTERVAL:
            self.spoken = time.monotonic()
            total = f" of {self.total / 1e6:,.0f}" if self.total else ""
            logger.info("%s: %s%s MB", self.name, f"{self.done / 1e6:,.0f}", total)
