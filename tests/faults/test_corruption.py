"""A damaged file is named, and never used; made anew, it has the same bits."""

import logging
import time

import harness
import pytest
from click.testing import CliRunner
from harness import (
    CHECKPOINT,
    CLASSIFIER,
    CLASSIFY,
    DATA,
    DRAW,
    MODEL,
    PREPROCESS,
    REFER,
    REFERENCE,
    REPORT,
    RESULTS,
    SAMPLE,
    SAMPLES,
    SCORES,
    SET,
    SETS,
    TABULATE,
    TRAIN,
    DieWriting,
)

from noisesteps.cli import main
from noisesteps.files import checksum

FULL = pytest.mark.faults_full
EXPORT = ("export", "images", *harness.RUN, "--output", "exported")
EXPORT_PIPELINE = ("export", "pipeline", *harness.RUN, "--output", "exported")
DRAW_DATA = ("draw", "--figure", "dataset_toy_flowers")
DRAW_COSTS = ("draw", "--figure", "quality_vs_cost")
DRAW_COPIES = ("draw", "--figure", "copies_toy_flowers")
DRAW_LOSSES = ("draw", "--figure", "training_loss_toy_flowers")
# A file, the stage that makes it, and the command lines that read it.
FILES = {
    DATA / "images.npy": (
        PREPROCESS,
        (TRAIN.command, REFER.command, SET.command, DRAW_DATA),
    ),
    MODEL / "model.safetensors": (TRAIN, (SAMPLE.command, EXPORT_PIPELINE)),
    SAMPLES / "images.npy": (
        SAMPLE,
        (SCORES.command, SET.command, DRAW.command, EXPORT),
    ),
    REFERENCE / "reference.npz": (REFER, (SCORES.command,)),
    REFERENCE / "features.npy": (REFER, (SCORES.command,)),
    SETS / "mix/images.npy": (SET, (CLASSIFY.command,)),
    SETS / "mix/labels.csv": (SET, (CLASSIFY.command,)),
    DATA / "dataset.json": (PREPROCESS, (TRAIN.command, SET.command)),
    MODEL / "model.json": (TRAIN, (SAMPLE.command, ("tabulate", "--table", "models"))),
    SAMPLES / "sample.json": (SAMPLE, (SCORES.command, SET.command, EXPORT)),
    harness.SCORE / "score.json": (SCORES, (TABULATE.command,)),
    REFERENCE / "reference.json": (REFER, (SCORES.command,)),
    SETS / "mix/set.json": (SET, (CLASSIFY.command,)),
    CLASSIFIER / "seed0.json": (CLASSIFY, (("tabulate", "--table", "classifiers"),)),
    MODEL / "history.csv": (TRAIN, (DRAW_LOSSES,)),
    harness.SCORE / "nearest.csv": (SCORES, (DRAW_COPIES, REPORT.command)),
    REFERENCE / "nearest.csv": (REFER, (DRAW_COPIES, REPORT.command)),
    DATA / "rejected.csv": (PREPROCESS, (REPORT.command,)),
    RESULTS / "tables/fid.csv": (TABULATE, (DRAW_COSTS, REPORT.command)),
    RESULTS / "tables/fid.json": (TABULATE, (DRAW_COSTS, REPORT.command)),
    DRAW.outputs[0]: (DRAW, (REPORT.command,)),
    DRAW.outputs[-1]: (DRAW, (REPORT.command,)),
}
READERS = [(path, line) for path, (_, lines) in FILES.items() for line in lines]
FLIPS = 20
SHARES = (0.0, 0.3, 0.999)


def name(value) -> str:
    if isinstance(value, tuple):
        return "_".join(value[:2] if value[0] == "export" else value[:1])
    return value.relative_to(harness.RESULTS).as_posix()


def read(folder, line) -> str:
    """Run a command line here, which is to be refused; return its sentence."""
    words = line[: 2 if line[0] == "export" else 1]
    arguments = [*words, "--config", "tiny.yaml", *line[len(words) :]]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    return harness.Ended(result.exit_code, result.output).refused()


@pytest.fixture
def here(copied, monkeypatch):
    """Work in a copy of the study, in this process."""
    monkeypatch.chdir(copied)
    logging.disable()
    yield copied
    logging.disable(logging.NOTSET)


def refuses(here, path, line) -> None:
    before = harness.states(here)
    message = read(here, line)
    assert path.as_posix() in message or path.parent.as_posix() in message
    assert "damaged" in message or "cannot be read" in message
    assert "run `noisesteps " in message
    assert harness.states(here) == before
    assert not (here / "exported").exists()


@pytest.mark.parametrize(("path", "line"), READERS, ids=name)
def test_a_truncated_file_is_named_and_not_used(here, path, line, record_property):
    whole = (here / path).read_bytes().rstrip()  # a last line break carries nothing
    for share in SHARES:
        (here / path).write_bytes(whole[: int(share * len(whole))])
        refuses(here, path, line)
    record_property("tried", len(SHARES))


@pytest.mark.parametrize(("path", "line"), READERS, ids=name)
@pytest.mark.parametrize("flips", [2, pytest.param(FLIPS, marks=FULL)])
def test_a_flipped_bit_is_noticed_and_the_file_not_used(
    here, path, line, flips, record_property
):
    """Unless it is one of the spaces in a record, which carry nothing."""
    whole = (here / path).read_bytes()
    for moment in harness.moments(f"{path} {line}", flips):
        place = int(moment * len(whole))
        while path.suffix == ".json" and whole[place : place + 1].isspace():
            place -= 1
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (here / path).write_bytes(damaged)
        refuses(here, path, line)
    record_property("tried", flips)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name(path), marks=() if "samples" in str(path) else FULL)
        for path in FILES
    ],
)
def test_what_is_made_anew_is_the_same(study, copied, path):
    stage, lines = FILES[path]
    harness.flip(copied / path, min(200, (copied / path).stat().st_size - 1))
    assert harness.run(copied, *lines[0]).code == 2
    (copied / path).unlink()
    harness.run(copied, *stage.command).check()
    assert harness.same_files(study, copied, stage.outputs)
    harness.run(copied, *lines[0]).check()
    for reader in harness.STAGES:
        if reader.command == lines[0] and reader != REPORT:  # it shows times
            assert harness.same_files(study, copied, reader.outputs)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=() if number == 0 else FULL)
        for number, moment in enumerate(harness.moments("checkpoint", 10))
    ],
)
def test_a_damaged_checkpoint_is_named_and_not_used(study, copied, damage, moment):
    for output in TRAIN.outputs:
        (copied / output).unlink()
    harness.run(copied, *TRAIN.command, injury=DieWriting(CHECKPOINT, 10, time=3))
    size = (copied / CHECKPOINT).stat().st_size
    if damage == "truncated":
        harness.truncate(copied / CHECKPOINT, moment)
    else:
        harness.flip(copied / CHECKPOINT, int(moment * size))
    ended = harness.run(copied, *TRAIN.command).check()
    assert f"The checkpoint {CHECKPOINT} is damaged" in ended.output
    assert harness.resumptions(copied)[-1] == 0
    assert harness.same_files(study, copied, TRAIN.outputs)


@FULL
def test_checksums_cost_little(tmp_path, record_property):
    """Time a gigabyte: about two models, or two data sets, of the dissertation's."""
    path = tmp_path / "gigabyte"
    piece = bytes(range(256)) * 4096
    with path.open("wb") as file:
        for _ in range(1024):
            file.write(piece)
    start = time.process_time()
    checksum(path)
    seconds = time.process_time() - start
    record_property("seconds_per_gibibyte", round(seconds, 2))
    assert seconds < 10
