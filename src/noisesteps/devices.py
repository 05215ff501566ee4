"""Which device a stage computes on, and how many threads it takes."""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import os
import platform
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from noisesteps.errors import ConfigError

log = logging.getLogger(__name__)
# What a config calls a precision, and autocast a type.
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# mallopt(3) of glibc.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 1 << 30
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
    the processes of one user apart. Where all are taken, the one that the fewest hold
    is shared, with a warning.

    Parameters
    ----------
    devices
        How many devices are visible.
    folder
        Where the lock files lie; None is the system's folder for temporary files.
    """
    folder = folder or Path(tempfile.gettempdir())
    names = list(enumerate(_device_names(devices)))
    holders, number = next(
        (holders, number)
        for holders in itertools.count()
        for number, name in names
        if _lock(folder / f"noisesteps-{os.getuid()}-{name}.{holders}.lock")
    )
    if holders:
        log.warning(
            "Every GPU is in use by another noisesteps process; sharing number %d.",
            number,
        )
    return number


def _device_names(devices: int) -> list[str]:
    """Name the visible devices, in their order, alike in all processes of a machine.

    SLURM's list comes first: where it confines a job to its devices, every job counts
    them from 0.
    """
    for variable in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"):
        names = [name.strip() for name in os.environ.get(variable, "").split(",")]
        if len(names) == devices and all(names):
            return [f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}" for name in names]
    return [f"gpu-{number}" for number in range(devices)]


def _lock(path: Path) -> bool:
    """Hold a lock file until this process ends; False if another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    _claimed.append(lock)
    return True


def set_threads(threads: int | None) -> None:
    """Limit PyTorch's own threads to `threads` (None leaves them as they are)."""
    if threads is not None:
        torch.set_num_threads(threads)


def concurrent_calls(parts: int) -> int:
    """Return how many parts of so many `in_parallel` works on at once.

    As many as PyTorch's threads can be divided among evenly.
    """
    threads = torch.get_num_threads()
    return max(n for n in range(1, min(parts, threads) + 1) if threads % n == 0)


def in_parallel(
    function: Callable[[torch.Tensor], torch.Tensor], parts: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Call `function` with each part, several at once, on equal shares of the threads.

    That is faster than operators on all threads, one after another: parts need not
    wait for each other where an operator runs on one thread, or ends. The function may
    be called in other threads, where PyTorch's modes, such as inference mode, are not
    set. When this ends, be it by an error, no call is under way.
    """
    count = concurrent_calls(len(parts))
    if count == 1:
        return [function(part) for part in parts]
    pool = _callers(count, torch.get_num_threads() // count)
    calls = [pool.submit(function, part) for part in parts]
    try:
        return [call.result() for call in calls]
    finally:
        for call in calls:
            call.cancel()
        wait(calls)


@functools.cache
def _callers(count: int, share: int) -> ThreadPoolExecutor:
    """Return threads on which PyTorch's operators take so many threads each.

    They stay, since PyTorch keeps what it prepared for each.
    """
    threads, everybody = torch.get_num_threads(), threading.Barrier(count)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets what is the default
        torch.set_num_threads(share)
        everybody.wait()

    pool = ThreadPoolExecutor(count)
    wait([pool.submit(begin) for _ in range(count)])
    torch.set_num_threads(threads)
    return pool


def memory_format(
    device: torch.device, dtype: torch.dtype, *, training: bool
) -> torch.memory_format:
    """Return the layout of images and weights in which a U-Net is fastest.

    Matrix units want the channels of a pixel side by side in 16 bits, and so do our own
    kernels for a CPU (`models.kernels`). Without those, what convolutions gain from it
    in training is lost again in group normalisation and its gradient.
    """
    if device.type == "cuda":
        last = dtype is not torch.float32
    else:
        last = device.type == "cpu" and (
            not training or (dtype is not torch.float16 and has_avx2())
        )
    return torch.channels_last if last else torch.contiguous_format


def has_avx2() -> bool:
    """Whether PyTorch's kernels use vectors of 256 bits or more on an x86 CPU."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def warn_if_slow(device: torch.device, precision: str, key: str) -> None:
    """Say so where a CPU computes a precision of 16 bits slower than fp32.

    That is fp16, and bf16 where the CPU has no instructions for it: PyTorch then
    multiplies 15 to 50 times slower than in fp32.

    Parameters
    ----------
    device
        Where to compute; others than a CPU are not judged.
    precision
        `fp16`, `bf16` or `fp32`.
    key
        The configuration's key, for the warning.
    """
    if device.type != "cpu" or precision == "fp32":
        return
    faster = ["fp32", "bf16"] if multiplies_bf16() else ["fp32"]
    if precision not in faster:
        log.warning(
            "%s %s is slow on this CPU; choose %s.", key, precision, " or ".join(faster)
        )


def multiplies_bf16() -> bool:
    """Whether PyTorch has fast kernels for bf16 on this CPU."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def compile_for_device(network: torch.nn.Module, key: str) -> None:
    """Have `torch.compile` translate a network when it is first called.

    Its parameters keep their names, and its results their value to rounding. PyTorch
    caches what it compiled below the system's folder for temporary files, so that the
    next model of the same shape starts from there. On CUDA, a pass is recorded as one
    graph, which replaces the launches of its kernels; a result lasts until the next.

    Parameters
    ----------
    network
        Called with a few batch sizes only: each is compiled by itself.
    key
        The configuration's key, for the error.

    Raises
    ------
    ConfigError
        If there is no C++ compiler on this machine.
    """
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if not any(shutil.which(name) for name in compilers if name):
        raise ConfigError(
            f"{key} needs a C++ compiler, and there is none; install g++ or set "
            f"{key}: false."
        )
    network.compile(dynamic=False, mode="reduce-overhead")


def keep_freed_memory() -> None:
    """Let the C library keep memory that PyTorch frees, for the next tensors.

    glibc gives blocks above 128 KiB back to the system at once, which then has to
    clear every page again when the next layer asks for them: up to half of a CPU's
    time. Other C libraries have no `mallopt` and are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


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
