"""Peak memory of processes."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.study import TRAIN, environment, write_study

STAGE_IMAGES = (64, 8192)
STAGE_LIMIT = 10**9


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has used.

    On CUDA what PyTorch held, its cache included; else what was resident. Linux's
    `ru_maxrss` is handed on from a parent to its child, so the kernel's own high-water
    mark of the process is read where there is one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        mark = next(line for line in lines if line.startswith("VmHWM"))
        return int(mark.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _ask(*arguments: str, folder: Path | None = None) -> int:
    """Run a hidden command of this program; its last line is the number of bytes.

    Raises
    ------
    RuntimeError
        If it fails, with what it printed.
    """
    command = [sys.executable, "-m", "benchmarks", *arguments]
    result = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{result.stderr}")
    return int(result.stdout.split()[-1])


def of_stages(settings: Settings) -> list[Row]:
    """Measure the stage `train` on a small and on a large data set.

    What counts is the memory above the array, the weights and a process that has
    imported torch.
    """
    weights = 4 * settings.network().parameter_count
    pixels = 3 * settings.image_size**2
    torch_alone = _ask("of-torch")
    return [
        _stage_row(settings, images, images * pixels + weights + torch_alone)
        for images in STAGE_IMAGES
    ]


def _stage_row(settings: Settings, images: int, given: int) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, settings, images)
        where = ("--device", settings.device, "--threads", str(settings.threads))
        used = _ask("of-command", "train", *TRAIN, *where, folder=folder)
    above = used - given
    return make_row(
        settings,
        f"memory-train-{images}",
        f"memory of `train`, {images:,} images, above array, weights and torch",
        "array, weights, `import torch`",
        ratio=STAGE_LIMIT / max(above, 1),
        goal=1.0,
        goal_text="≤ 1 GB above",
        ours_bytes=used,
        peer_bytes=given,
        note=f"{above / 1e9:.2f} GB above; the ratio is 1 GB to that",
    )


def of_command(arguments: list[str]) -> int:
    """Run a command of noisesteps in this process, and return its peak."""
    from noisesteps.cli import main

    main(arguments, standalone_mode=False)
    return peak_bytes(torch.device("cpu"))
