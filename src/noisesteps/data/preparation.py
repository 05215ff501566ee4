"""Decode, resize, check and split a data set, once, into one uint8 array."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from noisesteps import config
from noisesteps.data.array import MANIFEST_COLUMNS
from noisesteps.data.decode import RESIZE, BadImageError, decode
from noisesteps.data.readers import Candidate, Raw, Reader, open_reader
from noisesteps.data.selection import Pool, make_pools, too_few
from noisesteps.data.toys import DRAWINGS
from noisesteps.errors import DataError, printable
from noisesteps.files import atomic, checksum, write_text, writing
from noisesteps.seeds import numpy_generator

logger = logging.getLogger(__name__)

CHUNK = 32  # encoded images in memory at a time
THREADS = 4  # at most; more do not help, since reading is serial
NAMED = 5  # files that a warning names before it points to a list


@dataclass(frozen=True)
class _Row:
    """One image of the set; `place` is its position in the scratch file."""

    source: str
    sha256: str
    place: int
    stretched: bool = False
    label: str = ""
    split: str = ""


@dataclass
class _Outcome:
    """What became of the candidates."""

    found: int
    rows: list[_Row] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)


class _Scratch:
    """Decoded images in the order of their arrival, on disk, without a name."""

    def __init__(self, file: BinaryIO, image_size: int):
        self.file, self.shape, self.count = file, (3, image_size, image_size), 0

    def append(self, pixels: np.ndarray) -> int:
        self.file.write(pixels.tobytes())
        self.count += 1
        return self.count - 1

    def images(self) -> np.ndarray:
        self.file.flush()
        return np.memmap(
            self.file, dtype=np.uint8, mode="r", shape=(self.count, *self.shape)
        )


def prepare(
    name: str,
    dataset: config.Dataset,
    preprocess: config.Preprocess,
    seed: int,
    fetched: Path | None,
    output: Path,
) -> dict:
    """Make `images.npy`, `manifest.csv` and `rejected.csv` of a data set.

    `images.npy` is uint8 (N, 3, image_size, image_size), RGB: the images to train on,
    then those held out, each part sorted by source. Memory stays bounded whatever N.

    An official split is taken whole: a duplicate in it is kept with a warning unless
    `on_duplicate` is refuse, and a bad file shrinks it with a warning. Where a number
    of images is asked for, the next in the seeded order replaces a rejected one.

    Parameters
    ----------
    name
        Name of the data set; with `seed`, the key of every random choice.
    dataset, preprocess
        Sections of the study.
    seed
        The study's seed.
    fetched
        Folder with the files of the distribution; None where there are none.
    output
        Folder for the three files.

    Returns
    -------
    dict
        `name`, `images`, `train`, `held_out`, `rejected` (rows of rejected.csv),
        `found` (files of the source), `classes` (distinct labels), `image_size`,
        `resize` (the convention), `stretched` (images that were not square),
        `mean_square` (of the training images' values in [-1, 1]) and `sha256` (of
        images.npy).

    Raises
    ------
    DataError
        If files are missing, damaged or refused, or there are too few images.
    ConfigError
        If `held_out` is null for a set without an official split.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with writing(output / "images.npy"), tempfile.TemporaryFile(dir=output) as file:
        scratch = _Scratch(file, preprocess.image_size)
        if isinstance(dataset, config.Toy):
            outcome = _draw(name, dataset, seed, scratch)
        else:
            reader = open_reader(name, dataset, fetched)
            outcome = _select(name, dataset, preprocess, seed, reader, scratch)
        outcome.rows.sort(key=lambda row: (row.split != "train", row.source))
        _write(outcome, scratch, output)
    counts = _counts(name, outcome, preprocess, output)
    logger.info(
        "%s: %s images = %s to train + %s held out; %s rejected",
        name,
        *(f"{counts[key]:,}" for key in ("images", "train", "held_out", "rejected")),
    )
    if counts["held_out"] > counts["train"]:
        logger.warning(
            "%s: more images are held out than are left to train on; lower "
            "datasets.%s.held_out if that is not meant",
            name,
            name,
        )
    return counts


