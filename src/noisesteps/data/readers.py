"""Where image files come from: one reader for each format of a data set.

A reader lists its candidates cheaply and hands out the bytes of those that are asked
for, one at a time. Nothing is ever extracted to the file system.
"""

from __future__ import annotations

import gzip
import lzma
import math
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from noisesteps import config
from noisesteps.data.decode import MAXIMUM_BYTES
from noisesteps.data.download import first_use_record
from noisesteps.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet

# What the decompressors of a zip member raise when its bytes are damaged.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    EOFError,
    OSError,
)
FLOWERS_FILES = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
# Methods that Python's zipfile unpacks to a limit; the others, all at once.
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OVERSIZE = f"larger than {MAXIMUM_BYTES >> 20} MiB"
# What a file may make a reader do. The largest sets of the field lie far below: a zip
# of 302,652 faces; the flowers' tar of 8,190 members, 345 MB; 9,000 butterflies.
MAXIMUM_MEMBERS = 500_000  # of a zip, and rows of a parquet file
MAXIMUM_LISTING = 96 << 20  # bytes of names and labels: they are all held in memory
MAXIMUM_ZIP_RATIO = 100  # of unpacked to packed bytes, beyond the first GiB
MAXIMUM_TAR_MEMBERS = 50_000
MAXIMUM_TAR_BYTES = 2 << 30  # unpacked; a tar is read from its beginning to its end
MAXIMUM_TAR_HEADER = 1 << 20  # bytes of a long name
MAXIMUM_NUMBERS = 1_000_000  # in a variable of a .mat file


@dataclass(frozen=True)
class Candidate:
    """A file that may become an image; `split` is the distribution's own, if any."""

    source: str
    label: str = ""
    split: str | None = None


@dataclass(frozen=True)
class Raw:
    """The bytes of a candidate, or the reason why there are none."""

    source: str
    content: bytes = b""
    reason: str = ""


class Reader(Protocol):
    """What every format offers."""

    def candidates(self) -> list[Candidate]:
        """List every file of the set, each `source` once, in any order."""

    def read(self, sources: Collection[str]) -> Iterator[Raw]:
        """Yield each of `sources` once, in the order of the storage."""


def open_reader(name: str, dataset: config.Dataset, fetched: Path | None) -> Reader:
    """Return the reader for a data set whose files are in `fetched`.

    Raises
    ------
    DataError
        If a file of the distribution is not there.
    """
    if isinstance(dataset, config.Folder):
        return FolderReader(Path(dataset.path), f"datasets.{name}.path")
    paths = [_fetched_file(name, fetched, file) for file in sorted(dataset.files)]
    if isinstance(dataset, config.OxfordFlowers):
        return FlowersReader(*(_fetched_file(name, fetched, f) for f in FLOWERS_FILES))
    if isinstance(dataset, config.Parquet):
        return ParquetReader(name, paths, dataset.image_column, dataset.label_column)
    return ZipReader(name, paths, dataset.prefix)


def _fetched_file(name: str, fetched: Path | None, file: str) -> Path:
    path = Path(fetched or ".", file)
    if not path.is_file():
        raise DataError(
            f"{path} is missing; run `noisesteps fetch --source {name}` first."
        )
    return path


def _damaged(path: Path, error: Exception) -> DataError:
    problem = " ".join(str(error).split()) or type(error).__name__
    record = first_use_record(path)
    files = f"it and {record}" if record.exists() else "it"
    return DataError(
        f"{path} is damaged ({problem}); remove {files} and run `noisesteps fetch` "
        "again."
    )


def _refuse_unsafe(archive: Path, member: str) -> None:
    """Refuse a member whose name would leave the folder it is unpacked in."""
    parts = re.split(r"[/\\]", member)
    if parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", member):
        raise DataError(
            f"{archive} holds {member!r}, a name that leads out of the archive; "
            "get the archive from a source that you trust."
        )


def _refuse_special(archive: Path, member: str) -> DataError:
    return DataError(
        f"{archive} holds {member!r}, which is a link or a device; get the archive "
        "from a source that you trust."
    )


def _too_much(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}; get the file from a source that you trust.")


