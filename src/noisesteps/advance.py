"""A study in pieces, without Snakemake: do what is next until the time is up.

For machines that are lent for minutes and have few libraries. The work is that of the
rules, by the same functions (`stages.py`), in one process, from the data sets that
`preprocess` left to the last classifier; a piece ends where training and sampling can
go on from, and the next one starts there.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisesteps import stages
from noisesteps.config import Study
from noisesteps.errors import StageError
from noisesteps.files import read_json
from noisesteps.paths import Run, StudyPaths
from noisesteps.signals import Interrupted, StopRequest

if TYPE_CHECKING:
    import torch

STAGES = ("reference", "train", "sample", "score", "sets", "classify")
# Exit code of a piece that left something to do, as in sysexits.h: try again.
MORE_TO_DO = 75


@dataclass(frozen=True)
class Work:
    """One job of the study: a stage and its coordinates.

    Attributes
    ----------
    stage
        The rule and sub-command.
    coordinates
        Arguments of its function after the study; all but `sets` take a device too.
    name
        The coordinates, for people.
    record
        The file that the stage writes last.
    inputs
        The records of the stages that it reads.
    settings
        What it reads of the config.
    run
        The model, and how it is sampled; None for what belongs to no model.
    """

    stage: str
    coordinates: tuple[Any, ...]
    name: str
    record: Path
    inputs: tuple[Path, ...]
    settings: dict[str, Any]
    run: Run | None = None

    @property
    def is_done(self) -> bool:
        """Whether its record is there, and of the values that the study has now."""
        try:
            record = read_json(self.record)
            return record["provenance"]["settings"] == self.settings
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError):
            raise StageError(
                f"{self.record} is damaged; remove it and run the same command again."
            ) from None

    def do(self, study: Study, device: torch.device) -> None:
        """Run the stage."""
        stage = getattr(stages, self.stage)
        more = () if self.stage == "sets" else (device,)
        stage(study, *self.coordinates, *more)

    def __str__(self) -> str:
        return f"{self.stage} {self.name}"


@dataclass(frozen=True)
class Choice:
    """Which part of a study is wanted; an empty tuple stands for all."""

    stages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()

    def has(self, work: Work) -> bool:
        """Whether a job belongs to the part.

        A job of no single model does where no schedule, T or data set is chosen, or
        its stage is; the reference of a data set also where the data set is chosen.
        """
        if self.stages and work.stage not in self.stages:
            return False
        if work.stage == "reference":
            return not self.datasets or work.name in self.datasets
        if run := work.run:
            chosen = (self.datasets, self.schedules, self.steps)
            values = (run.dataset, run.schedule, run.steps)
            return all(
                not some or value in some
                for some, value in zip(chosen, values, strict=True)
            )
        return bool(self.stages) or not (self.datasets or self.schedules or self.steps)


@dataclass(frozen=True)
class Piece:
    """What one piece did.

    Attributes
    ----------
    wanted
        How many jobs the wanted part has.
    left
        Those that are not done, the next one first.
    stopped
        The number of the signal that ended the piece from outside; None otherwise.
    """

    wanted: int
    left: list[Work]
    stopped: int | None = None

    @property
    def exit_code(self) -> int:
        """0 if nothing is left, else 75, or 128 plus the signal's number."""
        if not self.left:
            return 0
        return 128 + self.stopped if self.stopped else MORE_TO_DO

    def __str__(self) -> str:
        if not self.left:
            return f"All {self.wanted} jobs are done."
        done = self.wanted - len(self.left)
        return f"{done} of {self.wanted} jobs are done; next: {self.left[0]}."


def all_work(study: Study) -> list[Work]:
    """List the jobs of a study, each after those that it reads.

    Data set by data set: its reference, then every model from training to score, in
    the order of the config; then the sampling in fewer steps; then the classifiers.
    """
    paths = StudyPaths(study.study)
    return [
        *itertools.chain.from_iterable(
            _dataset_work(study, paths, dataset) for dataset in study.datasets
        ),
        *(_classifier_work(study, paths) if study.classification else ()),
    ]


