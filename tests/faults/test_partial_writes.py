"""A process that dies while it writes a file leaves no half file with a final name."""

import harness
import pytest
from harness import (
    CHECKPOINT,
    LOG,
    MODEL,
    SAMPLE,
    STAGES,
    TABULATE,
    TRAIN,
    DieRenaming,
    DieWriting,
)

SIGKILLED, LIMITED = -9, -25
ESSENTIAL = [  # one of each kind; `make test-faults` does every file of every stage
    (SAMPLE, "images.npy"),
    (TRAIN, "model.safetensors"),
    (TABULATE, "fid.csv"),
]
FILES = [
    pytest.param(
        *(stage, path),
        id=f"{stage}-{path.relative_to(harness.RESULTS)}",
        marks=() if (stage, path.name) in ESSENTIAL else pytest.mark.faults_full,
    )
    for stage in STAGES
    for path in stage.outputs
]


@pytest.mark.parametrize("before", ["nothing", "the last whole file"])
@pytest.mark.parametrize(("stage", "path"), FILES)
def test_a_file_is_whole_or_absent(study, copied, stage, path, before):
    whole = (study / path).read_bytes()
    if before == "nothing":
        for output in stage.outputs:
            (copied / output).unlink()
    die = DieWriting(path, limit=len(whole) // 2)
    assert harness.run(copied, *stage.command, injury=die).code == LIMITED
    half = harness.leftovers(copied)
    assert [file.parent for file in half] == [(copied / path).parent]
    assert half[0].stat().st_size <= len(whole) // 2
    for output in stage.outputs:
        assert not (copied / output).exists() or harness.same_files(
            study, copied, [output]
        )
    assert (copied / path).exists() == (before != "nothing")

    harness.run(copied, *stage.command).check()
    assert harness.same_files(study, copied, stage.outputs)
    assert harness.leftovers(copied) == []


@pytest.mark.parametrize(("stage", "path"), FILES)
def test_a_kill_just_before_the_rename_is_made_good(study, copied, stage, path):
    for output in stage.outputs:
        (copied / output).unlink()
    die = DieRenaming(path)
    assert harness.run(copied, *stage.command, injury=die).code == SIGKILLED
    assert not (copied / path).exists()
    assert len(harness.leftovers(copied)) == 1
    harness.run(copied, *stage.command).check()
    assert harness.same_files(study, copied, stage.outputs)
    assert harness.leftovers(copied) == []


@pytest.mark.parametrize("die", ["while writing", "before renaming"])
def test_the_last_whole_checkpoint_is_used(study, copied, die, record_property):
    for output in TRAIN.outputs:
        (copied / output).unlink()
    (copied / LOG / next((copied / LOG).glob("*.log")).name).unlink()
    # The first checkpoint, after 2 updates, shows how large the others are.
    first = harness.run(
        copied, *TRAIN.command, injury=DieWriting(CHECKPOINT, 10**4, time=2)
    )
    assert first.code == LIMITED
    size = (copied / CHECKPOINT).stat().st_size
    injury = DieRenaming(CHECKPOINT)
    if die == "while writing":
        injury = DieWriting(CHECKPOINT, size // 2)
    second = harness.run(copied, *TRAIN.command, injury=injury)
    assert second.code in (LIMITED, SIGKILLED)
    harness.run(copied, *TRAIN.command).check()
    assert harness.resumptions(copied) == [0, 2, 2]
    assert harness.same_files(study, copied, TRAIN.outputs)
    assert harness.leftovers(copied) == []
    record_property("lost_updates", 2)
    assert not (copied / CHECKPOINT).exists()


def test_the_checkpoint_stays_until_the_model_is_published(study, copied):
    """A kill between the weights and their record repeats no update."""
    for output in TRAIN.outputs:
        (copied / output).unlink()
    die = DieRenaming(MODEL / "model.json")
    assert harness.run(copied, *TRAIN.command, injury=die).code == SIGKILLED
    harness.run(copied, *TRAIN.command).check()
    assert harness.resumptions(copied)[-1] == 10  # all of them
    assert harness.same_files(study, copied, TRAIN.outputs)
