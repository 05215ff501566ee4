"""The training loop: update, log, epoch, checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from noisesteps.config import Training
from noisesteps.diffusion import Diffusion
from noisesteps.errors import DivergedError, StageError
from noisesteps.files import digest
from noisesteps.seeds import Key
from noisesteps.signals import Interrupted, StopRequest
from noisesteps.training import checkpoint as checkpoints
from noisesteps.training.batches import Batches, Plan
from noisesteps.training.learner import Learner
from noisesteps.training.learning_rate import learning_rate
from noisesteps.training.precision import deterministic
from noisesteps.training.progress import (
    Meter,
    NotFiniteError,
    Progress,
    peak_memory,
)
from noisesteps.training.tracking import Observer, Point, Start

logger = logging.getLogger("noisesteps.training")


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes
    ----------
    state_dict : dict of str to torch.Tensor
        The published weights, those that the network now has: the moving average
        where `training.ema_decay` asks for it.
    history : list of dict
        One row an epoch: `epoch` (from 1), `optimizer_step` (updates so far), `loss`
        (mean over the epoch's images), `learning_rate` (of its last update),
        `images_per_second`.
    seconds : float
        Training time, summed over resumptions.
    optimizer_steps : int
        Updates taken.
    final_loss : float
        Mean loss over the last epoch.
    peak_memory_bytes : int
        Allocated on CUDA, or the process's resident memory elsewhere.
    """

    state_dict: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    seconds: float
    optimizer_steps: int
    final_loss: float
    peak_memory_bytes: int


def train(
    images: np.ndarray,
    network: nn.Module,
    diffusion: Diffusion,
    training: Training,
    *,
    epochs: int,
    key: tuple[Key, ...],
    device: torch.device,
    checkpoint: Path,
    origin: Mapping[str, Any],
    tracker: Observer,
) -> Trained:
    """Train a network to predict the noise (Ho et al. 2020, algorithm 1).

    If `checkpoint` holds an earlier part of this training, it goes on from there, and
    on one kind of device ends in the same bits as if it had never stopped.

    Parameters
    ----------
    images
        uint8 (N,3,H,W).
    network
        Called as `network(x_t, timesteps)`; trained in place and left with the
        published weights.
    diffusion
        The forward process; its `steps` is T.
    training
        The section of the configuration.
    epochs
        Passes over the images, unless `training.optimizer_steps` is given.
    key
        What every random number of the training derives from.
    device
        Where to compute.
    checkpoint
        The rolling checkpoint's file; removing it in the end is left to the caller.
    origin
        Everything that the weights depend on, as JSON values by name. A checkpoint of
        another origin is not used.
    tracker
        Told about the start, the progress and the end; `Observer()` keeps silent.

    Raises
    ------
    DivergedError
        If a loss or weight is not finite, or fp16 gradients overflow at any scale.
    Interrupted
        After SIGTERM or SIGINT; the checkpoint holds all updates done.
    ConfigError
        If the device cannot compute in `training.precision`.
    DataError
        If `images` is no such array, or empty.
    StageError
        If the device's memory is too small or the checkpoint cannot be written.
    """
    plan = Plan(len(images), training, epochs)
    with StopRequest() as stop, deterministic(device):
        try:
            compiled = training.compiles(plan.updates)
            learner = Learner(network, diffusion, training, device, compiled=compiled)
            batches = Batches(
                images,
                diffusion.steps,
                training,
                key,
                device,
                learner.precision.memory_format,
            )
            store = _Store(Path(checkpoint), origin)
            run = _Run(plan, learner, batches, store, tracker, stop)
            return run.to_the_end()
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"training.batch_size: {training.batch_size} images do not fit into "
                f"the memory of {device}; lower it."
            ) from error


class _Store:
    """The rolling checkpoint of one run."""

    def __init__(self, path: Path, origin: Mapping[str, Any]):
        self.path = path
        self.origin = origin
        self.update: int | None = None  # of the checkpoint on the disk

    def resume(self, learner: Learner) -> Progress:
        """Restore the learner from the checkpoint, if there is one to go on from."""
        found = checkpoints.find(self.path, self.origin)
        if found is None:
            return Progress()
        learner.restore(found.tensors, found.record["loss_scale"])
        progress = Progress(**found.record["progress"])
        self.update = progress.update
        return progress

    def save(self, learner: Learner, progress: Progress, epoch: int) -> None:
        record = {
            "origin": self.origin,
            "epoch": epoch,
            "progress": dataclasses.asdict(progress),
            "loss_scale": learner.loss_scale(),
        }
        checkpoints.save(self.path, learner.tensors(), record)
        self.update = progress.update

    def __str__(self) -> str:
        if self.update is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of update {self.update}, {self.path}"


