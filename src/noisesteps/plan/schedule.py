"""How long jobs take together: greedy list scheduling, as Snakemake does it."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One job, as far as a scheduler knows it.

    Attributes
    ----------
    key
        Its name, of which there is no other.
    seconds
        Wall time.
    cores, gpus
        What it holds while it runs.
    after
        The keys of the tasks that have to be done before.
    priority
        Of two tasks that could start, the higher one does. Snakemake's greedy
        scheduler prefers the job with the larger input files.
    """

    key: Hashable
    seconds: float
    cores: int = 1
    gpus: int = 0
    after: frozenset[Hashable] = frozenset()
    priority: float = 0.0


def wall_seconds(tasks: Sequence[Task], cores: int, gpus: int) -> float:
    """Return when the last task ends, if each starts as soon as it can.

    Whenever a task ends, tasks whose predecessors are done are started by priority, as
    long as one fits into the free cores and GPUs (Graham 1966).

    Parameters
    ----------
    tasks
        What a task comes after has to be among them.
    cores, gpus
        How many there are; a task that asks for more gets all of them.

    Raises
    ------
    ValueError
        If tasks wait for each other.
    """
    waiting = {task.key: set(task.after) for task in tasks}
    followers: dict[Hashable, list[Task]] = {task.key: [] for task in tasks}
    for task in tasks:
        for key in task.after:
            followers[key].append(task)
    ready = [task for task in tasks if not task.after]
    running: list[tuple[float, int, Task]] = []  # a heap, the next to end first
    free, now, started = [cores, gpus], 0.0, 0
    while ready or running:
        for task in sorted(ready, key=lambda task: -task.priority):
            if _fits(task, free, cores, gpus):
                ready.remove(task)
                heapq.heappush(running, (now + task.seconds, started, task))
                started += 1
        now, _, done = heapq.heappop(running)
        _release(done, free, cores, gpus)
        for task in followers[done.key]:
            waiting[task.key].discard(done.key)
            if not waiting[task.key]:
                ready.append(task)
    if started < len(tasks):
        raise ValueError("some tasks wait for each other")
    return now


def _fits(task: Task, free: list[int], cores: int, gpus: int) -> bool:
    """Take what a task holds, if it is there."""
    held = (min(task.cores, cores), min(task.gpus, gpus))
    if held[0] > free[0] or held[1] > free[1]:
        return False
    free[:] = [free[0] - held[0], free[1] - held[1]]
    return True


def _release(task: Task, free: list[int], cores: int, gpus: int) -> None:
    free[:] = [free[0] + min(task.cores, cores), free[1] + min(task.gpus, gpus)]


def critical_seconds(tasks: Sequence[Task]) -> float:
    """Return the length of the longest chain: no machine is faster."""
    by_key = {task.key: task for task in tasks}
    ends: dict[Hashable, float] = {}

    def end(key: Hashable) -> float:
        if key not in ends:
            before = max(map(end, by_key[key].after), default=0.0)
            ends[key] = before + by_key[key].seconds
        return ends[key]

    return max(map(end, by_key), default=0.0)
