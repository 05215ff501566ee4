"""GPUs that are not there: what each job is told to use, on a machine without any.

`interpreter(folder)` makes an environment on top of the running one. Its Python tells
the stages that it has GPUs, notes the device that a stage was told to use as one line
of JSON in `$TOLD`, and computes on the CPU. Only torch's count of devices is pretended;
`$PRETENDED_GPUS` says how many the machine has, and CUDA_VISIBLE_DEVICES hides some, as
it does in CUDA. A stage goes on once `$AT_ONCE` of them were told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

SITE = """
import sys
if "noisesteps" in sys.orig_argv:
    sys.path.insert(0, {tests!r})
    import pretended_gpus
    pretended_gpus.pretend()
"""


def interpreter(folder: Path) -> Path:
    """Make the environment in `folder`; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    names = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", names))
    below = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (packages / "below.pth").write_text(below)
    tests = str(Path(__file__).parent)
    (packages / "sitecustomize.py").write_text(SITE.format(tests=tests))
    return python


def visible() -> int:
    """Count the devices that CUDA would show."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = int(os.environ.get("PRETENDED_GPUS", "0"))
    return count if shown is None else len([n for n in shown.split(",") if n])


def pretend() -> None:
    """Let `select_device` find GPUs, note its answer, and hand out the CPU."""
    import torch

    from noisesteps import devices

    real_select, real_cuda = devices.select_device, torch.cuda.is_available

    def select(name: str = "auto") -> torch.device:
        torch.cuda.is_available = lambda: visible() > 0
        torch.cuda.device_count = visible
        try:
            device = real_select(name)
        finally:
            torch.cuda.is_available = real_cuda
        note(device=str(device))
        meet(int(os.environ.get("AT_ONCE", "1")))
        return torch.device("cpu")

    devices.select_device = select


def note(**values: str) -> None:
    """Append a line to `$TOLD`, in one write, since jobs run at the same time."""
    line = {
        "arguments": sys.argv[1:],
        "process": os.getpid(),
        "time": time.time(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        **values,
    }
    file = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with os.fdopen(file, "wb") as stream:
        stream.write(json.dumps(line).encode() + b"\n")


def meet(others: int) -> None:
    """Wait until as many stages were told; they hold their devices meanwhile."""
    end = time.monotonic() + 240
    while len(told(Path(os.environ["TOLD"]))) < others:
        if time.monotonic() > end:
            raise TimeoutError(f"{others} stages did not run at the same time")
        time.sleep(0.05)


def told(path: Path) -> list[dict]:
    """Read the lines back."""
    return [json.loads(line) for line in path.read_text().splitlines()]
