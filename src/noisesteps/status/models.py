"""How far one model is: its records first, then the logs of what has no record."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from noisesteps import errors
from noisesteps.config import Study, Training
from noisesteps.errors import StageError
from noisesteps.files import read_json
from noisesteps.paths import Run, StudyPaths
from noisesteps.status.jobs import Attempt, Failure, latest_attempt, run_job
from noisesteps.training.tracking.lines import (
    Failed,
    Finished,
    Line,
    Reached,
    Started,
    daily_log,
    read_backwards,
)

State = Literal[
    "scored", "sampled", "trained", "training", "stopped", "failed", "waiting"
]
STATES: tuple[State, ...] = State.__args__
# A training that keeps silent for longer is taken for dead. Before its first line
# about the progress it loads libraries and images, and its pace is unknown.
SILENT_PERIODS = 5
SILENT_SECONDS = 60.0
SILENT_SECONDS_AT_START = 600.0
SLOWEST = 0.05  # images/s, below which the daily log prints 0.0


@dataclass(frozen=True)
class ModelStatus:
    """How far one model is; None stands for what is not known yet.

    Attributes
    ----------
    epoch, epochs, update, updates
        Of the training: how far it is, and how far it goes.
    loss
        Of the latest logged update; once trained, the mean over the last epoch.
    images_per_second
        Since the line before; once trained, over the whole training.
    seconds_left
        Of the training, when its latest line was written.
    score, metric
        The distance of the samples to the training images, and its name.
    checkpoint
        Whether there is one to go on from.
    seen
        When the training last wrote to its daily log, unless it is over.
    failure
        What went wrong, where the state is `failed`.
    begun
        The stage that has begun after those done, by its log; it may have been
        killed since.
    """

    run: Run
    state: State
    epoch: int | None = None
    epochs: int | None = None
    update: int | None = None
    updates: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    score: float | None = None
    metric: str | None = None
    checkpoint: bool = False
    seen: datetime | None = None
    failure: Failure | None = None
    begun: Attempt | None = None


def model_status(
    study: Study, paths: StudyPaths, run: Run, train_images: int | None, now: datetime
) -> ModelStatus:
    """Find out how far a model is.

    Parameters
    ----------
    train_images
        Images of its data set to train on, if they are counted yet.
    now
        The time, with its zone; an old line in a daily log means that nobody trains.

    Raises
    ------
    StageError
        If a record is damaged.
    """
    model = read_record(paths.model(run) / "model.json", "train")
    if model is None:
        return _untrained(study, paths, run, train_images, now)
    return _trained(paths, run, model)


def read_record(path: Path, stage: str) -> dict[str, Any] | None:
    """Read the JSON record of a stage, if there is one."""
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise StageError(
            f"{path} is damaged; remove it and run `noisesteps {stage}` again."
        )
    return record


def _trained(paths: StudyPaths, run: Run, model: dict[str, Any]) -> ModelStatus:
    state: State = "trained"
    done, score = run_job("train", run, paths), {}
    begun = None
    for rule, name in (("sample", "sampled"), ("score", "scored")):
        job = run_job(rule, run, paths)
        record = read_record(job.result, rule)
        if record is None or _modified(job.result) < _modified(done.result):
            begun = latest_attempt(job)
            break
        state, done = name, job
        score = record if rule == "score" else {}
    if begun and begun.time.timestamp() < _modified(done.result):
        begun = None  # the attempt was at images of an earlier model
    failure = begun.failure if begun else None
    return ModelStatus(
        run,
        "failed" if failure else state,
        epoch=model.get("epochs"),
        epochs=model.get("epochs"),
        update=model.get("optimizer_steps"),
        updates=model.get("optimizer_steps"),
        loss=model.get("final_loss"),
        images_per_second=_speed(model),
        score=score.get("value"),
        metric=score.get("metric"),
        failure=failure,
        begun=None if failure else begun,
    )


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # Snakemake has just removed it
        return 0.0


def _speed(model: dict[str, Any]) -> float | None:
    """Return images/s, as if the last batch of every epoch were a whole one."""
    if model.get("batch_size") and model.get("seconds_per_update"):
        return model["batch_size"] / model["seconds_per_update"]
    return None


def _untrained(
    study: Study, paths: StudyPaths, run: Run, train_images: int | None, now: datetime
) -> ModelStatus:
    attempt = latest_attempt(run_job("train", run, paths))
    lines = read_backwards(paths.log("train", run))
    last = next(lines, None)
    failure = _training_failure(paths, run, last, attempt)
    alive = last is not None and _is_alive(last, study.training, now)
    checkpoint = paths.checkpoint(run).exists()
    # The end of an earlier training whose model was removed since says nothing.
    over = last is None or isinstance(last.event, Finished)
    if over and not (alive or checkpoint):
        state = "failed" if failure else "waiting"
        return ModelStatus(
            run, state, failure=failure, begun=None if failure else attempt
        )
    progress = _progress(last, lines)
    return ModelStatus(
        run,
        "failed" if failure else "training" if alive else "stopped",
        **progress,
        epochs=_epochs(progress.get("updates"), train_images, study.training),
        checkpoint=checkpoint,
        seen=last.time if last else None,
        failure=failure,
    )


def _training_failure(
    paths: StudyPaths, run: Run, last: Line | None, attempt: Attempt | None
) -> Failure | None:
    """Tell an error from a stop; the daily log and the rule's log may both know.

    A job that fails before the training starts leaves no line in the daily log, and a
    training started by hand none in the rule's log: the later one counts.
    """
    ended = last.event if last and isinstance(last.event, Failed) else None
    heard = attempt.failure if attempt else None
    same = bool(ended and heard and ended.message == heard.message)
    stopped = ended is not None and ended.error == "Interrupted"
    if heard and (last is None or attempt.time >= last.time):
        return None if same and stopped else heard
    if ended is None or stopped:
        return None
    known = hasattr(errors, ended.error)
    message = ended.message if known else f"{ended.error}: {ended.message}"
    log = daily_log(paths.log("train", run), last.time)
    return Failure("train", run.path.as_posix(), message, log)


def _epochs(
    updates: int | None, train_images: int | None, training: Training
) -> int | None:
    """Count the epochs of the training in the log, which may be of an older config."""
    if updates is None or train_images is None:
        return None
    return math.ceil(updates / math.ceil(train_images / training.batch_size))


def _is_alive(last: Line, training: Training, now: datetime) -> bool:
    silence = (now - last.time).total_seconds()
    match last.event:
        case Failed():
            return False
        case Started():
            return silence <= SILENT_SECONDS_AT_START
        case Reached(point=point):
            images = training.log_steps * training.batch_size
            period = images / max(point.images_per_second, SLOWEST)
            return silence <= max(SILENT_SECONDS, SILENT_PERIODS * period)
    return silence <= SILENT_SECONDS  # the record is about to be written


def _progress(last: Line | None, earlier: Iterator[Line]) -> dict[str, Any]:
    """Return the latest numbers of this training, by `ModelStatus`'s names."""
    for line in itertools.chain([last] if last else [], earlier):
        match line.event:
            case Reached(point=point, updates=updates):
                return {
                    "epoch": point.epoch,
                    "update": point.update,
                    "updates": updates,
                    "loss": point.loss,
                    "images_per_second": point.images_per_second,
                    "seconds_left": point.seconds_left,
                }
            case Started(update=update, updates=updates):
                return {"update": update, "updates": updates}
    return {}
