"""A row of the result: one work of ours, one peer, both times."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import Settings
from benchmarks.timing import Measured, compare
from noisesteps.devices import describe


@dataclass(frozen=True)
class Row:
    """One comparison. What a row does not have is None.

    Attributes
    ----------
    name
        Names the row for the comparison with an earlier result.
    work, peer
        What was timed, and beside what.
    own_peer
        Whether the peer is ours too, so that a lower ratio may be a faster peer.
    ours_s, peer_s
        Seconds of one unit of the work: medians over the rounds.
    ratio
        `peer_s` / `ours_s`, or what `goal_text` says where no time is compared.
    goal
        The least `ratio` that is wanted.
    goal_share
        The least `ours_share` that is wanted besides.
    goal_text
        The goal as it was set.
    ratio_low, ratio_high
        Quartiles of the rounds' own ratios.
    ratio_convolutions, ratio_layers
        The ratio if all but the convolutions took no time, or all but the layers and
        the optimiser.
    ours_share, peer_share
        Part of the matrix-multiply peak of the same precision and threads that was
        reached, from PyTorch's count of operations.
    ours_bytes, peer_bytes
        Most memory: held by PyTorch on CUDA, resident in a process of its own on the
        CPU.
    kind, device, threads, rounds, torch
        What it was measured on; `kind` is `cpu` or `cuda`.
    note
        What else there is to say.
    """

    name: str
    work: str
    peer: str | None = None
    own_peer: bool = False
    ours_s: float | None = None
    peer_s: float | None = None
    ratio: float | None = None
    goal: float | None = None
    goal_share: float | None = None
    goal_text: str = ""
    ratio_low: float | None = None
    ratio_high: float | None = None
    ratio_convolutions: float | None = None
    ratio_layers: float | None = None
    ours_share: float | None = None
    peer_share: float | None = None
    ours_bytes: int | None = None
    peer_bytes: int | None = None
    kind: str = ""
    device: str = ""
    threads: int = 0
    rounds: int = 0
    torch: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None or self.ratio is None:
            return None
        if self.goal_share and (self.ours_share or 0) < self.goal_share:
            return False
        return self.ratio >= self.goal

    @property
    def thread_count(self) -> str:
        """The number of threads, in words."""
        return "1 thread" if self.threads == 1 else f"{self.threads} threads"

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells the row from all others of one result."""
        return self.name, self.device, self.threads

    def values(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self) | {"met": self.met}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Row:
        """Read what `values` returned."""
        return cls(**{key: value for key, value in values.items() if key != "met"})


def make_row(
    settings: Settings,
    name: str,
    work: str,
    peer: str | None = None,
    compared: tuple[Measured, Measured] | None = None,
    **values: Any,
) -> Row:
    """Return a row with what it was measured on filled in.

    `compared` is what ours and the peer took.
    """
    found = _compared(*compared) if compared else {}
    return Row(
        name,
        work,
        peer,
        kind=settings.on.type,
        device=device_name(settings),
        threads=settings.threads,
        rounds=settings.rounds,
        torch=torch.__version__,
        **found | values,
    )


def _compared(ours: Measured, peer: Measured) -> dict[str, Any]:
    """Return the times, the ratio and the memory of a row."""
    times = asdict(compare(ours.seconds, peer.seconds))
    return times | {"ours_bytes": ours.most_bytes, "peer_bytes": peer.most_bytes}


def three_digits(value: float) -> str:
    """Return a number with three digits, or all before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def device_name(settings: Settings) -> str:
    """Return the hardware's name; of a CPU, with its family and PyTorch's vectors.

    Virtual machines call several generations by one name. The threads have their own
    column.
    """
    if settings.on.type != "cpu":
        return describe(settings.on)
    name = describe(settings.on).rsplit(",", 1)[0] or platform.machine()
    return f"{name} ({_family()}{torch.backends.cpu.get_cpu_capability()})"


def _family() -> str:
    """Return the family that an x86 processor says it is of, where Linux tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(r"^cpu family\s*: (\d+)$", text, re.MULTILINE)
    return f"family {found[1]}, " if found else ""
