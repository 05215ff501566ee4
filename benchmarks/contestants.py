"""Each contestant in a process of its own, waiting for its turn.

A program is timed as it runs in real life: what ours asks of the C library's allocator
neither helps nor hurts its peers, and the most memory that each used is its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import click
import torch

from benchmarks import resident
from benchmarks.settings import Settings
from benchmarks.timing import Measured, Work, alternate
from noisesteps.devices import keep_freed_memory

PROCESSES = multiprocessing.get_context("spawn")
Name = TypeVar("Name", bound=Hashable)
# Prepares a work; called in the contestant's process, so it has to be picklable.
Make = Callable[[], Work]


def as_a_stage(make: Callable[..., Work], *arguments: Any, **keywords: Any) -> Work:
    """Prepare a work of ours in a process that is set up as every stage's is."""
    keep_freed_memory()
    return make(*arguments, **keywords)


class Contestant:
    """A work that another process does and times.

    Parameters
    ----------
    settings
        The device, and the threads.
    make
        Prepares the work there.
    """

    def __init__(self, settings: Settings, make: Make):
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(
            target=_contend, args=(settings, make, theirs)
        )
        self._process.start()
        theirs.close()  # so that its end is noticed
        self.units = self._pipe.recv()

    def seconds(self, calls: int) -> float:
        """Let the process do its work a few times; return how long that took."""
        self._pipe.send(calls)
        return self._pipe.recv()

    def after(self) -> None:
        """Leave the process as it is: nothing is left behind by a turn."""

    def dismiss(self) -> int:
        """End the process; return the most bytes of memory that it used."""
        self._pipe.send(0)
        most = self._pipe.recv()
        self._process.join()
        return most

    def abandon(self) -> None:
        """End the process, whatever it is doing."""
        self._process.terminate()


@contextmanager
def contestants(
    settings: Settings, work: str, makers: Mapping[Name, Make]
) -> Iterator[dict[Name, Contestant]]:
    """Yield the contestants by name; all are gone afterwards.

    One whose process ends before it has done its work once is left out, and named.
    """
    with ExitStack() as stack:
        found = {}
        for name, make in makers.items():
            try:
                one = Contestant(settings, make)
                stack.callback(one.abandon)
                one.seconds(1)
            except EOFError:
                who = name if isinstance(name, str) else ", ".join(map(str, name))
                click.echo(f"{work}: {who} failed; left out.")
            else:
                found[name] = one
        yield found


def take_turns(
    settings: Settings, work: str, makers: Mapping[Name, Make]
) -> dict[Name, Measured]:
    """Let contestants take turns at a work; return what each took, by name."""
    with contestants(settings, work, makers) as found:
        times = alternate(found, settings.rounds, settings.seconds)
        return {
            name: Measured(times[name], one.dismiss()) for name, one in found.items()
        }


def _contend(settings: Settings, make: Make, pipe: Connection) -> None:
    """Do the work as often as the pipe says, until it says 0."""
    torch.set_num_threads(settings.threads)
    work = make()
    pipe.send(work.units)
    while calls := pipe.recv():
        pipe.send(_turn(work, calls))
    pipe.send(_most_bytes(settings.on))


def _turn(work: Work, calls: int) -> float:
    """Time a turn, and tidy up; on CUDA the others have the memory until the next one.

    All but weights, inputs and, of a compiled network, the graphs' own.
    """
    if work.device.type == "cuda":
        work.call()  # takes the memory again
    seconds = work.seconds(calls)
    work.after()
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
    return seconds


def _most_bytes(device: torch.device) -> int:
    """Return the most memory that this process has used.

    On CUDA what PyTorch held, its cache included; else what was resident.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resident.peak_bytes()
