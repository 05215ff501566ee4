"""Real faces, with the archive's own duplicates, and altered copies of them."""

import io
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

FACES = (
    Path(__file__).parents[2]
    / "shared/data/anime_faces/highresolution-anime-face-dataset-512x512.zip"
)
needs_faces = pytest.mark.skipif(
    not FACES.is_file(), reason="the archive of real faces is not here"
)


def load() -> tuple[np.ndarray, np.ndarray]:
    """400 real faces to train on, 200 held out, of which 20 are exact duplicates."""
    with zipfile.ZipFile(FACES) as archive:
        files = [info for info in archive.infolist() if info.filename.endswith(".jpg")]
        content = defaultdict(list)
        for info in files:
            content[info.CRC, info.file_size].append(info.filename)
        pairs = [names[:2] for names in content.values() if len(names) > 1][:20]
        alone = [names[0] for names in content.values() if len(names) == 1][:560]
        train = [pair[0] for pair in pairs] + alone[:380]
        held_out = [pair[1] for pair in pairs] + alone[380:]
        return tuple(
            np.stack([decode(archive.read(name)) for name in names])
            for names in (train, held_out)
        )


def decode(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32))
    return np.asarray(image).transpose(2, 0, 1)


def planted(train: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a model that memorises would make of 100 training images."""
    random = np.random.default_rng(2)
    values = train[100:200].astype(np.float64)
    made = {
        "exact": values,
        "mirrored": values[..., ::-1],
        "noise of 10": values + random.normal(0, 10, values.shape),
        "noise of 20": values + random.normal(0, 20, values.shape),
        "brighter": values * 1.1,
        "blurred": gaussian_filter(values, (0, 0, 0.5, 0.5)),
        "shifted": np.roll(values, 1, axis=-1),
    }
    return {kind: to_image(found) for kind, found in made.items()}


def to_image(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).round().astype(np.uint8)
