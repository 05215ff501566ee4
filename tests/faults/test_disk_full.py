"""A full disk ends a stage in one sentence; nothing that was there before is lost.

Where the tests may mount a small file system they fill it; elsewhere no file may grow
beyond a limit, which fails in the same calls with another errno.
"""

import os

import harness
import numpy as np
import pytest
import torch
import yaml
from harness import CHECKPOINT, PREPROCESS, STAGES, TABULATE, TRAIN, Fork, SmallFiles

from noisesteps.errors import StageError
from noisesteps.files import write_array, write_text
from noisesteps.models import save_state
from noisesteps.training import checkpoint

PAGE = 4096
FULL = pytest.mark.faults_full
# How much of what a stage writes there is room for.
ROOMS = [
    pytest.param(
        *(stage, room),
        id=f"{stage}-{room}",
        marks=() if stage is not TRAIN and room == 0.5 else FULL,
    )
    for stage in STAGES
    for room in (0.0, 0.1, 0.5, 0.9)
]


def fill(folder, room: int):
    """Leave room for so many bytes, in whole pages; return the file to remove."""
    ballast = folder / "ballast"
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize - room
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))
    return ballast


@pytest.fixture
def on_small_disk(study, small_disk):
    """Return a copy of the study on the small file system."""
    if small_disk is None:
        pytest.skip("mounting a file system is not allowed")
    folder = harness.copy(study, small_disk / "copy")
    yield folder
    for path in sorted(small_disk.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def remove(folder, stage) -> int:
    """Remove the outputs of a stage; return the bytes they had, in whole pages."""
    sizes = [(folder / path).stat().st_size for path in stage.outputs]
    for path in stage.outputs:
        (folder / path).unlink()
    return sum(-(-size // PAGE) * PAGE for size in sizes)


def unharmed(study, folder, stage) -> bool:
    """Whether all files but the stage's own are as they were, and its own whole."""
    changed = harness.differing(study, folder)
    own = {path.as_posix() for path in stage.outputs}
    logs = (harness.RESULTS / "logs").as_posix()
    return not harness.leftovers(folder) and all(
        (path in own and not (folder / path).exists()) or path.startswith(logs)
        for path in changed
        if path != CHECKPOINT.as_posix()
    )


@pytest.mark.parametrize(("stage", "room"), ROOMS)
def test_a_full_disk_costs_nothing_but_the_stage(study, on_small_disk, stage, room):
    needed = remove(on_small_disk, stage)
    ballast = fill(on_small_disk, int(room * needed) // PAGE * PAGE)
    message = harness.run(on_small_disk, *stage.command).refused()
    assert "cannot be written" in message
    assert "free space" in message
    assert unharmed(study, on_small_disk, stage)
    ballast.unlink()
    harness.run(on_small_disk, *stage.command).check()
    assert harness.same_files(study, on_small_disk, stage.outputs)
    assert harness.leftovers(on_small_disk) == []


@pytest.mark.parametrize(
    "stage",
    [pytest.param(s, id=str(s), marks=() if s is TABULATE else FULL) for s in STAGES],
)
def test_a_file_that_may_not_grow_is_named(study, copied, stage):
    largest = max(stage.outputs, key=lambda path: (study / path).stat().st_size)
    size = (study / largest).stat().st_size
    remove(copied, stage)
    message = harness.run(
        copied, *stage.command, injury=SmallFiles(size // 2)
    ).refused()
    assert "cannot be written" in message
    assert unharmed(study, copied, stage)
    harness.run(copied, *stage.command).check()
    assert harness.same_files(study, copied, stage.outputs)


WRITERS = {
    "array": lambda path: write_array(path, np.zeros(PAGE - 64, np.uint8)),
    "weights": lambda path: save_state(path, {"weight": torch.zeros(PAGE)}),
    "checkpoint": lambda path: checkpoint.save(path, {"w": torch.zeros(PAGE)}, {}),
    "text": lambda path: write_text(path, "a" * 2 * PAGE),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_lacks_its_last_page_has_no_name(small_disk, kind):
    """Some writers keep the end in a buffer, and say nothing when it is lost."""
    if small_disk is None:
        pytest.skip("mounting a file system is not allowed")
    ballast, path = fill(small_disk, PAGE), small_disk / "file.npy"
    try:
        with pytest.raises(StageError, match=r"file\.npy cannot be written"):
            WRITERS[kind](path)
    finally:
        ballast.unlink()
    assert list(small_disk.iterdir()) == []


def test_an_array_that_has_no_room_is_refused_and_ends_no_process(on_small_disk):
    """A store to a mapped file would be SIGBUS where a page in the middle is missing.

    The decoded images lie beside the array until it is whole, and have room.
    """
    config = on_small_disk / "tiny.yaml"
    values = yaml.safe_load(config.read_text())
    values["preprocess"]["image_size"] = 32
    config.write_text(yaml.safe_dump(values))
    harness.run(on_small_disk, *PREPROCESS.command).check()
    array = on_small_disk / harness.DATA / "images.npy"
    decoded = array.stat().st_size
    assert decoded > 8 * PAGE
    ballast = fill(
        on_small_disk, remove(on_small_disk, PREPROCESS) + decoded - 4 * PAGE
    )
    message = harness.run(on_small_disk, *PREPROCESS.command).refused()
    assert "images.npy cannot be written" in message
    assert not array.exists()
    ballast.unlink()
    harness.run(on_small_disk, *PREPROCESS.command).check()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(study, on_small_disk):
    """There is room for a checkpoint, but not for the next one beside it."""
    remove(on_small_disk, TRAIN)
    next((on_small_disk / harness.LOG).glob("*.log")).unlink()
    training = Fork(on_small_disk, *TRAIN.command, injury=StopAfterCheckpoint())
    training.wait()
    size = (on_small_disk / CHECKPOINT).stat().st_size
    ballast = fill(on_small_disk, size // 2)
    message = harness.run(on_small_disk, *TRAIN.command).refused()
    assert message.startswith(f"{CHECKPOINT} cannot be written")
    assert unharmed(study, on_small_disk, TRAIN)
    ballast.unlink()
    harness.run(on_small_disk, *TRAIN.command).check()
    assert harness.resumptions(on_small_disk) == [0, 2, 2]
    assert harness.same_files(study, on_small_disk, TRAIN.outputs)


class StopAfterCheckpoint(harness.DieWriting):
    """Ends a training when it starts to write its second checkpoint."""

    def __init__(self):
        super().__init__(CHECKPOINT, limit=PAGE, time=2)
