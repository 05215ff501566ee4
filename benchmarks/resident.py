"""The most memory that a program in Python has had resident.

`python -m benchmarks.resident` followed by `-c CODE` or `-m MODULE ARGUMENTS ...` runs
it as Python does; the last line that it prints is the number of bytes. Only the
standard library is imported here, so that the number is the program's own.
"""

from __future__ import annotations

import resource
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def peak_bytes() -> int:
    """Return the most bytes that this process has had resident.

    Linux's `ru_maxrss` is handed on from a parent to its child, so the kernel's own
    high-water mark of the process is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        mark = next(line for line in lines if line.startswith("VmHWM"))
        return int(mark.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def most_bytes(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> int:
    """Run Python with `-c` or `-m` and what follows; return its peak in bytes.

    Raises
    ------
    RuntimeError
        If it fails, with what it printed.
    """
    command = [sys.executable, "-m", "benchmarks.resident", *arguments]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{result.stderr}")
    return int(result.stdout.split()[-1])


def main() -> None:
    kind, what, *sys.argv[1:] = sys.argv[1:]
    try:
        if kind == "-c":
            exec(what, {"__name__": "__main__"})
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    print(peak_bytes())


if __name__ == "__main__":
    main()