def _draw(name: str, dataset: config.Toy, seed: int, scratch: _Scratch) -> _Outcome:
    """Draw a toy set; drawing i depends on the seed, the names and i alone."""
    outcome = _Outcome(found=dataset.train + dataset.held_out)
    draw, label = DRAWINGS[dataset.format], dataset.format.removeprefix("toy_")
    for index in range(outcome.found):
        generator = numpy_generator(seed, "draw", dataset.format, name, index)
        pixels = draw(generator, scratch.shape[-1])
        outcome.rows.append(
            _Row(
                source=f"{dataset.format}_{index:06d}",
                sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
                place=scratch.append(pixels),
                label=label,
                split="train" if index < dataset.train else "held_out",
            )
        )
    return outcome


def _select(
    name: str,
    dataset: config.Dataset,
    preprocess: config.Preprocess,
    seed: int,
    reader: Reader,
    scratch: _Scratch,
) -> _Outcome:
    """Examine candidates until every split is full or there are none left."""
    candidates = {found.source: found for found in reader.candidates()}
    pools = make_pools(name, dataset, list(candidates.values()), seed)
    outcome = _Outcome(found=len(candidates))
    official = any(candidate.split for candidate in candidates.values())
    duplicates = _Duplicates(name, preprocess.on_duplicate, official)
    examined: dict[str, _Row | str] = {}
    while batches := [(pool, batch) for pool in pools if (batch := pool.next_batch())]:
        wanted = {source for _, batch in batches for source in batch}
        for source, result in _examine(reader, wanted, preprocess, scratch):
            if isinstance(result, str) and preprocess.on_bad_file == "refuse":
                raise _refusal(name, source, result)
            examined[source] = result
        for pool, batch in batches:
            _take(pool, batch, examined, duplicates, outcome)
    for pool in pools:
        if len(pool.taken) < pool.required:
            raise too_few(name, pool, len(pool.taken), outcome.rejected)
        outcome.rows += _rows(pool, examined, candidates)
    _warn(name, pools, outcome, duplicates)
    return outcome


def _examine(
    reader: Reader, sources: set[str], preprocess: config.Preprocess, scratch: _Scratch
) -> Iterator[tuple[str, _Row | str]]:
    """Yield each source with its row, or with the reason to reject it."""

    def attempt(raw: Raw) -> tuple:
        try:
            if raw.reason:
                raise BadImageError(raw.reason)
            return raw.source, decode(raw.content, preprocess)
        except BadImageError as error:
            return raw.source, str(error)

    threads = min(THREADS, os.cpu_count() or 1)
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as executor:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        for chunk in _chunks(reader.read(sources)):
            for source, result in executor.map(attempt, chunk):
                if not isinstance(result, str):
                    place = scratch.append(result.pixels)
                    result = _Row(source, result.sha256, place, result.stretched)
                yield source, result


