"""Which device a stage computes on, and how many threads it takes."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from noisesteps.errors import ConfigError


def select_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ConfigError
        If the device is unknown or absent on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
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
