"""The same run twice is the same run; what threads change is measured."""

import harness
import pytest
from harness import DATA, MODEL, PREPROCESS, REFER, SAMPLE, SAMPLES, SCORES, TRAIN

from noisesteps.files import read_json

FULL = pytest.mark.faults_full
# They show times, which no two runs share.
TIMED = ("report.html", "figures/generation_time", "figures/quality_vs_cost")


def untimed(paths):
    return [path for path in paths if not any(name in path for name in TIMED)]


def kept(paths):
    """Leave out the logs, which are named by the day and the second."""
    return [path for path in untimed(paths) if "/logs/" not in path]


def test_the_same_study_twice_has_the_same_bits(study, tmp_path, record_property):
    """Every array, model, sample, table and figure, but for measured times."""
    again = harness.build(tmp_path, harness.commands())
    assert kept(harness.differing(study, again)) == []
    compared = kept(harness.fingerprints(again))
    record_property("files", len(compared))
    kinds = {path.rsplit(".", 1)[1] for path in compared}
    assert kinds == {"npy", "npz", "safetensors", "csv", "json", "png", "svg"}


def test_another_seed_is_another_study(study, tmp_path):
    """What could not differ would prove nothing."""
    stages = (PREPROCESS.command, TRAIN.command, SAMPLE.command)
    other = harness.build(tmp_path, stages, seed=8)
    for path in (DATA / "images.npy", MODEL / "model.safetensors"):
        assert not harness.same_files(study, other, [path])
    assert not harness.same_files(study, other, [SAMPLES / "images.npy"])


@FULL
def test_what_the_number_of_threads_changes(tmp_path, record_property):
    """Train and sample the toys' network with one thread and with two."""
    changes = {
        "preprocess": {"image_size": 16},
        "network": {"preset": "toy-16"},
        "training": {"epochs": 20},
    }
    folders = []
    for threads in (1, 2):
        folder = harness.build(tmp_path / str(threads), [PREPROCESS.command], **changes)
        for stage in (TRAIN, SAMPLE, REFER, SCORES):
            harness.run(folder, *stage.command, "--threads", str(threads)).check()
        folders.append(folder)
    one, two = folders
    record_property("largest_weight_difference", weights_apart(one, two))
    pixels = harness.largest_difference(one, two, SAMPLES / "images.npy")
    record_property("largest_pixel_difference", pixels)
    scores = [read_json(f / harness.SCORE / "score.json")["value"] for f in folders]
    record_property("score_difference", abs(scores[0] - scores[1]) / scores[0])
    again = harness.run(two, *TRAIN.command, "--threads", "2").check()
    assert again.code == 0


def weights_apart(one, other) -> float:
    """Return the largest difference between the weights of two models."""
    from safetensors.torch import load_file

    mine, theirs = (load_file(f / MODEL / "model.safetensors") for f in (one, other))
    return max((mine[name] - theirs[name]).abs().max().item() for name in mine)
