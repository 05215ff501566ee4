"""The clock: everybody in turn, several rounds, medians and their spread."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from noisesteps.devices import synchronize

Name = TypeVar("Name", bound=Hashable)
WARM_UP = 3  # calls before the clock runs: caches, plans of kernels, compilation
MOST_CALLS = 10_000  # in one turn
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """Something to time.

    Attributes
    ----------
    call
        Does the work once.
    units
        How many units a call does, such as the denoising steps of a sampler; times
        are those of one unit.
    after
        Tidies up after a turn, when the clock stands still.
    device
        Waited for before the clock is read.
    """

    call: Callable[[], object]
    units: int = 1
    after: Callable[[], object] = lambda: None
    device: torch.device = CPU

    def seconds(self, calls: int) -> float:
        """Do the work a few times; return how long that took.

        Python's garbage is collected before and never meanwhile.
        """
        gc.collect()
        gc.disable()
        try:
            synchronize(self.device)
            began = time.perf_counter()
            for _ in range(calls):
                self.call()
            synchronize(self.device)
            return time.perf_counter() - began
        finally:
            gc.enable()


class Timed(Protocol):
    """What can take turns: a `Work`, or one that another process does."""

    units: int

    def seconds(self, calls: int) -> float: ...

    def after(self) -> object: ...


@dataclass(frozen=True)
class Measured:
    """What a work took.

    Attributes
    ----------
    seconds
        Of one unit, round by round.
    most_bytes
        The most memory that its process used.
    """

    seconds: list[float]
    most_bytes: int

    @property
    def middle_s(self) -> float:
        """The median over the rounds, in seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """Two series of times, taken in turn.

    Attributes
    ----------
    ours_s, peer_s
        Medians over the rounds, in seconds.
    ratio
        `peer_s` / `ours_s`: above 1, ours is faster.
    ratio_low, ratio_high
        First and third quartile of the rounds' own ratios.
    """

    ours_s: float
    peer_s: float
    ratio: float
    ratio_low: float
    ratio_high: float


def compare(ours: list[float], peer: list[float]) -> Comparison:
    """Compare the times of the same rounds."""
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    low, high = quartiles(ratios)
    ours_s, peer_s = statistics.median(ours), statistics.median(peer)
    return Comparison(ours_s, peer_s, peer_s / ours_s, low, high)


def quartiles(values: list[float]) -> tuple[float, float]:
    """Return the first and third quartile; of one value, that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def alternate(
    works: Mapping[Name, Timed], rounds: int, seconds: float
) -> dict[Name, list[float]]:
    """Let all works take turns; return the seconds of one unit, round by round.

    Every other round goes backwards, so that nobody always runs after the same one.

    Parameters
    ----------
    works
        By name; each is warmed up before the first round.
    rounds
        Turns of each.
    seconds
        A turn repeats its call until about so much time has passed.
    """
    calls = {name: _calls(work, seconds) for name, work in works.items()}
    times: dict[Name, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        order = list(works) if number % 2 == 0 else list(reversed(works))
        for name in order:
            elapsed = works[name].seconds(calls[name])
            works[name].after()
            times[name].append(elapsed / (calls[name] * works[name].units))
    return times


def _calls(work: Timed, seconds: float) -> int:
    """Warm up, and find how many calls fill a turn."""
    for _ in range(WARM_UP - 1):
        work.seconds(1)
    once = max(work.seconds(1), 1e-9)
    work.after()
    return min(max(1, round(seconds / once)), MOST_CALLS)


def best(times: list[float]) -> float:
    """Return the shortest: what the machine can do when nothing disturbs it."""
    return min(times, default=math.nan)
