"""Train torchvision's ResNet18 or VGG16 from random weights, and test it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from noisesteps.classification.sets import LabelledSet
from noisesteps.config import Architecture, Classification
from noisesteps.devices import synchronize
from noisesteps.errors import DivergedError, StageError
from noisesteps.seeds import Key, derive, torch_generator
from noisesteps.training.optimizer import Adam

SMALLEST = 32  # pixels; the five poolings of VGG16 leave nothing of less

logger = logging.getLogger("noisesteps.classification")


def train_classifier(
    train: LabelledSet,
    test: LabelledSet,
    architecture: Architecture,
    settings: Classification,
    *,
    key: tuple[Key, ...],
    device: torch.device,
) -> dict[str, Any]:
    """Train a classifier from random weights on `train`; measure it on `test`.

    Pixels are scaled to [-1, 1]. Images keep their own size, unless a side is below 32
    pixels: then they are enlarged bilinearly to 32. Adam at a constant learning rate,
    fp32, no augmentation. An epoch is cut into even batches of at most
    `settings.batch_size` images. On a CPU equal keys and threads give equal results,
    bit for bit; on CUDA the gradient of adaptive pooling is summed in no fixed order.

    Parameters
    ----------
    train, test
        Labelled images of the same classes.
    architecture
        `resnet18` or `vgg16`, torchvision's, without pre-trained weights.
    settings
        Epochs, batch size and learning rate.
    key
        Seeds the weights, the order of the images and dropout:
        (seed, "classify", architecture, repetition). The set is no part of it, so that
        a repetition starts from the same weights whatever it learns from, and sets of
        one size are read in one order: their accuracies can be compared in pairs.
    device
        Where to train.

    Returns
    -------
    dict
        `accuracy` and `per_class_accuracy` (fractions of the test images that are named
        rightly), `accuracy_precise_bn` (the same, with the statistics of batch
        normalisation taken anew over `train`, which running averages reach only after
        many updates: Wu & Johnson 2021, arXiv 2105.07576), `train_images`,
        `test_images`, `classes`, `epochs`, `final_loss` (mean cross-entropy of the last
        epoch) and `seconds` (of training alone).

    Raises
    ------
    StageError
        If the two sets name different classes, or a class has no test images.
    DivergedError
        If the loss is not a finite number.
    """
    _require_usable(train, test)
    # cuDNN may round convolutions to TF32 unless it is told not to.
    exact = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with _private_randomness(derive(*key, "weights"), device), exact:
        network = build_network(architecture, len(train.classes)).to(device)
        synchronize(device)
        started = time.perf_counter()
        loss = _fit(network, train, settings, key, device)
        synchronize(device)
        seconds = time.perf_counter() - started
        predicted = _predict(network, test.images, settings.batch_size, device)
        _settle_normalisation(network, train.images, settings.batch_size, device)
        settled = _predict(network, test.images, settings.batch_size, device)
    right = predicted == test.labels
    return {
        "accuracy": float(right.mean()),
        "accuracy_precise_bn": float((settled == test.labels).mean()),
        "per_class_accuracy": {
            name: float(right[test.labels == label].mean())
            for label, name in enumerate(test.classes)
        },
        "train_images": len(train),
        "test_images": len(test),
        "classes": list(train.classes),
        "epochs": settings.epochs,
        "final_loss": loss,
        "seconds": seconds,
    }


def build_network(architecture: Architecture, classes: int) -> nn.Module:
    """Return a torchvision network with random weights and `classes` outputs.

    Its `forward` takes float (N, 3, H, W) with H and W of 32 or more.
    """
    from torchvision import models

    build = {"resnet18": models.resnet18, "vgg16": models.vgg16}[architecture]
    return build(weights=None, num_classes=classes)


def _require_usable(train: LabelledSet, test: LabelledSet) -> None:
    if train.classes != test.classes:
        raise StageError(
            f"The training set has the classes {', '.join(train.classes)}, but the "
            f"test set {', '.join(test.classes)}; run `noisesteps sets` again."
        )
    if len(np.unique(test.labels)) < len(test.classes):
        raise StageError(
            "A class has no test images; hold some out and run `noisesteps sets` again."
        )


@contextmanager
def _private_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what torchvision's layers draw from, and restore it afterwards.

    Initialisation and dropout take no generator of their own.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _fit(
    network: nn.Module,
    train: LabelledSet,
    settings: Classification,
    key: tuple[Key, ...],
    device: torch.device,
) -> float:
    """Train for all epochs; return the mean loss of the last one."""
    # The fused update is one pass over VGG16's 134 M weights instead of many.
    optimizer = Adam(network, settings.learning_rate)
    labels = torch.from_numpy(train.labels).to(device)
    batches = _batch_count(len(train), settings.batch_size)
    loss = math.nan
    for epoch in range(settings.epochs):
        generator = torch_generator(*key, "order", epoch)
        order = torch.randperm(len(train), generator=generator).tensor_split(batches)
        loss = _epoch(network, optimizer, train.images, labels, order)
        if not math.isfinite(loss):
            raise DivergedError(
                f"The classifier's loss is {loss} in epoch {epoch + 1}; lower "
                "classification.learning_rate."
            )
        logger.info("epoch %d of %d: loss %.4f", epoch + 1, settings.epochs, loss)
    return loss


def _epoch(
    network: nn.Module,
    optimizer: Adam,
    images: np.ndarray,
    labels: torch.Tensor,
    order: tuple[torch.Tensor, ...],
) -> float:
    """Make one update for each batch of indices; return the mean loss of an image."""
    network.train()
    total = torch.zeros((), device=labels.device)
    for rows in order:
        scores = network(_input(images[rows.numpy()], labels.device))
        loss = functional.cross_entropy(scores, labels[rows.to(labels.device)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(rows)
    return total.item() / sum(map(len, order))


@torch.no_grad()
def _settle_normalisation(
    network: nn.Module, images: np.ndarray, batch_size: int, device: torch.device
) -> None:
    """Replace the running averages of batch normalisation by those of all `images`.

    No weight changes; a network without batch normalisation is left as it is.
    """
    batches = np.array_split(images, _batch_count(len(images), batch_size))
    update_bn((_input(batch, device) for batch in batches), network)


def _batch_count(images: int, batch_size: int) -> int:
    """Count even batches, none of one image: it has no spread to normalise by."""
    return max(1, min(math.ceil(images / batch_size), images // 2))


@torch.inference_mode()
def _predict(
    network: nn.Module, images: np.ndarray, batch_size: int, device: torch.device
) -> np.ndarray:
    """Return the class int64 (N,) that the network gives each image."""
    network.eval()
    starts = range(0, len(images), batch_size)
    batches = (images[start : start + batch_size] for start in starts)
    return np.concatenate(
        [network(_input(batch, device)).argmax(1).cpu().numpy() for batch in batches]
    )


def _input(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Scale uint8 images to [-1, 1], enlarged to 32 pixels where they are smaller."""
    pixels = torch.from_numpy(np.array(images)).to(device).float() / 127.5 - 1
    size = tuple(max(side, SMALLEST) for side in pixels.shape[2:])
    if size == tuple(pixels.shape[2:]):
        return pixels
    return functional.interpolate(
        pixels, size=size, mode="bilinear", align_corners=False
    )