def _hidden(name: str) -> bool:
    """Tell what file managers leave behind: .DS_Store, __MACOSX/..."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _folder_label(name: str) -> str:
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent


class FlowersReader:
    """Oxford 102 Flowers: a .tgz read in one streaming pass, and two .mat files.

    The usual division for this study is train = `trnid` and `tstid` (7,169 images),
    held out = `valid` (1,020).
    """

    SPLITS = (("trnid", "train"), ("tstid", "train"), ("valid", "held_out"))

    def __init__(self, archive: Path, labels: Path, split: Path):
        self.archive, self.labels, self.split = archive, labels, split

    def candidates(self) -> list[Candidate]:
        labels = self._vector(self.labels, "labels")
        found = [
            Candidate(f"image_{number:05d}.jpg", self._label(labels, number), split)
            for key, split in self.SPLITS
            for number in self._vector(self.split, key)
        ]
        twice = [name for name, n in Counter(c.source for c in found).items() if n > 1]
        if twice:
            raise DataError(f"{self.split} names {twice[0]} twice; get the file again.")
        return found

    def _label(self, labels: list[int], number: int) -> str:
        if not 1 <= number <= len(labels):
            raise DataError(
                f"{self.split} names image {number}, for which {self.labels} has no "
                "label; get both files again."
            )
        return str(labels[number - 1])

    @staticmethod
    def _vector(path: Path, key: str) -> list[int]:
        """Read a variable of a .mat file, having seen its shape before its numbers."""
        from scipy.io import loadmat, whosmat

        try:
            shapes = {name: shape for name, shape, _ in whosmat(path)}
            if math.prod(shapes.get(key, ())) > MAXIMUM_NUMBERS:
                raise _too_much(path, f"holds more than {MAXIMUM_NUMBERS:,} numbers")
            values = loadmat(path, variable_names=[key])[key]
            if values.dtype.kind not in "iu":
                raise ValueError(f"`{key}` is not made of whole numbers")
            return values.ravel().tolist()
        except DataError:
            raise
        except KeyError:
            raise DataError(f"{path} has no `{key}`; get the file again.") from None
        except Exception as error:  # a damaged .mat fails in too many ways to list
            raise _damaged(path, error) from error

    def read(self, sources: Collection[str]) -> Iterator[Raw]:
        missing = set(sources)
        for raw in self._stream(sources):
            if raw.source not in missing:
                raise DataError(f"{self.archive} holds {raw.source} twice.")
            missing.remove(raw.source)
            yield raw
        if missing:
            raise DataError(
                f"{self.archive} lacks {len(missing):,} of the images that "
                f"{self.split.name} names, {min(missing)} for one; get the file again."
            )

    def _stream(self, sources: Collection[str]) -> Iterator[Raw]:
        try:
            with (
                gzip.open(self.archive) as unpacked,
                tarfile.open(
                    fileobj=_Limited(unpacked, self.archive),
                    mode="r|",
                    tarinfo=_Member,
                ) as archive,
            ):
                for number, member in enumerate(archive, 1):
                    self._check(member, number)
                    source = PurePosixPath(member.name).name
                    if member.isreg() and source in sources:
                        yield self._extract(archive, member, source)
        except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
            raise _damaged(self.archive, error) from error

    def _check(self, member: tarfile.TarInfo, number: int) -> None:
        _refuse_unsafe(self.archive, member.name)
        if member.issparse() or not (member.isreg() or member.isdir()):
            raise _refuse_special(self.archive, member.name)
        if member.size > MAXIMUM_TAR_BYTES:  # said before it is unpacked
            raise _too_much(
                self.archive, f"holds {member.name!r}, of {member.size:,} bytes"
            )
        if number > MAXIMUM_TAR_MEMBERS:
            raise _too_much(
                self.archive, f"holds more than {MAXIMUM_TAR_MEMBERS:,} files"
            )

    @staticmethod
    def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, source: str) -> Raw:
        if member.size > MAXIMUM_BYTES:
            return Raw(source, reason=OVERSIZE)
        return Raw(source, archive.extractfile(member).read())


class _Limited:
    """Hands out what a compressed file unpacks to, up to a limit."""

    def __init__(self, unpacked: BinaryIO, path: Path):
        self.unpacked, self.path, self.left = unpacked, path, MAXIMUM_TAR_BYTES

    def read(self, size: int) -> bytes:
        piece = self.unpacked.read(size)
        self.left -= len(piece)
        if self.left < 0:
            limit = f"{MAXIMUM_TAR_BYTES >> 30} GiB"
            raise _too_much(self.path, f"unpacks to more than {limit}")
        return piece


class _Member(tarfile.TarInfo):
    """A member whose long name, which tarfile holds in memory, has a limit."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        member = super().frombuf(buf, encoding, errors)
        in_memory = member.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)
        if in_memory and member.size > MAXIMUM_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def _holds_images(kind: Any) -> bool:
    """Whether a column's type has one `bytes`, and at most one `path`, of texts."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    contents, paths = (
        [field.type for field in kind if field.name == name]
        for name in ("bytes", "path")
    )
    is_binary = contents in ([pa.binary()], [pa.large_binary()])
    return is_binary and len(paths) < 2 and all(map(_is_text, paths))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


class ParquetReader:
    """Hugging Face parquet files with an `image` column of {bytes, path}.

    A source is the row's `path` where all rows have one of their own, else
    `FILE[ROW]`.
    """

    BATCH = 64  # rows in memory at a time

    def __init__(
        self, name: str, paths: list[Path], image_column: str, label_column: str | None
    ):
        self.name, self.paths = name, paths
        self.image_column, self.label_column = image_column, label_column
        self.rows: dict[str, tuple[Path, int]] = {}

    def candidates(self) -> list[Candidate]:
        places, names, labels = [], [], []
        for path in self.paths:
            table, count = self._listing(path)
            places += [(path, row) for row in range(count)]
            names += [
                image and image["path"]
                for image in self._values(path, table, "image_column", count)
            ]
            labels += self._values(path, table, "label_column", count)
        if not all(names) or len(set(names)) < len(names):
            names = [f"{path.name}[{row}]" for path, row in places]
        self.rows = dict(zip(names, places, strict=True))
        return [
            Candidate(name, "" if label is None else str(label))
            for name, label in zip(names, labels, strict=True)
        ]

    def _listing(self, path: Path) -> tuple[Any, int]:
        """Read the paths and labels of all rows, without the images."""
        import pyarrow as pa

        with self._open(path) as file:
            schema = file.schema_arrow
            self._check_image_column(path, schema)
            columns = [f"{self.image_column}.path"]
            if self.label_column:
                self._check_label_column(path, schema)
                columns.append(self.label_column)
            if file.metadata.num_rows > MAXIMUM_MEMBERS:
                raise _too_much(path, f"holds more than {MAXIMUM_MEMBERS:,} rows")
            try:
                batches = list(self._limited(path, file, columns))
                table = pa.Table.from_batches(batches) if batches else pa.table({})
                return table, file.metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from error

    def _limited(
        self, path: Path, file: pyarrow.parquet.ParquetFile, columns: list[str]
    ) -> Iterator[Any]:
        """Yield batches as long as their texts may be held in memory."""
        held = 0
        for batch in file.iter_batches(self.BATCH, columns=columns):
            held += batch.nbytes
            if held > MAXIMUM_LISTING:
                raise _too_much(
                    path, f"holds more than {MAXIMUM_LISTING >> 20} MiB of names"
                )
            yield batch

    def _check_image_column(self, path: Path, schema: Any) -> None:
        if not _holds_images(self._column_type(path, schema, "image_column")):
            raise DataError(
                f"column {self.image_column} of {path} is no {{bytes, path}} "
                f"structure; set datasets.{self.name}.image_column to one that is."
            )

    def _check_label_column(self, path: Path, schema: Any) -> None:
        import pyarrow as pa

        if pa.types.is_nested(self._column_type(path, schema, "label_column")):
            raise DataError(
                f"column {self.label_column} of {path} holds lists or structures; set "
                f"datasets.{self.name}.label_column to one of texts or numbers."
            )

    def _column_type(self, path: Path, schema: Any, key: str) -> Any:
        column = getattr(self, key)
        if column not in schema.names:
            raise DataError(
                f"{path} has no column {column}; set datasets.{self.name}.{key} to one "
                f"of {', '.join(schema.names)}."
            )
        if schema.names.count(column) > 1:
            raise DataError(
                f"{path} has several columns {column}; rename them, so that "
                f"datasets.{self.name}.{key} names one."
            )
        return schema.field(column).type

    def _values(self, path: Path, table: Any, key: str, count: int) -> list:
        """Return a column's values; None for each row where there is no such column."""
        import pyarrow as pa

        column = getattr(self, key)
        if column is None or column not in table.column_names:
            return [None] * count
        try:
            return table.column(column).to_pylist()
        # Of texts that are not UTF-8, and of times beyond Python's.
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(
                f"column {column} of {path} holds a value that cannot be read "
                f"({error}); set datasets.{self.name}.{key} to another column, or get "
                "the file again."
            ) from error

    @staticmethod
    def _open(path: Path) -> pyarrow.parquet.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(path)
        # Also of a column's name that is not UTF-8.
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise _damaged(path, error) from error

    def read(self, sources: Collection[str]) -> Iterator[Raw]:
        wanted: dict[Path, dict[int, str]] = {path: {} for path in self.paths}
        for source in sources:
            path, row = self.rows[source]
            wanted[path][row] = source
        for path, rows in wanted.items():
            if rows:
                yield from self._read_file(path, rows)

    def _read_file(self, path: Path, rows: dict[int, str]) -> Iterator[Raw]:
        import pyarrow as pa

        with self._open(path) as file:
            try:
                for group, first in self._groups(file, rows):
                    yield from self._read_group(file, group, first, rows)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from error

    @staticmethod
    def _groups(
        file: pyarrow.parquet.ParquetFile, rows: dict[int, str]
    ) -> Iterator[tuple[int, int]]:
        """Yield the row groups that hold any of `rows`, with their first row."""
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if any(first <= row < first + count for row in rows):
                yield group, first
            first += count

    def _read_group(
        self,
        file: pyarrow.parquet.ParquetFile,
        group: int,
        row: int,
        rows: dict[int, str],
    ) -> Iterator[Raw]:
        batches = file.iter_batches(
            self.BATCH, row_groups=[group], columns=[f"{self.image_column}.bytes"]
        )
        for batch in batches:
            for image in batch.column(0):
                if row in rows:
                    yield self._raw(rows[row], image)
                row += 1

    @staticmethod
    def _raw(source: str, image: Any) -> Raw:
        content = image["bytes"] if image.is_valid else None
        if content is None or not content.is_valid:
            return Raw(source, reason="the row holds no image")
        if content.as_buffer().size > MAXIMUM_BYTES:
            return Raw(source, reason=OVERSIZE)
        return Raw(source, content.as_py())


