"""The clock: everybody in turn, several rounds, medians and their spread."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from noisesteps.devices import synchronize

WARM_UP = 3  # calls before the clock runs: caches, plans of kernels, compilation
MOST_CALLS = 10_000  # in one turn


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
    """

    call: Callable[[], object]
    units: int = 1
    after: Callable[[], object] = lambda: None


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
    works: Mapping[str, Work], rounds: int, device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Let all works take turns; return the seconds of one unit, round by round.

    Every other round goes backwards, so that nobody always runs after the same one.
    Python's garbage is collected between the turns and never within one.

    Parameters
    ----------
    works
        By name; each is warmed up before the first round.
    rounds
        Turns of each.
    device
        Waited for before the clock is read.
    seconds
        A turn repeats its call until about so much time has passed.
    """
    calls = {name: _calls(work, device, seconds) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        order = list(works) if number % 2 == 0 else list(reversed(works))
        for name in order:
            elapsed = _time(works[name], calls[name], device)
            works[name].after()
            times[name].append(elapsed / (calls[name] * works[name].units))
    return times


def _calls(work: Work, device: torch.device, seconds: float) -> int:
    """Warm up, and find how many calls fill a turn."""
    for _ in range(WARM_UP - 1):
        work.call()
    once = max(_time(work, 1, device), 1e-9)
    work.after()
    return min(max(1, round(seconds / once)), MOST_CALLS)


def _time(work: Work, calls: int, device: torch.device) -> float:
    gc.collect()
    gc.disable()
    try:
        synchronize(device)
        began = time.perf_counter()
        for _ in range(calls):
            work.call()
        synchronize(device)
        return time.perf_counter() - began
    finally:
        gc.enable()


def best(times: list[float]) -> float:
    """Return the shortest: what the machine can do when nothing disturbs it."""
    return min(times, default=math.nan)
