"""Measure what no record of a stage tells: one unit of the work of scoring stages.

Run as a process of its own, `python -m noisesteps.plan.units CONFIG DEVICE THREADS`,
so that as many as there are jobs at once disturb each other as the jobs will.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from noisesteps import devices
from noisesteps.classification import LabelledSet, train_classifier
from noisesteps.config import Study, load_study
from noisesteps.evaluation import load_extractor, nearest_relative
from noisesteps.plan.counts import weights_are_there

REPEATS = 3
BUDGET = 3.0  # seconds for the repeats of one unit, unless one alone takes longer
QUERIES, REFERENCES = 256, 512  # images, and those that they are compared with
CLASSIFIER_BATCHES = 2


def measure(study: Study, device: torch.device) -> dict[str, Any]:
    """Return the seconds of each unit, the first call of everything left out.

    Parameters
    ----------
    study
        Gives the sizes, the extractor and the classifiers.
    device
        Where to compute.

    Returns
    -------
    dict
        `feature`: of one image by the extractor (None if its weights are not there);
        `comparison`: of one value of an image with one of another, in the search for
        near-copies; `classified`: by architecture, of one image in one epoch.
    """
    return {
        "feature": _feature(study, device),
        "comparison": _comparison(study),
        "classified": {
            architecture: _classified(study, architecture, device)
            for architecture in _architectures(study)
        },
    }


def _architectures(study: Study) -> list[str]:
    return study.classification.architectures if study.classification else []


def median_seconds(work: Callable[[], float | None]) -> float:
    """Return the median time of a few calls after the first, by clock or as returned.

    No more calls are made once they have taken `BUDGET` seconds.
    """
    work()
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < BUDGET:
        started = time.perf_counter()
        told = work()
        times.append(time.perf_counter() - started if told is None else told)
    return statistics.median(times)


def _images(study: Study, count: int) -> np.ndarray:
    shape = (count, 3, *[study.preprocess.image_size] * 2)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _feature(study: Study, device: torch.device) -> float | None:
    if not weights_are_there(study):
        return None
    name, size = study.evaluation.extractor, study.evaluation.batch_size
    weights = study.distribution(name)
    folder = study.resource_folder(name) if weights else None
    extractor = load_extractor(name, folder, device, size, weights)
    images = _images(study, size)

    def work() -> None:
        extractor.features(images)

    return median_seconds(work) / size


def _comparison(study: Study) -> float:
    queries = _images(study, QUERIES)
    references = _images(study, REFERENCES)

    def work() -> None:
        nearest_relative(queries, references)

    return median_seconds(work) / (queries.size * REFERENCES)


def _classified(study: Study, architecture: str, device: torch.device) -> float:
    settings = study.classification.model_copy(update={"epochs": 1})
    count = CLASSIFIER_BATCHES * settings.batch_size
    classes = tuple(settings.datasets)
    images = _images(study, count)
    labels = np.arange(count) % len(classes)
    made = LabelledSet(images, labels, classes, ("",) * count)
    test = LabelledSet(
        images[: len(classes)], labels[: len(classes)], classes, ("",) * len(classes)
    )

    def work() -> float:
        key = (0, "plan", architecture)
        result = train_classifier(
            made, test, architecture, settings, key=key, device=device
        )
        return result["seconds"]

    return median_seconds(work) / count


def main(config: str, device: str, threads: str) -> None:
    """Print the units of a config as JSON."""
    devices.set_threads(int(threads))
    print(json.dumps(measure(load_study(config), devices.select_device(device))))


if __name__ == "__main__":
    main(*sys.argv[1:])
