"""One process at a time for one output: a lock that ends with its holder.

The operating system releases a lock when its process ends, however it ends: nothing
has to be unlocked after a kill or a power cut.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from noisesteps.errors import BusyError
from noisesteps.files import sweep
from noisesteps.paths import StudyPaths

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(output: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of an output; remove what killed processes left of it.

    The lock is the file `.NAME.lock` beside the output. A killed process leaves it
    there, unlocked.

    Parameters
    ----------
    output
        The file or folder that is about to be written.
    wait
        Whether to wait for another process that writes it.

    Raises
    ------
    BusyError
        If another process writes it, and `wait` is false.
    """
    output = Path(output)
    path = output.with_name(f".{output.name}.lock")
    missing = [place for place in (output, *output.parents) if not place.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _acquire(path, output, wait)
    try:
        _sign(lock)
        sweep(output)
        yield
    except BaseException:
        _release(lock)
        _remove_empty(missing)
        raise
    _release(lock)


def _acquire(path: Path, output: Path, wait: bool) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise BusyError(
                f"{output} is being written by {_holder(path)}; wait for it to end, "
                "or stop it."
            ) from None
        logger.info("waiting for %s, which writes %s", _holder(path), output)
        lock.acquire()
    return lock


def _sign(lock: FileLock) -> None:
    """Say in the lock file who holds it, unless the disk is full."""
    if isinstance(lock, SoftFileLock):  # where there is no flock: the file is the lock
        return
    with suppress(OSError):
        Path(lock.lock_file).write_text(
            f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8"
        )


def _release(lock: FileLock) -> None:
    """Remove the lock's file while it is still held, so that nobody else loses his."""
    if not isinstance(lock, SoftFileLock):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _remove_empty(places: list[Path]) -> None:
    """Leave no empty folders of a stage that was refused."""
    for place in places:
        with suppress(OSError):  # something is in it, or it never was
            place.rmdir()


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if text := path.read_text().strip():
            return text
    return "another process"


def alone(output: Callable[..., Path]) -> Callable[[Callable], Callable]:
    """Decorate a stage that must not run twice at the same time.

    Parameters
    ----------
    output
        Called with the `StudyPaths` and the stage's arguments after the study; returns
        the file or folder that the stage writes.
    """

    def decorate(stage: Callable) -> Callable:
        @functools.wraps(stage)
        def locked(study: Any, *arguments: Any) -> None:
            with exclusive(output(StudyPaths(study.study), *arguments)):
                stage(study, *arguments)

        return locked

    return decorate
