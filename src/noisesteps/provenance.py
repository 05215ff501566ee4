"""Where a result came from: configuration, seed, code, libraries, device, time."""

from __future__ import annotations

import hashlib
import platform
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("numpy", "pillow", "scipy", "torch", "torchvision", "torch-fidelity"),
    "ziglang",  # compiles `models.kernels`
)
PACKAGE = Path(__file__).parent
SOURCES = {".py", ".c", ".h"}


@cache
def code_digest(*parts: str) -> str:
    """Return the sha256 over the package's sources, in name order.

    Parameters
    ----------
    *parts
        Sub-packages such as `"training"` and modules such as `"data/array.py"`; none
        means the whole package. The digest identifies the code that ran, also where
        there is no version control.
    """
    named = [PACKAGE / part for part in parts] or [PACKAGE]
    digest = hashlib.sha256()
    for path in sorted(found for part in named for found in _sources(part)):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(part: Path) -> list[Path]:
    files = [part] if part.is_file() else part.rglob("*")
    return [path for path in files if path.suffix in SOURCES]


@cache
def revision() -> str | None:
    """Return the commit that the checkout stands on, or None outside of one."""
    git = PACKAGE.parents[1] / ".git"
    try:
        head, git = _head(git)
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next(line.split()[0] for line in packed if line.endswith(f" {name}"))
    except (OSError, StopIteration):
        return None


def _head(git: Path) -> tuple[str, Path]:
    """Return what HEAD holds, and the folder with the branches.

    In a worktree, `.git` is a file that names a folder with its HEAD, and that folder
    names the one that all worktrees share.
    """
    if git.is_dir():
        return (git / "HEAD").read_text().strip(), git
    own = Path(git.read_text().removeprefix("gitdir:").strip())
    shared = own / (own / "commondir").read_text().strip()
    return (own / "HEAD").read_text().strip(), shared


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape results, and of Python."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


class Provenance:
    """A clock and a record for one stage.

    Parameters
    ----------
    stage
        Name of the sub-command.
    settings
        The configuration values that the stage reads, as plain JSON values.
    """

    def __init__(self, stage: str, settings: dict[str, Any]):
        self.stage = stage
        self.settings = settings
        self.started = time.time()
        # Read now: files may be edited while a long stage runs.
        self.code = {"revision": revision(), "sha256": code_digest()}

    def record(self, device: str | None = None) -> dict[str, Any]:
        """Return the record, ready for JSON; `wall_seconds` ends now."""
        return {
            "stage": self.stage,
            "settings": self.settings,
            "code": self.code,
            "libraries": library_versions(),
            "device": device,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
        }
