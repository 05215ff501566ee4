"""Out of memory while sampling: the batch is halved, and said; the images stay."""

import json
from dataclasses import dataclass

import harness
import numpy as np
import pytest
from harness import SAMPLE, SAMPLES


@dataclass(frozen=True)
class SmallMemory:
    """Let the network run out of memory with more than so many images."""

    images: int

    def __call__(self) -> None:
        import torch

        from noisesteps.models.frozen import FrozenUNet

        predict = FrozenUNet.__call__

        def limited(network, x, index):
            if len(x) > self.images:
                raise torch.OutOfMemoryError(f"{len(x)} images")
            return predict(network, x, index)

        FrozenUNet.__call__ = limited


@pytest.mark.parametrize(("fits", "used"), [(8, 6), (5, 3), (2, 1), (1, 1)])
def test_the_batch_is_halved_and_the_images_stay(study, copied, fits, used):
    harness.write_config(copied, sampling={"batch_size": 6})
    ended = harness.run(copied, *SAMPLE.command, injury=SmallMemory(fits)).check()
    sizes = [size for size in (6, 3) if size > fits]
    assert ended.output.count("do not fit into the memory of cpu") == len(sizes)
    for size in sizes:
        said = f"{size} images do not fit into the memory of cpu; going on with"
        assert f"{said} {size // 2} at a time" in ended.output
    same, images = (np.load(f / SAMPLES / "images.npy") for f in (study, copied))
    assert np.array_equal(same, images)
    record = json.loads((copied / SAMPLES / "sample.json").read_text())
    assert record["batch_size"] == used
    assert len(record["batch_seconds"]) == -(-6 // used)


def test_an_image_that_does_not_fit_is_refused(copied):
    for path in SAMPLE.outputs:
        (copied / path).unlink()
    message = harness.run(copied, *SAMPLE.command, injury=SmallMemory(0)).refused()
    assert "One image does not fit into the memory of cpu" in message
    assert not any((copied / path).exists() for path in SAMPLE.outputs)


def test_other_stages_say_that_memory_is_short(copied):
    message = harness.run(
        copied, *harness.REFER.command, injury=NoMemoryForFeatures()
    ).refused()
    assert "memory is too small; lower the stage's batch_size" in message


@dataclass(frozen=True)
class NoMemoryForFeatures:
    """Let the feature extractor run out of memory."""

    def __call__(self) -> None:
        import torch

        from noisesteps.evaluation.extractors import Extractor

        def fail(extractor, images):
            raise torch.OutOfMemoryError("features")

        Extractor.features = fail
