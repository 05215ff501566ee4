"""How jobs run at once on this machine, and commands that are run and timed so."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from noisesteps.errors import StageError
from noisesteps.needs import gpu_threads
from noisesteps.provenance import PACKAGE

if TYPE_CHECKING:
    import torch

# What Snakemake's shell sets to a job's threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
ERROR = "noisesteps: error: "
KILLED = (-9, 137)


@dataclass(frozen=True)
class Slots:
    """What jobs share: `--cores` and `--resources gpu=` of Snakemake."""

    cores: int
    gpus: int

    @property
    def threads(self) -> int:
        """Threads of a job that computes."""
        return gpu_threads(self.cores, self.gpus)

    @property
    def jobs(self) -> int:
        """How many jobs that compute run at once."""
        return max(1, min(self.gpus, self.cores // self.threads))


def free_cores() -> int:
    """Count the cores that this process may use, as `snakemake --cores all` does."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def job_device(name: str) -> torch.device:
    """Return the kind of device that jobs get, without claiming one from them.

    Raises
    ------
    ConfigError
        If the device is unknown or absent on this machine.
    """
    import torch

    from noisesteps import devices

    if name == "auto" and torch.cuda.is_available():
        name = "cuda:0"
    return devices.select_device(name)


@dataclass(frozen=True)
class Ran:
    """A command that ended well.

    Attributes
    ----------
    seconds
        Wall time, from the start of the process to its end.
    memory_bytes
        The most main memory that it had, or that this process had when it started
        the command: the kernel counts on from there.
    output
        What it printed.
    """

    seconds: float
    memory_bytes: int
    output: str


class TooLargeError(StageError):
    """A command ran out of memory."""


def run_together(
    commands: Sequence[Sequence[str]], folder: Path, threads: int
) -> list[Ran]:
    """Run Python commands at once, each as a job of Snakemake's would be.

    Parameters
    ----------
    commands
        Arguments of Python, such as `("-m", "noisesteps", "train", ...)`.
    folder
        The working directory.
    threads
        Threads of each command.

    Raises
    ------
    TooLargeError
        If the memory of the machine or of its GPU was too small for one of them.
    StageError
        If one of them failed otherwise.
    """
    with ThreadPoolExecutor(len(commands)) as executor:
        return list(executor.map(lambda c: _run(c, folder, threads), commands))


def _run(command: Sequence[str], folder: Path, threads: int) -> Ran:
    source = [str(PACKAGE.parent), os.getenv("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(filter(None, source)),
    }
    environment.pop("SNAKEMAKE_PROFILE", None)  # it might send jobs to a cluster
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise _failure(command, process.returncode, _text(log))
        unit = 1 if sys.platform == "darwin" else 1024
        return Ran(seconds, usage.ru_maxrss * unit, _text(output))


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")


def _failure(command: Sequence[str], status: int, log: str) -> StageError:
    lines = log.strip().splitlines() or [f"exit code {status}"]
    message = lines[-1].removeprefix(ERROR)
    if status in KILLED or "memory" in message:
        return TooLargeError(message)
    name = " ".join(command[:3]).removeprefix("-m ")
    return StageError(f"Measuring this machine failed at `{name}`: {message}")
