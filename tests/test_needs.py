"""What a job asks of a cluster, held against the networks and published times."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from finished_study import study as small_study
from noisesteps.config import load_study, parse_study
from noisesteps.files import write_json
from noisesteps.models import UNet
from noisesteps.models.presets import PRESETS
from noisesteps.needs import NETWORKS, START_MINUTES, needs
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.published import IMAGES
from noisesteps.tables.published import dissertation as published
from test_workflow import ROOT, dry_run

IMAGE_SIZES = {"ddpm-113m": 128, "small-32": 32, "toy-16": 16, "tiny": 8}
TRAINING_IMAGES = {
    "oxford_flowers": 7169,
    "smithsonian_butterflies": 1000,
    "anime_faces": 14_000,
}


@pytest.fixture(scope="module")
def dissertation():
    return load_study(ROOT / "config" / "config.yaml")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_of_networks_is_the_networks(preset):
    size = IMAGE_SIZES[preset]
    with torch.device("meta"):
        network = UNet.preset(preset, size).to("meta")
        image, timestep = torch.empty(1, 3, size, size), torch.zeros(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, timestep)
    parameters = sum(weight.numel() for weight in network.parameters())
    assert NETWORKS[preset].parameters == parameters
    assert NETWORKS[preset].flops * size**2 == counter.get_total_flops()


@pytest.mark.parametrize("dataset", TRAINING_IMAGES)
def test_a_training_asks_for_what_the_dissertation_took_and_not_twice(
    dissertation, dataset
):
    hours = published("training_time").set_index("dataset").hours[dataset]
    images = TRAINING_IMAGES[dataset]
    asked = needs(dissertation, "train", dataset=dataset, images=images).minutes
    assert hours * 60 < asked < 2 * hours * 60


def test_sampling_asks_for_what_the_dissertation_took_and_not_three_times(dissertation):
    of_each = dissertation.sample_images(Run("anime_faces", "linear", 100)) / IMAGES
    for row in published("generation_time").itertuples():
        run = Run("anime_faces", "linear", row.steps)
        asked = needs(dissertation, "sample", run=run).minutes - START_MINUTES
        assert 1 < asked * 60 / (of_each * row.seconds) < 3


@given(
    steps=st.integers(1, 4000),
    images=st.integers(16, 100_000),
    attempt=st.integers(1, 5),
    stage=st.sampled_from(
        ["preprocess", "train", "sample", "reference", "score", "classify", "draw"]
    ),
)
def test_more_work_asks_for_no_less(steps, images, attempt, stage):
    chosen = small_study()
    where = {"dataset": "oxford_flowers", "attempt": attempt}
    runs = [Run("oxford_flowers", "linear", T) for T in (steps, 2 * steps)]
    least = needs(chosen, stage, run=runs[0], images=images, **where)
    more = needs(chosen, stage, run=runs[1], images=2 * images, **where)
    assert START_MINUTES <= least.minutes <= more.minutes
    assert 0 < least.memory_mb <= more.memory_mb


def test_time_grows_with_steps_images_and_network(dissertation):
    def minutes(stage, **where):
        return needs(dissertation, stage, **where).minutes - START_MINUTES

    faces = {"dataset": "anime_faces"}
    few, many = (Run("anime_faces", "linear", steps) for steps in (200, 2000))
    assert minutes("sample", run=many) == pytest.approx(
        10 * minutes("sample", run=few), abs=10
    )
    respaced = Run("anime_faces", "linear", 2000, sampler="ddim-200")
    assert minutes("sample", run=respaced) == minutes("sample", run=few)
    assert minutes("train", images=12_800, **faces) == pytest.approx(
        2 * minutes("train", images=6400, **faces), abs=2
    )
    values = dissertation.model_dump(mode="json", exclude_unset=True)
    tiny = parse_study(values | {"network": {"preset": "small-32"}})
    asked = needs(tiny, "train", images=14_000, **faces).minutes - START_MINUTES
    assert asked < minutes("train", images=14_000, **faces) / 10


def test_a_retry_asks_for_more_except_for_the_time_that_training_keeps(dissertation):
    where = {"dataset": "oxford_flowers", "run": Run("oxford_flowers", "linear", 500)}
    for stage in ("preprocess", "train", "sample", "reference", "score", "classify"):
        first = needs(dissertation, stage, **where)
        third = needs(dissertation, stage, attempt=3, **where)
        assert third.memory_mb == 3 * first.memory_mb
        times = 1 if stage == "train" else 3
        assert third.minutes == times * first.minutes


def test_training_memory_holds_the_network_and_its_checkpoint(dissertation):
    asked = needs(dissertation, "train", dataset="oxford_flowers", images=7169)
    weights = 4 * NETWORKS["ddpm-113m"].parameters / 1e6
    array = 7169 * 3 * 128 * 128 / 1e6
    # Weights, gradients and two moments; weights and moments again in the checkpoint.
    assert asked.memory_mb > 7 * weights + array


def test_updates_may_be_given_instead_of_epochs(dissertation):
    values = dissertation.model_dump(mode="json", exclude_unset=True)
    chosen = parse_study(values | {"training": {"optimizer_steps": 448 * 50}})
    where = {"dataset": "oxford_flowers"}
    by_updates = needs(chosen, "train", images=14_000, **where)
    epochs = 448 * 50 / math.ceil(14_000 / 16)
    by_epochs = needs(dissertation, "train", images=14_000, **where)
    ratio = (by_epochs.minutes - START_MINUTES) / (by_updates.minutes - START_MINUTES)
    assert ratio == pytest.approx(50 / epochs, rel=0.01)


def test_the_rules_ask_for_it(tmp_path, dissertation):
    """A dry run shows what SLURM would be asked for; nothing is counted yet."""
    plan = dry_run(tmp_path, ROOT / "config" / "config.yaml").stdout
    jobs = [job for job in plan.split("\nrule ") if job.startswith(("train", "sample"))]
    assert len(jobs) >= 2 * len(dissertation.runs)
    for job in jobs:
        said = dict(re.findall(r"(\w+)=([^,\n]*)", job))
        sampler = said.get("sampler", "").removeprefix("/") or None
        where = (said["dataset"], said["schedule"], int(said["steps"]))
        run = Run(*where, sampler=sampler)
        asked = needs(dissertation, job.split(":")[0], dataset=run.dataset, run=run)
        assert int(said["mem_mb"]) == asked.memory_mb
        assert int(said["runtime"]) == asked.minutes


def test_the_rules_ask_for_what_was_counted(tmp_path, dissertation):
    folder = StudyPaths("dissertation").data("oxford_flowers")
    write_json(tmp_path / folder / "dataset.json", {"train": 7169})
    plan = dry_run(tmp_path, ROOT / "config" / "config.yaml").stdout
    asked = needs(dissertation, "train", dataset="oxford_flowers", images=7169)
    assert f"runtime={asked.minutes}" in plan
