"""The groups of rows that `--rows` names, and where each is measured."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import Row
from benchmarks.settings import Settings


@dataclass(frozen=True)
class Later:
    """A function of a module below `benchmarks` that is imported when called.

    Whoever calls is spared the libraries of the others, which take seconds to import;
    and it can be called in another process.
    """

    module: str
    function: str

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        found = importlib.import_module(f"benchmarks.{self.module}")
        return getattr(found, self.function)(*arguments, **keywords)


@dataclass(frozen=True)
class Group:
    """Rows that are measured together.

    Attributes
    ----------
    module, function
        What measures them, below `benchmarks`; imported when its turn comes.
    devices
        Kinds of device on which they are measured.
    each_threads
        Whether they are measured for each number of threads, or for the largest only.
    """

    module: str
    function: str
    devices: tuple[str, ...] = ("cpu",)
    each_threads: bool = True

    def measure(self, settings: Settings) -> list[Row]:
        return Later(self.module, self.function)(settings)


GROUPS = {
    "peak": Group("peak", "measure", ("cpu", "cuda")),
    "training": Group("networks", "training", ("cpu", "cuda")),
    "sampling": Group("networks", "sampling", ("cpu", "cuda")),
    "growth": Group("growth", "measure", ("cpu", "cuda")),
    "feeding": Group("feeding", "feeding", ("cpu", "cuda")),
    "frechet": Group("frechet", "measure"),
    "preprocessing": Group("feeding", "preprocessing", each_threads=False),
    "startup": Group("startup", "measure", each_threads=False),
    "memory": Group("memory", "of_stages", each_threads=False),
    "memory-cuda": Group("networks", "memory", ("cuda",)),
}
