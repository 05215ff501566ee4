"""What a file of a data set begins with: whether it can be what its name says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from noisesteps.config import Distribution, Parquet, ZipArchive


@dataclass(frozen=True)
class Kind:
    """A file format, by the bytes at the ends of its files."""

    name: str
    starts: tuple[bytes, ...]
    end: bytes = b""


ZIP = Kind("zip file", (b"PK\3\4", b"PK\5\6"))
PARQUET = Kind("parquet file", (b"PAR1",), b"PAR1")
GZIP = Kind("gzip file", (b"\x1f\x8b",))
MATLAB = Kind("MATLAB 5 file", (b"MATLAB 5.0",))
WEIGHTS = Kind("file of PyTorch weights", (b"PK\3\4", b"\x80"))
SUFFIXES = {
    ".tgz": GZIP, ".gz": GZIP, ".mat": MATLAB, ".pt": WEIGHTS, ".pth": WEIGHTS
}  # fmt: skip
START = 512  # bytes looked at


def kind_of(distribution: Distribution, name: str) -> Kind | None:
    """Return the format of a file, by its data set's or else by its name, if known."""
    if isinstance(distribution, ZipArchive):
        return ZIP
    if isinstance(distribution, Parquet):
        return PARQUET
    return SUFFIXES.get(Path(name).suffix.lower())


def other_than(kind: Kind | None, path: Path) -> str | None:
    """Say what a file is instead of one of its kind; None: it begins as one.

    Of a kind that is not known, only an empty file and a text of markup are told.
    """
    with path.open("rb") as file:
        start = file.read(START)
        file.seek(-min(len(start), 4), os.SEEK_END)
        end = file.read()
    if not start:
        return "an empty file"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "a web page instead of the file"
    if kind and not (start.startswith(kind.starts) and end.endswith(kind.end)):
        return f"no {kind.name}"
    return None