def _refuse_long_listing(path: Path, file: BinaryIO) -> None:
    """Refuse a zip by the size of its listing, which `ZipFile` reads as a whole.

    The end of the listing is found by zipfile's own function, so that the number is
    the one that it goes by.
    """
    end = zipfile._EndRecData(file)
    if not end:
        raise zipfile.BadZipFile("File is not a zip file")
    size, members = end[zipfile._ECD_SIZE], end[zipfile._ECD_ENTRIES_TOTAL]
    if members > MAXIMUM_MEMBERS:
        raise _too_much(path, f"holds {members:,} files")
    if size > MAXIMUM_LISTING:
        raise _too_much(path, f"holds more than {MAXIMUM_LISTING >> 20} MiB of names")


class ZipReader:
    """Zip files of images; sub-folders below `prefix` are labels."""

    def __init__(self, name: str, paths: list[Path], prefix: str):
        self.name, self.paths = name, paths
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.members: dict[str, tuple[Path, zipfile.ZipInfo]] = {}

    def candidates(self) -> list[Candidate]:
        self.members = {}
        for path in self.paths:
            for member in self._listing(path):
                self._add(path, member)
        if not self.members:
            raise DataError(
                f"no file of {self.name} lies below {self.prefix or 'its archive'}; "
                f"correct datasets.{self.name}.prefix."
            )
        return [
            Candidate(source, _folder_label(source.removeprefix(self.prefix)))
            for source in self.members
        ]

    @staticmethod
    def _listing(path: Path) -> list[zipfile.ZipInfo]:
        try:
            with path.open("rb") as file:
                _refuse_long_listing(path, file)
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (*DAMAGE, ValueError, struct.error) as error:
            raise _damaged(path, error) from error
        if len(members) > MAXIMUM_MEMBERS:  # its end may have said another number
            raise _too_much(path, f"holds more than {MAXIMUM_MEMBERS:,} files")
        unpacked = sum(member.file_size for member in members)
        if unpacked > (1 << 30) + MAXIMUM_ZIP_RATIO * path.stat().st_size:
            raise _too_much(path, f"unpacks to {unpacked:,} bytes")
        return members

    def _add(self, path: Path, member: zipfile.ZipInfo) -> None:
        source = member.filename
        _refuse_unsafe(path, source)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refuse_special(path, source)
        if member.is_dir() or not source.startswith(self.prefix):
            return
        if _hidden(source.removeprefix(self.prefix)):
            return
        if source in self.members:
            raise DataError(
                f"{path} holds {source}, which {self.members[source][0]} holds "
                "already; leave one of them out."
            )
        self.members[source] = (path, member)

    def read(self, sources: Collection[str]) -> Iterator[Raw]:
        for path in self.paths:
            mine = {s for s in sources if self.members[s][0] == path}
            if mine:
                with zipfile.ZipFile(path) as archive:
                    for source in sorted(mine, key=self._position):
                        yield self._extract(archive, source)

    def _position(self, source: str) -> int:
        return self.members[source][1].header_offset

    def _extract(self, archive: zipfile.ZipFile, source: str) -> Raw:
        _, member = self.members[source]
        if member.file_size > MAXIMUM_BYTES:
            return Raw(source, reason=OVERSIZE)
        if member.compress_type not in BOUNDED:
            return Raw(source, reason="neither stored nor deflated in the archive")
        try:
            with archive.open(member) as file:
                # With a size, since without one it unpacks what there is, whatever
                # size the archive states; one byte more, so that the sum is compared.
                return Raw(source, file.read(member.file_size + 1))
        except RuntimeError:
            return Raw(source, reason="encrypted")
        except DAMAGE as error:
            return Raw(source, reason=f"damaged in the archive ({error})")


