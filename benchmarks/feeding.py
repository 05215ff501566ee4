"""What it costs to feed the trainer, and to prepare a data set."""

from __future__ import annotations

import io
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import ours
from benchmarks.contestants import as_a_stage, take_turns
from benchmarks.groups import Later
from benchmarks.networks import TRAINING
from benchmarks.rows import Row, make_row
from benchmarks.settings import SEED, STEPS, Settings
from benchmarks.timing import Measured, Work
from noisesteps.config import Folder, Preprocess
from noisesteps.data import prepare
from noisesteps.diffusion import Diffusion
from noisesteps.seeds import numpy_generator, torch_generator
from noisesteps.training.learner import Learner

UPDATE = 7  # whose batch it is
FILES = 128
SIDE = 500  # of the JPEGs, which is what Oxford Flowers 102 has


def feeding(settings: Settings) -> list[Row]:
    """Time a batch beside the update that learns from it."""
    return [row for name in settings.precisions for row in _feeding(settings, name)]


def _feeding(settings: Settings, precision: str) -> list[Row]:
    makers = {
        "batch": partial(as_a_stage, Later("feeding", "batch"), settings, precision),
        "noise": partial(as_a_stage, Later("feeding", "noise"), settings),
        "step": partial(TRAINING["ours"], settings, precision),
    }
    found = take_turns(settings, "feeding", makers)
    whole = found["batch"]
    without = [
        max(both - noise, 1e-9)
        for both, noise in zip(whole.seconds, found["noise"].seconds, strict=True)
    ]
    step = f"our training step, {precision}"
    return [
        make_row(
            settings,
            f"feeding-{precision}",
            f"batch of {settings.batch}: choose, flip, normalise",
            step,
            (Measured(without, whole.most_bytes), found["step"]),
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
            (whole, found["step"]),
            own_peer=True,
            note=images_a_second(settings.batch, whole.middle_s),
        ),
    ]


def images_a_second(batch: int, seconds: float) -> str:
    return f"{batch / seconds:,.0f} images/s"


def batch(settings: Settings, precision: str) -> Work:
    """Choose, flip and normalise a batch, and draw its noise."""
    training = ours.training_section(settings, precision)
    learner = Learner(
        settings.network(), Diffusion(STEPS, "linear"), training, settings.on
    )
    batches = ours.batches_of(settings, learner, training)
    return Work(lambda: batches[UPDATE], device=settings.on)


def noise(settings: Settings) -> Work:
    """Draw what a batch draws."""
    shape = (settings.batch, 3, settings.image_size, settings.image_size)

    def draw() -> torch.Tensor:
        generator = torch_generator(*ours.KEY, "update", UPDATE)
        return torch.randn(shape, generator=generator)

    return Work(draw)


def preprocessing(settings: Settings) -> list[Row]:
    """Time our preparation of a folder beside reading it as torchvision does."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        _write_jpegs(source / "class")
        output = Path(folder, "output")
        found = take_turns(
            settings,
            "preprocessing",
            {
                "ours": partial(
                    as_a_stage,
                    Later("feeding", "preparation"),
                    settings,
                    source / "class",
                    output,
                ),
                "torchvision": partial(
                    Later("feeding", "torchvision_reading"), settings, source
                ),
            },
        )
    prepared, read = found["ours"], found["torchvision"]
    return [
        make_row(
            settings,
            "preprocessing",
            f"an image of preprocess, JPEG {SIDE}×{SIDE} to {settings.image_size}",
            "torchvision's ImageFolder and transforms",
            (prepared, read),
            note=f"{1 / prepared.middle_s:,.0f} images/s beside "
            f"{1 / read.middle_s:,.0f}; ours is checked, hashed, split and written, "
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


def preparation(settings: Settings, source: Path, output: Path) -> Work:
    """Prepare a folder of pictures as the stage does."""
    dataset = Folder(format="folder", path=str(source), held_out=FILES // 4)
    preprocess = Preprocess(image_size=settings.image_size)
    return Work(
        lambda: prepare("pictures", dataset, preprocess, SEED, None, output), FILES
    )


def torchvision_reading(settings: Settings, source: Path) -> Work:
    """Read a folder of folders of pictures as torchvision does, once."""
    from torchvision import datasets, transforms

    side = (settings.image_size, settings.image_size)
    transform = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    def read() -> None:
        for _ in datasets.ImageFolder(source, transform):
            pass

    return Work(read, FILES)
