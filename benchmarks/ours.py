"""Our side: what the stages `train` and `sample` do, over and over."""

from __future__ import annotations

import itertools

from benchmarks.settings import GRADIENT_CLIP, LEARNING_RATE, SEED, STEPS, Settings
from benchmarks.timing import Work
from noisesteps.config import Sampling, Training
from noisesteps.diffusion import Diffusion
from noisesteps.sampling import generate
from noisesteps.training.batches import Batches
from noisesteps.training.learner import Learner
from noisesteps.training.precision import deterministic

KEY = (SEED, "benchmark")


def training_section(settings: Settings, precision: str) -> Training:
    """Return the configuration that does what the peers' examples do."""
    return Training(
        batch_size=settings.batch,
        precision=precision,
        learning_rate=LEARNING_RATE,
        gradient_clip=GRADIENT_CLIP,
    )


def batches_of(settings: Settings, learner: Learner, training: Training) -> Batches:
    return Batches(
        settings.images(),
        STEPS,
        training,
        KEY,
        settings.on,
        learner.precision.memory_format,
    )


def training_step(
    settings: Settings,
    precision: str,
    *,
    recompute: bool = False,
    compiled: bool = False,
) -> Work:
    """One update as the training loop takes it: update, next batch, loss now and then.

    The stage lets CUDA choose deterministic kernels only, so that is done here too.
    """
    training = training_section(settings, precision).model_copy(
        update={"recompute_activations": recompute}
    )
    diffusion = Diffusion(STEPS, "linear")
    learner = Learner(
        settings.network(), diffusion, training, settings.on, compiled=compiled
    )
    batches = batches_of(settings, learner, training)
    indices = itertools.count()
    batch = batches[0]

    def step() -> None:
        nonlocal batch
        index = next(indices)
        with deterministic(settings.on):
            loss = learner.update(batch, index, LEARNING_RATE)
            batch = batches[index + 1]
        if index % training.log_steps == 0:
            loss.item()

    return Work(step, device=settings.on)


def sampling_steps(
    settings: Settings,
    precision: str,
    batch: int,
    steps: int,
    *,
    compiled: bool = False,
) -> Work:
    """Denoise one batch in `steps` steps, evenly spaced over T, to uint8 images."""
    network = settings.network()
    section = Sampling(
        images=max(batch, 6),
        batch_size=batch,
        sampling_steps=steps,
        precision=precision,
        compile=compiled,
    )

    def sample() -> None:
        generate(
            network,
            Diffusion(STEPS, "linear"),
            section,
            images=batch,
            key=KEY,
            device=settings.on,
            progress=lambda done, total: None,
        )

    return Work(sample, steps, device=settings.on)