class FolderReader:
    """Any tree of image files; sub-folders are labels, links do not lead out."""

    def __init__(self, root: Path, key: str):
        self.root, self.key = root, key
        self.paths: dict[str, Path] = {}

    def candidates(self) -> list[Candidate]:
        if not self.root.is_dir():
            raise DataError(f"{self.key} {self.root} is not a folder; correct it.")
        self.paths = {self._source(path): path for path in self._walk()}
        if not self.paths:
            raise DataError(f"{self.key} {self.root} holds no files; put images there.")
        return [Candidate(source, _folder_label(source)) for source in self.paths]

    def _walk(self) -> Iterator[Path]:
        for parent, folders, files in os.walk(self.root, onerror=self._unreadable):
            links = [name for name in folders if Path(parent, name).is_symlink()]
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files + links:
                if not name.startswith("."):
                    yield Path(parent, name)

    def _unreadable(self, error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); permit reading it or "
            f"correct {self.key}."
        ) from error

    def _source(self, path: Path) -> str:
        """Name a file below the root; bytes that are not UTF-8 are escaped."""
        name = path.relative_to(self.root).as_posix()
        return os.fsencode(name).decode("utf-8", "backslashreplace")

    def read(self, sources: Collection[str]) -> Iterator[Raw]:
        for source in sorted(sources):
            yield self._read_file(source, self.paths[source])

    def _read_file(self, source: str, path: Path) -> Raw:
        if path.is_symlink() and not self._leads_inside(path):
            return Raw(source, reason="a link that leads out of the folder")
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return Raw(source, reason="not a regular file")
            if status.st_size > MAXIMUM_BYTES:
                return Raw(source, reason=OVERSIZE)
            return Raw(source, path.read_bytes())
        except OSError as error:
            return Raw(source, reason=f"cannot be read ({error.strerror})")

    def _leads_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # links that go round in a circle
            return False
