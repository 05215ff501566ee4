"""How long a stage takes from its process's start to its first training step."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.resident import most_bytes
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.study import TRAIN, environment, write_study
from benchmarks.timing import Measured, Work, alternate

IMAGES = 64
# So that the first update itself takes next to no time.
SMALLEST = {"preset": "tiny", "image_size": 8}
GOAL = 1 / 1.3


def measure(settings: Settings) -> list[Row]:
    """Time new processes until they have printed what says that they are there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, replace(settings, **SMALLEST), IMAGES)
        torch = ("-c", "import torch; print('ready')")
        where = ("--device", settings.device, "--threads", str(settings.threads))
        train = ("-m", "noisesteps", "train", *TRAIN, *where)
        models = folder / "results" / "benchmark" / "models"
        starts = {
            "torch": Start(folder, "ready", torch),
            "train": Start(folder, "finished", train, leaves=models),
            "help": Start(folder, "Usage", ("-m", "noisesteps", "--help")),
        }
        works = {
            name: Work(start.until_there, after=start.end)
            for name, start in starts.items()
        }
        times = alternate(works, settings.rounds, 0)
        found = {
            name: Measured(times[name], start.most_bytes())
            for name, start in starts.items()
        }
    peer = 'python -c "import torch"'
    return [
        make_row(
            settings,
            "startup",
            "start of `train`, to the end of its first update",
            peer,
            (found["train"], found["torch"]),
            goal=GOAL,
            goal_text="≤ 1.3× as long",
            note="preset tiny at 8×8; the first update and its checkpoint included",
        ),
        make_row(
            settings,
            "startup-help",
            "start of `noisesteps --help`, to its first line",
            peer,
            (found["help"], found["torch"]),
        ),
    ]


class Start:
    """Starts Python anew, and comes back once it has printed a word.

    Parameters
    ----------
    folder
        Where it runs.
    word
        What a line of its output has to hold.
    arguments
        Python's.
    leaves
        A folder that is removed when it has ended, so that it starts from nothing.
    """

    def __init__(
        self,
        folder: Path,
        word: str,
        arguments: tuple[str, ...],
        leaves: Path | None = None,
    ):
        self.folder, self.word, self.leaves = folder, word, leaves
        self.arguments = arguments
        self.processes: list[subprocess.Popen] = []

    def until_there(self) -> None:
        """Start a process and read its output up to the word.

        Raises
        ------
        RuntimeError
            If it ended without.
        """
        self.end()
        process = subprocess.Popen(
            [sys.executable, *self.arguments],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if self.word in line:
                return
        raise RuntimeError(f"python {' '.join(self.arguments)}:\n{''.join(lines)}")

    def most_bytes(self) -> int:
        """Run it once more, to its end; return the most memory it had resident."""
        self.end()
        most = most_bytes(self.arguments, self.folder, environment())
        self.end()
        return most

    def end(self) -> None:
        """Wait for what has been started, and remove what it left."""
        while self.processes:
            self.processes.pop().communicate()
        if self.leaves is not None:
            shutil.rmtree(self.leaves, ignore_errors=True)
