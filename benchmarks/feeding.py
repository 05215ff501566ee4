"""What it costs to feed the trainer, and to prepare a data set."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

from benchmarks import ours
from benchmarks.rows import Row, make_row
from benchmarks.settings import SEED, STEPS, Settings
from benchmarks.timing import Work, alternate, compare
from noisesteps.config import Folder, Preprocess
from noisesteps.data import prepare
from noisesteps.diffusion import Diffusion
from noisesteps.seeds import numpy_generator, torch_generator
from noisesteps.training.learner import Learner

FILES = 128
SIDE = 500  # of the JPEGs, which is what Oxford Flowers 102 has


def feeding(settings: Settings) -> list[Row]:
    """Time a batch beside the update that learns from it."""
    return [row for name in settings.precisions for row in _feeding(settings, name)]


def _feeding(settings: Settings, precision: str) -> list[Row]:
    training = ours.training_section(settings, precision)
    learner = Learner(
        settings.network(), Diffusion(STEPS, "linear"), training, settings.on
    )
    batches = ours.batches_of(settings, learner, training)
    works = {
        "batch": Work(lambda: batches[7], device=settings.on),
        "noise": Work(lambda: _noise(settings)),
        "step": ours.training_step(settings, precision),
    }
    times = alternate(works, settings.rounds, settings.seconds)
    without = [
        max(batch - noise, 1e-9)
        for batch, noise in zip(times["batch"], times["noise"], strict=True)
    ]
    step = f"our training step, {precision}"
    with_noise = compare(times["batch"], times["step"])
    return [
        make_row(
            settings,
            f"feeding-{precision}",
            f"batch of {settings.batch}: choose, flip, normalise",
            step,
            compare(without, times["step"]),
            own_peer=True,
            goal=100.0,
            goal_text="≤ 1 % of it",
            note="the batch's time less that of drawing its noise",
        ),
        make_row(
            settings,
            f"feeding-with-noise-{precision}",
            f"the same and its noise, batch of {settings.batch}",
            step,
            with_noise,
            own_peer=True,
            note=images_a_second(settings.batch, with_noise.ours_s),
        ),
    ]


def images_a_second(batch: int, seconds: float) -> str:
    return f"{batch / seconds:,.0f} images/s"


def _noise(settings: Settings) -> torch.Tensor:
    """Draw what a batch draws."""
    shape = (settings.batch, 3, settings.image_size, settings.image_size)
    return torch.randn(shape, generator=torch_generator(*ours.KEY, "update", 7))


def preprocessing(settings: Settings) -> list[Row]:
    """Time our preparation of a folder beside reading it as torchvision does."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        _write_jpegs(source / "class")
        output = Path(folder, "output")
        works = {
            "ours": Work(lambda: _prepare(settings, source / "class", output), FILES),
            "torchvision": Work(lambda: _torchvision(settings, source), FILES),
        }
        times = alternate(works, settings.rounds, settings.seconds)
    compared = compare(times["ours"], times["torchvision"])
    return [
        make_row(
            settings,
            "preprocessing",
            f"an image of preprocess, JPEG {SIDE}×{SIDE} to {settings.image_size}",
            "torchvision's ImageFolder and transforms",
            compared,
            note=f"{1 / compared.ours_s:,.0f} images/s beside "
            f"{1 / compared.peer_s:,.0f}; ours is checked, hashed, split and written, "
            "once for all epochs",
        )
    ]


def _write_jpegs(folder: Path) -> None:
    """Write smooth pictures with some grain, which compress as photographs do."""
    folder.mkdir(parents=True)
    generator = numpy_generator(SEED, "benchmark", "jpegs")
    for index in range(FILES):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grain = generator.normal(0, 6, (SIDE, SIDE, 1))
        pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=90)
        (folder / f"{index:04d}.jpg").write_bytes(content.getvalue())


def _prepare(settings: Settings, source: Path, output: Path) -> None:
    dataset = Folder(format="folder", path=str(source), held_out=FILES // 4)
    preprocess = Preprocess(image_size=settings.image_size)
    prepare("pictures", dataset, preprocess, SEED, None, output)


def _torchvision(settings: Settings, source: Path) -> None:
    side = (settings.image_size, settings.image_size)
    transform = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    for _ in datasets.ImageFolder(source, transform):
        pass
