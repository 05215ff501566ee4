"""Each contestant in a process of its own, waiting for its turn.

A program is timed as it runs in real life: what ours asks of the C library's allocator
neither helps nor hurts its peers, and the most memory that each used is its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import click
import torch

from benchmarks.memory import peak_bytes
from benchmarks.settings import Settings
from benchmarks.timing import Work
from noisesteps.devices import keep_freed_memory

# Our program, by what a row adds to its name: on CUDA it runs compiled too. On a CPU
# compilation takes minutes and gains nothing.
OURS = {"ours": "", "compiled": ", compiled"}
BOUNDS = ("convolutions", "layers")  # contestants that do nothing else: layers.py
PROCESSES = multiprocessing.get_context("spawn")


class Contestant:
    """A work that another process does and times.

    Parameters
    ----------
    settings, contest
        What is done.
    program, precision
        Who does it, and how.
    """

    def __init__(self, settings: Settings, contest: str, program: str, precision: str):
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(
            target=_contend, args=(settings, contest, program, precision, theirs)
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
    settings: Settings, contest: str, who: Sequence[tuple[str, str]]
) -> Iterator[dict[tuple[str, str], Contestant]]:
    """Yield the contestants by (program, precision); all are gone afterwards.

    One whose process ends before it has done its work once is left out, and named.
    """
    with ExitStack() as stack:
        found = {}
        for program, precision in who:
            try:
                one = Contestant(settings, contest, program, precision)
                stack.callback(one.abandon)
                one.seconds(1)
            except EOFError:
                click.echo(f"{contest}: {program} in {precision} failed; left out.")
            else:
                found[program, precision] = one
        yield found


def _contend(
    settings: Settings, contest: str, program: str, precision: str, pipe: Connection
) -> None:
    """Do the work as often as the pipe says, until it says 0."""
    torch.set_num_threads(settings.threads)
    if program in (*OURS, *BOUNDS):
        keep_freed_memory()  # as every stage does
    work = make_work(settings, contest, program, precision)
    pipe.send(work.units)
    while calls := pipe.recv():
        pipe.send(_turn(work, calls))
    pipe.send(peak_bytes(settings.on))


def _turn(work: Work, calls: int) -> float:
    """Time a turn; on CUDA the others have the memory until the next one.

    All but weights, inputs and, of a compiled network, the graphs' own.
    """
    if work.device.type != "cuda":
        return work.seconds(calls)
    work.call()  # takes the memory again
    seconds = work.seconds(calls)
    torch.cuda.empty_cache()
    return seconds


def make_work(settings: Settings, contest: str, program: str, precision: str) -> Work:
    """Prepare a contestant's work in this process."""
    from benchmarks.networks import contests

    return contests(settings)[contest].makers[program](precision)
