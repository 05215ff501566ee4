"""Whole files or none: every output is written beside its name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisesteps.errors import StageError

if TYPE_CHECKING:
    import numpy as np

UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO,
    errno.EACCES, errno.EPERM,
}  # fmt: skip
DIGEST = "record_sha256"  # the key under which a record holds its own checksum


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` on success.

    The temporary name keeps the suffix of `path`, since some writers choose the
    format by it. The data and the directory entry are flushed to the disk, so a
    file that exists under its final name is whole even after a power cut.
    On an exception the temporary file is removed and `path` is left as it was.

    Raises
    ------
    StageError
        If the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with writing(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn a full disk, and the like, into a sentence that names `path`.

    Errors of the network, or of other files, pass unchanged.

    Raises
    ------
    StageError
        If `path`, or its temporary name, cannot be written.
    """
    try:
        yield
    except OSError as error:
        # NumPy and Pillow raise a bare OSError, without a number, after a short write.
        bare = type(error) is OSError and error.errno is None
        places = (path, temporary, *path.parents)
        elsewhere = error.filename and Path(error.filename) not in places
        if elsewhere or not (bare or error.errno in UNWRITABLE):
            raise
        raise StageError(
            f"{path} cannot be written ({error.strerror or error}); free space or "
            "mend the folder's permissions, and run the same command again."
        ) from error


def sweep(output: Path) -> None:
    """Remove what killed processes left half written of `output`, a file or a folder.

    Only for the process that holds the lock of `output`: nobody else writes it then.
    safetensors writes to a name of its own first, such as `.tmpcNBjVZ`.
    """
    folder, stem = (output, None) if output.is_dir() else (output.parent, output.stem)
    name = re.escape(stem) if stem else r".+"
    leftover = re.compile(rf"\.{name}\.\d+\.partial(\..+)?|\.tmp\w{{6}}")
    for path in folder.glob(".*"):
        if leftover.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write an array atomically as .npy.

    Not by `numpy.save`: it leaves the last bytes in a C buffer, whose flush may fail on
    a full disk without an error (numpy 2.4). Python's own files raise one.
    """
    import numpy as np
    from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0

    array = np.ascontiguousarray(array)
    with atomic(path) as temporary, temporary.open("wb") as file:
        write_array_header_1_0(file, header_data_from_array_1_0(array))
        file.write(array.data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a record, which holds its own checksum, is compared with it.

    Raises
    ------
    ValueError
        If the file is no JSON, or a record whose values have changed, that lacks its
        checksum, or whose `provenance` or `files` are not as stages write them.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(value, dict):
        _compare(value)
    return value


def _compare(record: dict) -> None:
    """Take a record's checksum out of it, and refuse one that does not match."""
    expected = record.pop(DIGEST, None)
    if expected is None and not record.keys().isdisjoint(("files", "provenance")):
        raise ValueError("its SHA-256 is missing")  # damaged in its key, or hand-made
    if expected not in (None, digest(record)):
        raise ValueError("its SHA-256 does not match")
    if not (_has_settings(record) and _has_files(record)):
        raise ValueError("it is no record of a stage")


def _has_settings(record: dict) -> bool:
    provenance = record.get("provenance", {"settings": {}})
    return isinstance(provenance, dict) and isinstance(provenance.get("settings"), dict)


def _has_files(record: dict) -> bool:
    files = record.get("files", {})
    return isinstance(files, dict) and all(
        isinstance(file, dict) and file.keys() >= {"bytes", "sha256"}
        for file in files.values()
    )


def digest(value: Any) -> str:
    """Return the sha256 of a JSON value, whatever its spaces and the order of keys."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def checksum(path: str | Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
