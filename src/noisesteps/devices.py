"""Which device a stage computes on, and how many threads it takes."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from noisesteps.errors import ConfigError

log = logging.getLogger(__name__)
_claimed: list[FileLock] = []  # kept, since a lock ends with its object


def select_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ConfigError
        If the device is unknown or absent on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", claim(torch.cuda.device_count()))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} cannot be used on this machine; "
            "choose auto, cpu, cuda, cuda:N or mps."
        ) from error
    return device


def claim(devices: int, folder: Path | None = None) -> int:
    """Return the number of a GPU that no other noisesteps process has claimed.

    Snakemake counts GPUs and hands out none, so that jobs which start together would
    all take the first. A lock file for each device, held until the process ends, keeps
    them apart; where all are taken, one is shared. Numbers count within
    CUDA_VISIBLE_DEVICES, whose value is part of the lock's name.

    Parameters
    ----------
    devices
        How many devices are visible.
    folder
        Where the lock files lie; None is the system's folder for temporary files.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(n) for n in range(devices)]
    for number, name in enumerate(names[:devices]):
        lock = FileLock(
            (folder or Path(tempfile.gettempdir())) / f"noisesteps-gpu-{name}.lock",
            mode=0o666,
        )
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _claimed.append(lock)
        return number
    log.warning("Every GPU is in use by another noisesteps process; sharing one.")
    return os.getpid() % devices


def set_threads(threads: int | None) -> None:
    """Limit PyTorch's own threads to `threads` (None leaves them as they are)."""
    if threads is not None:
        torch.set_num_threads(threads)


def describe(device: torch.device) -> str:
    """Return the hardware's name, for example `NVIDIA H200` or a CPU model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return next(names, platform.machine())


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done its work, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
