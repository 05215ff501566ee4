"""The JSON record of a stage: it says that the stage is done, and what it left.

A record holds the SHA-256 of every file that it stands for, and of itself. Whoever
reads such a file compares it first: a truncated file, a flipped byte or a file of
another run is named, and never used.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from noisesteps.errors import StageError
from noisesteps.files import DIGEST, checksum, digest, read_json, write_json


def write_record(path: str | Path, record: dict[str, Any], *names: str) -> None:
    """Write a stage's record, which has to be its last file.

    Parameters
    ----------
    path
        The JSON file.
    record
        Its values; `files` is added to them: bytes and sha256 by file name.
    *names
        The files that the record stands for, relative to its folder. None leaves the
        `files` of `record` as they are.
    """
    folder = Path(path).parent
    if names:
        record = record | {"files": {name: _describe(folder / name) for name in names}}
    # As they will be read: tuples become lists, and all keys strings.
    values = json.loads(json.dumps(record, allow_nan=False))
    write_json(path, values | {DIGEST: digest(values)})


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def load_record(path: str | Path, stage: str, *names: str) -> dict[str, Any]:
    """Return the record that a stage wrote.

    Parameters
    ----------
    path
        The JSON file.
    stage
        The sub-command that wrote it, for the message.
    *names
        Keys that it has to have.

    Raises
    ------
    StageError
        If the record is missing, is damaged or lacks a key.
    """
    try:
        record = read_json(path)
        if not isinstance(record, dict):
            raise ValueError("it is no record")
        if missing := [name for name in names if name not in record]:
            raise ValueError(f"it lacks the key {missing[0]!r}")
        return record
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; run `noisesteps {stage}` first."
        ) from None
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path} is damaged ({error}); remove it and run `noisesteps {stage}` "
            "again."
        ) from error


def recorded(path: Path, record: str, stage: str) -> Path:
    """Return the path of a file that is the one its record was written for.

    Parameters
    ----------
    path
        The file.
    record
        Name of the JSON record beside it.
    stage
        The sub-command that writes both, for the message.

    Raises
    ------
    StageError
        If one of them is missing or damaged.
    """
    if not path.is_file():
        raise StageError(f"{path} is missing; run `noisesteps {stage}` first.")
    values = load_record(path.with_name(record), stage)
    return verify(path.parent, path.name, values, stage)


def verify(folder: str | Path, name: str, record: dict[str, Any], stage: str) -> Path:
    """Return the path of a file that is the one its record was written for.

    A record without checksums vouches for nothing, and nothing is compared.

    Parameters
    ----------
    folder
        Where the record lies.
    name
        The file, relative to `folder`.
    record
        The record of the stage that wrote the file.
    stage
        Name of that stage, for the message.

    Raises
    ------
    StageError
        If the file is missing, or has changed since.
    """
    path = Path(folder, name)
    expected = record.get("files", {}).get(name)
    if expected is None:
        return path
    if not path.is_file():
        raise StageError(f"{path} is missing; run `noisesteps {stage}` again.")
    if problem := _difference(path, expected):
        raise StageError(
            f"{path} is damaged ({problem}); remove it and run `noisesteps {stage}` "
            "again."
        )
    return path


def _difference(path: Path, expected: dict[str, Any]) -> str | None:
    """Say how a file differs from the recorded one; its size costs nothing to ask."""
    status = path.stat()
    if status.st_size != expected["bytes"]:
        return f"{status.st_size:,} bytes instead of {expected['bytes']:,}"
    if _checksum(path, status.st_ino, status.st_mtime_ns) != expected["sha256"]:
        return "its SHA-256 is not the recorded one"
    return None


@cache
def _checksum(path: Path, inode: int, modified: int) -> str:
    """Return the sha256 of a file, read once in a process unless it changes."""
    return checksum(path)
