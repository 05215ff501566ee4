"""Small real studies, and the means to injure their processes and files.

A stage runs in a process of its own, either as `python -m noisesteps` (`start`) or,
where hundreds are needed, forked off a server that has the libraries imported (`run`).
Both execute the same command line. Injuries come from outside of the code under test:
signals, the kernel's file size limit, a full file system, and Python's audit events,
which tell when a file is opened or renamed.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).parents[2]
RUN = ("--dataset", "toy_flowers", "--schedule", "linear", "--steps", "5")
OTHER_RUN = ("--dataset", "toy_butterflies", *RUN[2:])
STUDY = {
    "study": "tiny",
    "seed": 7,
    "datasets": {
        name: {"format": name, "train": 20, "held_out": 8}
        for name in ("toy_flowers", "toy_butterflies")
    },
    "preprocess": {"image_size": 8},
    "network": {"preset": "tiny"},
    "diffusion": {"schedules": ["linear"], "steps": [5]},
    "training": {
        **{"epochs": 5, "batch_size": 10, "warmup_steps": 1, "precision": "fp32"},
        **{"checkpoint_epochs": 1, "log_steps": 1, "ema_decay": 0.9},
    },
    "sampling": {"images": 6, "batch_size": 3},
    "evaluation": {"extractor": "efficientnet-lite0", "batch_size": 8},
    "classification": {
        **{"datasets": ["toy_flowers", "toy_butterflies"], "schedule": "linear"},
        **{"steps": 5, "images_per_class": 6, "architectures": ["resnet18"]},
        **{"seeds": 1, "epochs": 1, "batch_size": 8, "sets": ["mix"]},
    },
    "figures": {"grid_columns": 4, "dpi": 60},
}
RESULTS = Path("results/tiny")
PLACE = Path("toy_flowers/linear/T5")
DATA = RESULTS / "data/toy_flowers"
MODEL = RESULTS / "models" / PLACE
CHECKPOINT = RESULTS / "checkpoints" / PLACE / "checkpoint.safetensors"
SAMPLES = RESULTS / "samples" / PLACE
REFERENCE = RESULTS / "metrics/toy_flowers"
SCORE = RESULTS / "metrics" / PLACE
SETS = RESULTS / "sets"
CLASSIFIER = RESULTS / "classification/resnet18/mix"
LOG = RESULTS / "logs/train" / PLACE
# Everything imported that a stage needs: forking then takes milliseconds.
PRELOADED = [
    "noisesteps.cli",
    "noisesteps.classification",
    "noisesteps.data",
    "noisesteps.evaluation",
    "noisesteps.figures.drawing",
    "noisesteps.report.page",
    "noisesteps.sampling",
    "noisesteps.tables.build",
    "noisesteps.training.trainer",
    "noisesteps.training.tracking.tensorboard",
    "efficientnet_lite_pytorch",
    "torchvision.models",
]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Stage:
    """A command line, and the files that it is to leave, the record last."""

    command: tuple[str, ...]
    outputs: tuple[Path, ...]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.command[0]


def _in(folder: Path, *names: str) -> tuple[Path, ...]:
    return tuple(folder / name for name in names)


PREPROCESS = Stage(
    ("preprocess", "--dataset", "toy_flowers"),
    _in(DATA, "manifest.csv", "rejected.csv", "images.npy", "dataset.json"),
)
TRAIN = Stage(
    ("train", *RUN), _in(MODEL, "model.safetensors", "history.csv", "model.json")
)
SAMPLE = Stage(("sample", *RUN), _in(SAMPLES, "images.npy", "sample.json"))
REFER = Stage(
    ("reference", "--dataset", "toy_flowers"),
    _in(REFERENCE, "reference.npz", "features.npy", "nearest.csv", "reference.json"),
)
SCORES = Stage(("score", *RUN), _in(SCORE, "features.npy", "nearest.csv", "score.json"))
SET = Stage(
    ("sets", "--set", "mix"), _in(SETS / "mix", "labels.csv", "images.npy", "set.json")
)
CLASSIFY = Stage(
    ("classify", "--architecture", "resnet18", "--set", "mix", "--seed", "0"),
    _in(CLASSIFIER, "seed0.json"),
)
TABULATE = Stage(
    ("tabulate", "--table", "fid"), _in(RESULTS / "tables", "fid.csv", "fid.json")
)
DRAW = Stage(
    ("draw", "--figure", "samples_toy_flowers"),
    tuple(
        RESULTS / f"figures/samples_toy_flowers.{suffix}"
        for suffix in ("png", "svg", "json")
    ),
)
REPORT = Stage(("report",), _in(RESULTS, "report.html"))
STAGES = (
    PREPROCESS, TRAIN, SAMPLE, REFER, SCORES, SET, CLASSIFY, TABULATE, DRAW, REPORT,
)  # fmt: skip


# A study


def write_config(folder: Path, **changes: dict) -> Path:
    """Write `tiny.yaml` with some sections changed; return the folder."""
    values = {
        section: value | changes.pop(section, {})
        if isinstance(value, dict)
        else changes.pop(section, value)
        for section, value in STUDY.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values | changes))
    return folder


def commands() -> list[tuple[str, ...]]:
    """List the command lines of the whole study, in an order that works."""
    from noisesteps.config import parse_study
    from noisesteps.figures import figure_names
    from noisesteps.tables import table_names

    study = parse_study(STUDY)
    lines = []
    for name, run in (("toy_flowers", RUN), ("toy_butterflies", OTHER_RUN)):
        data = ("--dataset", name)
        lines += [("preprocess", *data), ("train", *run), ("sample", *run)]
        lines += [("reference", *data), ("score", *run)]
    lines += [SET.command, ("sets", "--set", "test"), CLASSIFY.command]
    lines += [("tabulate", "--table", name) for name in table_names(study)]
    lines += [("draw", "--figure", name) for name in figure_names(study)]
    return [*lines, REPORT.command]


def build(folder: Path, lines: Sequence[tuple[str, ...]], **changes: dict) -> Path:
    """Run stages in a new folder, one after the other."""
    write_config(folder, **changes)
    for line in lines:
        run(folder, *line).check()
    return folder


def copy(study: Path, folder: Path) -> Path:
    """Copy a study, times included."""
    return shutil.copytree(study, folder, dirs_exist_ok=True)


# Processes


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, or minus the signal; and what it printed."""

    code: int
    output: str

    def check(self) -> Ended:
        """Insist on a good end."""
        assert self.code == 0, self.output
        return self

    def refused(self) -> str:
        """Insist on one sentence, no traceback, and an exit code; return it."""
        assert self.code > 0, self.output
        assert "Traceback" not in self.output, self.output
        lines = self.output.splitlines()
        errors = [line for line in lines if line.startswith("noisesteps: error: ")]
        assert len(errors) == 1, self.output
        assert lines[-1] == errors[0], self.output
        return errors[0].removeprefix("noisesteps: error: ")


