"""What a job asks of a cluster: minutes and memory, from the study's own numbers.

Nothing is measured and no torch is imported: Snakemake calls this while it plans. A
request that is too large waits longer in the queue; one that is too small ends a job,
which is then tried again: training from its checkpoint, sampling from its finished
batches, other stages from their start with more time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from noisesteps.config import Study
from noisesteps.paths import Run


class Network(NamedTuple):
    """What a U-Net costs; a test compares these with the networks."""

    parameters: int
    flops: int  # of one forward pass, a pixel of the image


NETWORKS = {
    "ddpm-113m": Network(113_673_219, 7_576_760),
    "small-32": Network(2_539_571, 247_620),
    "toy-16": Network(205_027, 78_216),
    "tiny": Network(45_259, 33_168),
}

# The slowest GPU with published times, the dissertation's Tesla P40, trained at 2.4e12
# operations a second (15 hours for 50 passes over 7,169 images) and sampled faster.
FLOPS = 2.4e12
# A small network waits for the GPU to be told what to do.
CALL_SECONDS = 0.03
# Both classifiers and both extractors, with room to spare on the same card.
EXTRACTED_A_SECOND = 20
CLASSIFIED_A_SECOND = 50
DECODED_A_SECOND = 50

MARGIN = 1.5
START_MINUTES = 5
UNCOUNTED_IMAGES = 10_000
UNCOUNTED_MINUTES = 240

TORCH_MB = 4000
PLAIN_MB = 2000
# Bytes a parameter, in float32: weights, gradients, Adam's two moments and the moving
# average, and the copy of all but the gradients that becomes a checkpoint.
TRAINED_BYTES = 36
FEATURES = 2048


@dataclass(frozen=True)
class Needs:
    """What one job asks for.

    Attributes
    ----------
    minutes : int
        Wall time.
    memory_mb : int
        Main memory, in 10^6 bytes; the GPU's is not asked for.
    """

    minutes: int
    memory_mb: int


def needs(
    study: Study,
    stage: str,
    *,
    dataset: str | None = None,
    run: Run | None = None,
    images: int | None = None,
    attempt: int = 1,
) -> Needs:
    """Return what a stage asks for.

    Parameters
    ----------
    study
        The study.
    stage
        Name of the rule.
    dataset
        Name of the data set, where the stage has one.
    run
        The model's coordinates, for train, sample and score.
    images
        Training images that `preprocess` counted; None: it has not run yet, and the
        config's number is taken, or a guess where it has none.
    attempt
        1 for the first try. Each further one asks for as much again, except for the
        time of `train`, which goes on where it stopped.
    """
    images = images or _configured(study, dataset)
    seconds = _seconds(study, stage, dataset, run, images)
    minutes = START_MINUTES + math.ceil(MARGIN * seconds / 60)
    return Needs(
        minutes * (1 if stage == "train" else attempt),
        _memory_mb(study, stage, images) * attempt,
    )


def gpu_threads(cores: int, gpus: int) -> int:
    """Share the cores among the jobs that hold a GPU, leaving one for the others."""
    share = max(1, cores // gpus)
    return share - 1 if cores > 4 and share > 1 else share


def _configured(study: Study, dataset: str | None) -> int | None:
    return study.datasets[dataset].train if dataset in study.datasets else None


def _seconds(
    study: Study, stage: str, dataset: str | None, run: Run | None, images: int | None
) -> float:
    known = images or UNCOUNTED_IMAGES
    match stage:
        case "preprocess":
            if images is None:
                return UNCOUNTED_MINUTES * 60 / MARGIN
            held_out = study.datasets[dataset].held_out or 0
            return (images + held_out) / DECODED_A_SECOND
        case "train":
            return _training_seconds(study, dataset, known)
        case "sample":
            return _sampling_seconds(study, run)
        case "reference":
            return known / EXTRACTED_A_SECOND
        case "score":
            return study.sample_images(run) / EXTRACTED_A_SECOND
        case "classify":
            return _classifying_seconds(study)
    return 0.0


def forward_flops(study: Study) -> float:
    """Operations of the network's forward pass on one image."""
    network = NETWORKS[study.network.preset]
    return network.flops * study.preprocess.image_size**2


def _training_seconds(study: Study, dataset: str, images: int) -> float:
    training = study.training
    batches = math.ceil(images / training.batch_size)
    updates = training.optimizer_steps or study.epochs(dataset, images) * batches
    # The backward pass costs two forward passes.
    forward = training.batch_size * forward_flops(study) / FLOPS + CALL_SECONDS
    return updates * 3 * forward


def _sampling_seconds(study: Study, run: Run) -> float:
    sampling, images = study.sampling_of(run), study.sample_images(run)
    calls = math.ceil(images / sampling.batch_size)
    network = images * forward_flops(study) / FLOPS + calls * CALL_SECONDS
    return (sampling.sampling_steps or run.steps) * network


def _classifying_seconds(study: Study) -> float:
    chosen = study.classification
    mixed = 2 * chosen.images_per_class * len(chosen.datasets)
    size = (study.preprocess.image_size / 128) ** 2
    passes = chosen.seeds * chosen.epochs * mixed
    return passes * max(size, 0.1) / CLASSIFIED_A_SECOND


def _memory_mb(study: Study, stage: str, images: int | None) -> int:
    known = images or UNCOUNTED_IMAGES
    array = known * 3 * study.preprocess.image_size**2
    weights = NETWORKS[study.network.preset].parameters
    match stage:
        case "preprocess":
            return _mb(PLAIN_MB, 2 * array)
        case "train":
            return _mb(TORCH_MB, array + TRAINED_BYTES * weights)
        case "sample":
            return _mb(TORCH_MB, 8 * weights)
        case "reference" | "score":
            return _mb(TORCH_MB, array + 16 * known * FEATURES)
        case "classify":
            return 2 * TORCH_MB
    return PLAIN_MB


def _mb(base: int, more: float) -> int:
    return base + math.ceil(more / 1e6)