def _chunks(items: Iterable[Raw]) -> Iterator[list[Raw]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


class _Duplicates:
    """Files whose bytes equal an earlier one's, and what to do with them."""

    def __init__(self, name: str, policy: str, official: bool):
        self.name, self.policy, self.official = name, policy, official
        self.first: dict[str, str] = {}
        self.kept: list[tuple[str, str]] = []

    def rejects(self, row: _Row) -> str:
        """Return the reason to reject a row, or the empty string."""
        earlier = self.first.setdefault(row.sha256, row.source)
        if earlier == row.source:
            return ""
        if self.policy == "refuse":
            raise DataError(
                f"{row.source} of {self.name} has the bytes of {earlier}; remove one, "
                "or set preprocess.on_duplicate to skip or keep."
            )
        if self.policy == "skip" and not self.official:
            return f"duplicate of {earlier}"
        self.kept.append((row.source, earlier))
        return ""


def _take(
    pool: Pool,
    batch: list[str],
    examined: dict[str, _Row | str],
    duplicates: _Duplicates,
    outcome: _Outcome,
) -> None:
    """Take the good ones of a batch, in the pool's order."""
    for source in batch:
        result = examined[source]
        reason = result if isinstance(result, str) else duplicates.rejects(result)
        if reason:
            outcome.rejected[source] = reason
        else:
            pool.taken.append(source)


def _rows(
    pool: Pool, examined: dict[str, _Row | str], candidates: dict[str, Candidate]
) -> Iterator[_Row]:
    for source, split in pool.assigned():
        row = examined[source]
        yield _Row(
            source,
            row.sha256,
            row.place,
            row.stretched,
            candidates[source].label,
            split,
        )


def _refusal(name: str, source: str, reason: str) -> DataError:
    return DataError(
        f"{source} of {name} cannot be used: {reason}; mend or remove it, or set "
        "preprocess.on_bad_file to skip."
    )


def _warn(
    name: str, pools: list[Pool], outcome: _Outcome, duplicates: _Duplicates
) -> None:
    """Speak of everything that makes a set other than its user may expect."""
    if outcome.rejected and any(pool.takes_all for pool in pools):
        logger.warning(
            "%s is smaller by %d rejected files: %s",
            name,
            len(outcome.rejected),
            _named([f"{s} ({reason})" for s, reason in outcome.rejected.items()]),
        )
    if duplicates.kept:
        split = {row.source: row.split for row in outcome.rows}
        crossing = sum(split[one] != split[other] for one, other in duplicates.kept)
        logger.warning(
            "%s keeps %d duplicate files (%s); %d of them are held out although their "
            "equal is trained on, or the reverse: scores of real images, near-copies "
            "and classifier tests leave such held-out images out",
            name,
            len(duplicates.kept),
            _named([f"{one} = {other}" for one, other in duplicates.kept]),
            crossing,
        )


def _named(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return printable(", ".join(sorted(items)[:NAMED])) + more


def _write(outcome: _Outcome, scratch: _Scratch, output: Path) -> None:
    """Write the three files, the array last."""
    entries = [
        (index, row.source, row.sha256, row.label, row.split)
        for index, row in enumerate(outcome.rows)
    ]
    _write_csv(output / "manifest.csv", MANIFEST_COLUMNS, entries)
    rejected = sorted(outcome.rejected.items())
    _write_csv(output / "rejected.csv", ("source", "reason"), rejected)
    images = scratch.images()
    shape = (len(outcome.rows), *scratch.shape)
    # Written, not mapped: on a full disk a store to mapped memory ends in SIGBUS.
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic(output / "images.npy") as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in outcome.rows:
            file.write(images[row.place].tobytes())


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _counts(
    name: str, outcome: _Outcome, preprocess: config.Preprocess, output: Path
) -> dict:
    rows = outcome.rows
    train = sum(row.split == "train" for row in rows)
    return {
        "name": name,
        "images": len(rows),
        "train": train,
        "held_out": len(rows) - train,
        "rejected": len(outcome.rejected),
        "found": outcome.found,
        "classes": len({row.label for row in rows if row.label}),
        "image_size": preprocess.image_size,
        "resize": RESIZE,
        "stretched": sum(row.stretched for row in rows),
        "mean_square": _mean_square(output / "images.npy", train),
        "sha256": checksum(output / "images.npy"),
    }


def _mean_square(path: Path, train: int) -> float:
    """Return the mean of x_0² over the training images' values in [-1, 1]."""
    images = np.load(path, mmap_mode="r", allow_pickle=False)[:train]
    counts = np.zeros(256, np.int64)
    for start in range(0, train, CHUNK):
        values = images[start : start + CHUNK].ravel()
        counts += np.bincount(values, minlength=256)
    squares = np.square(np.arange(256) / 127.5 - 1)
    return float(counts @ squares / counts.sum())