class Fork:
    """A stage in a process forked off the server.

    Parameters
    ----------
    folder
        Working directory.
    arguments
        Sub-command and options, `--config` aside.
    injury
        Called in the new process before the stage.
    """

    def __init__(
        self, folder: Path, *arguments: str, injury: Callable[[], None] | None = None
    ):
        self._reader, writer = FORKS.Pipe(duplex=False)
        self._pieces: list[bytes] = []
        self.process = FORKS.Process(
            target=_execute, args=(folder, arguments, writer, injury)
        )
        self.process.start()
        writer.close()

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.exitcode is not None

    def output(self) -> str:
        """Return what it printed so far."""
        reader = self._reader.fileno()
        while select.select([reader], [], [], 0)[0]:
            if not (piece := os.read(reader, 1 << 16)):
                break
            self._pieces.append(piece)
        return b"".join(self._pieces).decode(errors="replace")

    def wait(self, timeout: float = 300) -> Ended:
        """Wait for the end."""
        while piece := os.read(self._reader.fileno(), 1 << 16):
            self._pieces.append(piece)
        self.process.join(timeout)
        assert self.ended(), f"the process does not end:\n{self.output()}"
        return Ended(self.process.exitcode, self.output())


def run(
    folder: Path, *arguments: str, injury: Callable[[], None] | None = None
) -> Ended:
    """Run a stage to its end, whatever that is."""
    return Fork(folder, *arguments, injury=injury).wait()