class _Run:
    """A training under way."""

    def __init__(
        self,
        plan: Plan,
        learner: Learner,
        batches: Batches,
        store: _Store,
        tracker: Observer,
        stop: StopRequest,
    ):
        self.plan = plan
        self.learner = learner
        self.batches = batches
        self.store = store
        self.tracker = tracker
        self.stop = stop
        self.progress = store.resume(learner)
        self.rate = 0.0

    def to_the_end(self) -> Trained:
        """Run the loop; whatever ends it, the tracker hears of it."""
        done = self.progress.update
        fingerprint = digest(self.store.origin)
        self.tracker.start(Start(done, self.plan.updates, fingerprint))
        if self.plan.training.warmup_steps >= self.plan.updates:
            logger.warning(
                "training.warmup_steps is %d, but there are only %d updates: the "
                "learning rate never reaches training.learning_rate.",
                self.plan.training.warmup_steps,
                self.plan.updates,
            )
        try:
            self._loop()
        except BaseException as error:
            self.tracker.fail(error)
            raise
        trained = self._result()
        self.tracker.finish(trained.seconds, trained.final_loss)
        return trained

    def _loop(self) -> None:
        self.meter = Meter(self.progress)
        self._choose_batch()
        while self.progress.update < self.plan.updates:
            self._update()
            done = self.progress.update
            if done % self.plan.training.log_steps == 0 or done == self.plan.updates:
                self._log()
            if self.plan.ends_epoch(done):
                self._epoch()
            if self.plan.ends_period(done) or self.stop:
                self._checkpoint()
            if self.stop and done < self.plan.updates:
                raise self._interrupted()

    def _update(self) -> None:
        index = self.progress.update
        self.rate = learning_rate(index, self.plan.updates, self.plan.training)
        loss = self.learner.update(self.batch, index, self.rate)
        self.meter.add(loss, len(self.batch.x0))
        self._choose_batch()  # while a GPU computes, and before its loss is waited for

    def _choose_batch(self) -> None:
        """Prepare the next update's images and noise, if there is a next one."""
        if self.progress.update < self.plan.updates:
            self.batch = self.batches[self.progress.update]

    def _settle(self) -> None:
        """Read the losses since the last time; a training that diverged ends here."""
        try:
            self.meter.settle()
        except NotFiniteError as error:
            raise self._diverged(
                f"the loss became {error.loss}", error.update
            ) from None
        if self.learner.precision.collapsed:
            raise self._diverged("fp16 gradients overflowed", self.progress.update)

    def _log(self) -> None:
        self._settle()
        progress, plan = self.progress, self.plan
        point = Point(
            epoch=plan.epoch(progress.update - 1) + 1,
            update=progress.update,
            loss=self.meter.loss,
            learning_rate=self.rate,
            images_per_second=self.meter.images_per_second,
            seconds_left=progress.seconds
            / progress.update
            * (plan.updates - progress.update),
        )
        self.tracker.log(point)

    def _epoch(self) -> None:
        self._settle()
        epoch = self.plan.epoch(self.progress.update - 1) + 1
        self.progress.close_epoch(epoch, self.rate)

    def _checkpoint(self) -> None:
        self._settle()
        if not self.learner.is_finite():
            raise self._diverged("weights became infinite", self.progress.update)
        self.progress.peak_memory_bytes = max(
            self.progress.peak_memory_bytes, peak_memory(self.batches.device)
        )
        epoch = self.plan.epoch(self.progress.update)
        self.store.save(self.learner, self.progress, epoch)

    def _diverged(self, what: str, update: int) -> DivergedError:
        epoch = self.plan.epoch(update - 1) + 1
        return DivergedError(
            f"Training diverged: {what} at update {update} (epoch {epoch}), and "
            f"{self.store}; lower training.learning_rate, set training.gradient_clip "
            "or choose training.precision bf16 or fp32."
        )

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"Training was stopped by {self.stop.name} after update "
            f"{self.progress.update} of {self.plan.updates}; run the same command "
            f"again and it goes on from {self.store.path}.",
            self.stop.number,
        )

    def _result(self) -> Trained:
        return Trained(
            state_dict=self.learner.publish(),
            history=self.progress.history,
            seconds=self.progress.seconds,
            optimizer_steps=self.progress.update,
            final_loss=self.progress.history[-1]["loss"],
            peak_memory_bytes=self.progress.peak_memory_bytes,
        )
