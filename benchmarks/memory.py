"""Peak memory of stages."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.resident import most_bytes
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.study import PROJECT, TRAIN, environment, write_study

STAGE_IMAGES = (64, 8192)
STAGE_LIMIT = 10**9


def of_stages(settings: Settings) -> list[Row]:
    """Measure the stage `train` on a small and on a large data set.

    What counts is the memory above the array, the weights and a process that has
    imported torch.
    """
    weights = 4 * settings.network().parameter_count
    pixels = 3 * settings.image_size**2
    alone = ("-c", "import torch")
    torch_alone = most_bytes(alone, PROJECT, environment())
    return [
        _stage_row(settings, images, images * pixels + weights + torch_alone)
        for images in STAGE_IMAGES
    ]


def _stage_row(settings: Settings, images: int, given: int) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, settings, images)
        where = ("--device", settings.device, "--threads", str(settings.threads))
        train = ("-m", "noisesteps", "train", *TRAIN, *where)
        used = most_bytes(train, folder, environment())
    above = used - given
    return make_row(
        settings,
        f"memory-train-{images}",
        f"memory of `train`, {images:,} images, above array, weights and torch",
        "array, weights, `import torch`",
        ratio=STAGE_LIMIT / max(above, 1),
        goal=1.0,
        goal_text="≤ 1 GB above",
        ours_bytes=used,
        peer_bytes=given,
        note=f"{above / 1e9:.2f} GB above; the ratio is 1 GB to that",
    )