def _execute(folder: Path, arguments: tuple, output, injury) -> None:
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    os.chdir(folder)
    # As in a process of its own: pytest's are not wanted here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from noisesteps.cli import main

    torch.set_num_threads(1)
    if injury is not None:
        injury()
    main([*arguments[:1], "--config", "tiny.yaml", *arguments[1:]])


def refusal(folder: Path, *arguments: str) -> str:
    """Run a stage in this process, which is to refuse; return its sentence.

    For hundreds of refusals: nothing may be written, and nothing is injured.
    """
    from click.testing import CliRunner

    from noisesteps.cli import main

    before = states(folder)
    words = arguments[: 2 if arguments[0] == "export" else 1]
    line = [*words, "--config", "tiny.yaml", *arguments[len(words) :]]
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, line)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    sentence = Ended(result.exit_code, result.output).refused()
    assert states(folder) == before
    return sentence


class Process(subprocess.Popen):
    """A command in a process of its own, the leader of a process group.

    What it prints goes to a file: a pipe that nobody reads would stop it when full.
    """

    def __init__(self, folder: Path, line: Sequence[str]):
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as self
        super().__init__(
            line,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Ignored where the tests themselves run in the background, and inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.poll() is not None

    def output(self) -> str:
        """Return what it printed so far."""
        printed = os.pread(
            self._printed.fileno(), os.fstat(self._printed.fileno()).st_size, 0
        )
        return printed.decode(errors="replace")


def environment() -> dict[str, str]:
    """Return the variables for real processes: this checkout, one thread."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *arguments: str) -> Process:
    """Start a stage as a user does."""
    line = [sys.executable, "-m", "noisesteps", *arguments[:1]]
    return Process(folder, [*line, "--config", "tiny.yaml", *arguments[1:]])


def snakemake(folder: Path, *targets: str) -> Process:
    """Start Snakemake."""
    return Process(folder, snakemake_line(ROOT, "tiny.yaml", *targets))


def snakemake_line(checkout: Path, config: str, *targets: str) -> list[str]:
    """Return the command line of Snakemake."""
    line = [sys.executable, "-m", "snakemake", "--cores", "1", "--nocolor"]
    line += ["--snakefile", str(checkout / "Snakefile"), "--configfile", config]
    # Without the dashes Snakemake takes the targets for further config files.
    return [*line, "--", *targets]


def shell_lines() -> dict[str, str]:
    """Return the line that each rule of the workflow gives to a shell."""
    pattern = r"^rule (\w+):.*?^    shell:\n((?: {8}[^\n]*\n?)+)"
    return {
        rule: ast.literal_eval(f"({line})")
        for path in sorted((ROOT / "workflow/rules").glob("*.smk"))
        for rule, line in re.findall(pattern, path.read_text(), re.M | re.S)
    }


def end(process: Process, timeout: float = 300) -> Ended:
    """Wait for a process of `start` or `snakemake`."""
    return Ended(process.wait(timeout), process.output())


# Progress


def updates_logged(folder: Path) -> int:
    """Return the latest update in the daily log of RUN; 0 before the first."""
    from noisesteps.training.tracking.lines import Reached, read_backwards

    for line in read_backwards(folder / LOG):
        if isinstance(line.event, Reached):
            return line.event.point.update
    return 0


def resumptions(folder: Path) -> list[int]:
    """Return after which update each attempt started, the first attempt first."""
    from noisesteps.training.tracking.lines import Started, read_backwards

    lines = [line.event for line in read_backwards(folder / LOG)]
    return [event.update for event in lines if isinstance(event, Started)][::-1]


def wait_until(
    condition: Callable[[], bool], process: Process | Fork, seconds: float = 120
) -> None:
    """Ask again and again until it holds, as long as the process may bring it about."""
    limit = time.monotonic() + seconds
    while not condition():
        # It may have come true between the question and the end.
        over = process.ended() and not condition()
        assert not over, f"ended too early:\n{process.output()}"
        assert time.monotonic() < limit, f"waited in vain:\n{process.output()}"
        time.sleep(0.005)


# Injuries


@dataclass(frozen=True)
class DieWriting:
    """Die with a file half written: the kernel ends the process at a byte of it.

    Parameters
    ----------
    path
        The file.
    limit
        The byte at which the process dies.
    time
        Die when the file is written for this time, from 1.
    """

    path: Path
    limit: int
    time: int = 1

    def __call__(self) -> None:
        _announce_safetensors()
        seen = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event == "open" and _is_written(arguments, self.path):
                seen += 1
                if seen == self.time:
                    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                    resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))

        sys.addaudithook(hook)


@dataclass(frozen=True)
class DieRenaming:
    """Be killed when a file is whole, and about to get its final name."""

    path: Path

    def __call__(self) -> None:
        def hook(event: str, arguments: tuple) -> None:
            if event == "os.rename" and Path(arguments[1]) == self.path:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


@dataclass(frozen=True)
class SmallFiles:
    """Let no file grow beyond `limit` bytes: writing fails, as on a full disk."""

    limit: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))


def _announce_safetensors() -> None:
    """Let safetensors, which opens files without Python, raise the audit event too."""
    import safetensors.torch

    write = safetensors.torch.serialize_file

    def announced(tensors, filename, *arguments, **keywords):
        sys.audit("open", str(filename), "w", os.O_WRONLY)
        return write(tensors, filename, *arguments, **keywords)

    safetensors.torch.serialize_file = announced


def _is_written(arguments: tuple, path: Path) -> bool:
    opened, mode, flags = arguments
    if not isinstance(opened, str | os.PathLike):
        return False
    opened = Path(opened)
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) or "w" in (mode or "")
    return writes and opened.with_name(_final_name(opened.name)) == path


def _final_name(name: str) -> str:
    """Return `images.npy` for `.images.123.partial.npy`."""
    if ".partial" not in name:
        return name
    stem, rest = name[1:].split(".", 1)
    return stem + rest.split(".partial", 1)[1]


def flip(path: Path, position: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def moments(name: str, count: int) -> list[float]:
    """Return random numbers in [0, 1), the same ones in every run of a test."""
    generator = random.Random(name)
    return [generator.random() for _ in range(count)]


# Comparison


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder's results, locks aside."""
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in sorted((folder / "results").rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file and folder: what a refusal may not change."""
    return {
        path.relative_to(folder).as_posix(): (status.st_size, status.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if (status := path.lstat()) and not path.is_dir()
    }


def content(path: Path) -> str:
    """Return the digest of a file, or of what it says apart from times.

    Records, histories and tables hold measured times, which no two runs share.
    """
    if path.suffix == ".json":
        values = _timeless(json.loads(path.read_text()))
        if path.parent.name == "tables":  # the checksum of a table covers its times
            del values["files"]
        text = json.dumps(values, sort_keys=True)
    elif path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        kept = [name for name in table if not _is_time(name)]
        text = table[kept].to_csv(index=False)
    else:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(text.encode()).hexdigest()


def _timeless(value):
    """Drop times, and the checksums of files with times in them, from a record."""
    if not isinstance(value, dict):
        return value
    return {
        key: _timeless(item)
        for key, item in value.items()
        if not _is_time(key) and key not in ("history.csv", "record_sha256")
    }


TIMES = ("second", "hours", "started", "peak_memory")


def _is_time(name: str) -> bool:
    return any(part in name for part in TIMES)


def differing(one: Path, other: Path) -> list[str]:
    """Name the files that two studies do not share, bit for bit."""
    mine, theirs = fingerprints(one), fingerprints(other)
    paths = {*mine, *theirs}
    return sorted(path for path in paths if mine.get(path) != theirs.get(path))


def leftovers(folder: Path) -> list[Path]:
    """List half-written files; safetensors has names of its own for them."""
    names = re.compile(r"\..*\.partial.*|\.tmp\w{6}")
    return [path for path in folder.rglob(".*") if names.fullmatch(path.name)]


def same_files(one: Path, other: Path, paths: Sequence[Path]) -> bool:
    """Whether files are equal in two studies, times aside."""
    return all(
        (one / path).exists() and content(one / path) == content(other / path)
        for path in paths
    )


def largest_difference(one: Path, other: Path, path: Path) -> float:
    """Return the largest difference between two arrays of the same place."""
    first, second = (np.load(study / path).astype(float) for study in (one, other))
    return float(np.abs(first - second).max())
