"""A folder that appears whole, or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from noisesteps.errors import StageError
from noisesteps.locks import exclusive


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` on success.

    On an exception the temporary folder is removed and `path` is left as it was; what a
    killed process left is removed by the next one.

    Raises
    ------
    StageError
        If `path` is a file, or a folder with something in it.
    BusyError
        If another process writes it.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise StageError(
            f"{path} exists and is no empty folder; remove it or choose another "
            "--output."
        )
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with exclusive(target):
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