def _dataset_work(study: Study, paths: StudyPaths, dataset: str) -> Iterator[Work]:
    data = paths.data(dataset) / "dataset.json"
    settings = study.settings("reference", dataset=dataset)
    record = paths.reference(dataset) / "reference.json"
    yield Work("reference", (dataset,), dataset, record, (data,), settings)
    for run in [*study.runs_of(dataset), *study.respaced_runs_of(dataset)]:
        model, samples, score = (
            paths.model(run.model) / "model.json",
            paths.samples(run) / "sample.json",
            paths.score(run) / "score.json",
        )
        if run == run.model:
            yield _run_work(study, "train", run, model, data)
        yield _run_work(study, "sample", run, samples, model)
        yield _run_work(study, "score", run, score, samples, record)


def _run_work(study: Study, stage: str, run: Run, record: Path, *inputs: Path) -> Work:
    settings = study.settings(stage, run)
    return Work(stage, (run,), run.path.as_posix(), record, inputs, settings, run)


def _classifier_work(study: Study, paths: StudyPaths) -> Iterator[Work]:
    chosen = study.classification
    real = [paths.data(name) / "dataset.json" for name in chosen.datasets]
    test = paths.set("test") / "set.json"
    for name in [*chosen.sets, "test"]:
        made = [paths.samples(run) / "sample.json" for run in study.runs_of_set(name)]
        record, inputs = paths.set(name) / "set.json", (*real, *made)
        yield Work("sets", (name,), name, record, inputs, study.settings("sets"))
    for one in itertools.product(
        chosen.architectures, chosen.sets, range(chosen.seeds)
    ):
        architecture, name, seed = one
        inputs = (paths.set(name) / "set.json", test)
        label = f"{architecture}/{name}/seed{seed}"
        record, settings = paths.classifier(*one), study.settings("classify")
        yield Work("classify", one, label, record, inputs, settings)


def advance(
    study: Study,
    choice: Choice,
    seconds: float,
    device: torch.device,
    tell: Callable[[str], None],
) -> Piece:
    """Do the jobs that are next, until the time is up or a signal comes.

    Training and sampling stop within an update or a denoising step and keep their
    work, which takes seconds; the other stages are short and run to their end. What was
    made from a result that is made anew is removed, so that it is made anew too.

    Parameters
    ----------
    study
        The study, whose data sets have been preprocessed.
    choice
        The part that is wanted.
    seconds
        When to stop; 0 does nothing, and tells what is next.
    device
        Where to compute.
    tell
        Called with a line before and after each job.

    Raises
    ------
    NoisestepsError
        If a job ends in an error other than that it was stopped.
    """
    work = all_work(study)
    wanted = [job for job in work if choice.has(job)]
    with StopRequest() as stop, _Alarm(seconds) as alarm:
        for job in wanted:
            if job.is_done:
                continue
            if stop or alarm.is_over:
                break
            _remove_what_came_of(job, work)
            tell(f"{job}: begins")
            began = time.monotonic()
            try:
                job.do(study, device)
            except Interrupted as error:
                tell(f"{job}: {error}")
                break
            tell(f"{job}: done in {time.monotonic() - began:.1f} s")
    left = [job for job in wanted if not job.is_done]
    return Piece(len(wanted), left, None if alarm.rang else stop.number)


def _remove_what_came_of(job: Work, work: Sequence[Work]) -> None:
    """Remove the records of what reads a result that is about to be made anew."""
    for other in work:
        if job.record in other.inputs and other.record.exists():
            other.record.unlink()
            _remove_what_came_of(other, work)


class _Alarm:
    """While entered, sends this process SIGTERM once the time is up.

    Attributes
    ----------
    rang
        Whether it did.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.rang = False

    def __enter__(self) -> _Alarm:
        self._end = time.monotonic() + self.seconds
        self._before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end

    def _ring(self, *_: object) -> None:
        self.rang = True
        signal.raise_signal(signal.SIGTERM)
