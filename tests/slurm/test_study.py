"""A whole study on a real SLURM, with three trainings that SLURM ends in the middle.

One is put back into the queue (`scontrol requeue`, as pre-emption does), one is
cancelled, one meets its time limit. Every result must be that of an undisturbed run on
this machine without SLURM.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from comparison import content, results

from noisesteps.config import parse_study
from noisesteps.needs import needs
from noisesteps.paths import Run, StudyPaths

sys.path.insert(0, str(Path(__file__).parents[1]))
from pretended_gpus import interpreter, told

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(7200)]
ROOT = Path(__file__).parents[2]
# SLURM looks every 30 s for jobs beyond their limit: the one that it ends so is longer.
EPOCHS = {"toy_flowers": 150, "toy_butterflies": 600}
UPDATES_AN_EPOCH = 4
STUDY = {
    "study": "tiny",
    "seed": 7,
    "datasets": {
        name: {"format": name, "train": 40, "held_out": 8, "epochs": epochs}
        for name, epochs in EPOCHS.items()
    },
    "preprocess": {"image_size": 8},
    "network": {"preset": "tiny"},
    "diffusion": {"schedules": ["linear"], "steps": [2, 5]},
    "training": {
        **{"batch_size": 10, "warmup_steps": 10},
        **{"precision": "fp32", "checkpoint_epochs": 100, "log_steps": 1},
    },
    "sampling": {"images": 6, "batch_size": 3},
    "evaluation": {"extractor": "efficientnet-lite0", "batch_size": 8},
    "classification": {
        **{"datasets": ["toy_flowers", "toy_butterflies"], "schedule": "linear"},
        **{"steps": 5, "images_per_class": 8, "architectures": ["resnet18"]},
        **{"seeds": 1, "epochs": 1, "batch_size": 8, "sets": ["mix"]},
    },
    "figures": {"grid_columns": 4, "dpi": 60},
}
PATHS = StudyPaths("tiny")
INJURIES = {
    "requeue": Run("toy_flowers", "linear", 2),
    "cancel": Run("toy_flowers", "linear", 5),
    "time limit": Run("toy_butterflies", "linear", 2),
}
# The same threads here and there, since sums depend on them in their last bits.
COMMON = ["--configfile", "tiny.yaml", "--max-threads", "1", "--nocolor"]
ON_SLURM = [
    *("--workflow-profile", str(ROOT / "workflow" / "profiles" / "slurm")),
    # A user sets partition and account in the profile; this cluster has no accounts
    # and no accounting, so that squeue alone knows the jobs.
    *("--default-resources", "slurm_partition=gpu"),
    *("--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "5"),
]


class Injurer(threading.Thread):
    """Ends each training of `INJURIES` once, when it is under way."""

    def __init__(self, cluster: Cluster, folder: Path):
        super().__init__(daemon=True)
        self.cluster, self.folder = cluster, folder
        self.left = dict(INJURIES)
        self.ended = threading.Event()

    def run(self) -> None:
        while self.left and not self.ended.wait(0.2):
            for job, (state, comment) in self.cluster.jobs().items():
                for injury, run in list(self.left.items()):
                    prefix = "_".join(map(str, run.path.parts)).replace("_T", "_")
                    if (
                        state == "RUNNING"
                        and f"train_wildcards_tiny_{prefix}" in comment
                    ):
                        self._injure(job, injury, run)

    def _injure(self, job: str, injury: str, run: Run) -> None:
        if not 20 < updates_done(self.folder, run) < updates(run) - 100:
            return
        del self.left[injury]
        match injury:
            case "requeue":
                self.cluster("scontrol", "requeue", job)
                threading.Thread(target=self._start_soon, args=[job]).start()
            case "cancel":
                self.cluster("scancel", job)
            case "time limit":
                # The limit itself counts in minutes; its end may be any second.
                end = time.strftime("%FT%T", time.localtime(time.time() + 1))
                self.cluster("scontrol", "update", f"JobId={job}", f"EndTime={end}")

    def _start_soon(self, job: str) -> None:
        """Shorten the two minutes that a requeued job has to wait."""
        while self.cluster.jobs()[job][0] != "PENDING":
            time.sleep(0.2)
        self.cluster("scontrol", "update", f"JobId={job}", "StartTime=now")


def named(run: Run) -> str:
    """Return how the comment of a training's job begins."""
    return f"rule_train_wildcards_tiny_{run.dataset}_{run.schedule}_{run.steps}"


def daily_log(folder: Path, run: Run) -> str:
    logs = sorted((folder / PATHS.log("train", run)).rglob("*.log"))
    return "".join(path.read_text() for path in logs)


def updates(run: Run) -> int:
    return EPOCHS[run.dataset] * UPDATES_AN_EPOCH


def updates_done(folder: Path, run: Run) -> int:
    done = re.findall(r"update (\d+)/", daily_log(folder, run))
    return int(done[-1]) if done else 0


def snakemake(folder: Path, python: Path, *arguments: str, **environment: str) -> None:
    """Run the tiny study in `folder`; show Snakemake's own words if it fails."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    command = [python, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", *COMMON]
    result = subprocess.run(
        [*map(str, command), *arguments],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "TOLD": str(folder / "told")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (folder / "snakemake.log").write_text(result.stdout)
    assert result.returncode == 0, result.stdout[-8000:]


def job_descriptions(cluster: Cluster) -> list[dict[str, str]]:
    """Return what SLURM knows about each job, as `scontrol show job` prints it."""
    lines = cluster("scontrol", "show", "job", "--oneliner").splitlines()
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]


class Ran:
    """Both runs and what SLURM said of its own."""

    def __init__(self, folder: Path):
        self.local, self.slurm = folder / "local", folder / "slurm"
        self.local.mkdir()
        self.slurm.mkdir()
        python = interpreter(folder / "environment")
        began = time.monotonic()
        snakemake(
            *(self.local, python, "--cores", "2", "--resources", "gpu=2"), **os.environ
        )
        self.local_seconds = time.monotonic() - began
        (folder / "cluster").mkdir()
        with Cluster(folder / "cluster") as cluster:
            injurer = Injurer(cluster, self.slurm)
            injurer.start()
            began = time.monotonic()
            try:
                snakemake(
                    self.slurm,
                    *(python, *ON_SLURM),
                    **cluster.environment | {"PRETENDED_GPUS": "2"},
                )
            finally:
                injurer.ended.set()
            self.slurm_seconds = time.monotonic() - began
            self.jobs = job_descriptions(cluster)
        self.uninjured = injurer.left

    def jobs_of(self, rule: str) -> list[dict[str, str]]:
        return [job for job in self.jobs if job["Comment"].startswith(f"rule_{rule}")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    both = Ran(tmp_path_factory.mktemp("slurm"))
    print(
        f"\nlocal {both.local_seconds:.0f} s; SLURM {both.slurm_seconds:.0f} s, "
        f"{len(both.jobs)} SLURM jobs"
    )
    return both


def test_every_result_is_that_of_the_run_without_slurm(ran):
    here = results(ran.local / PATHS.root)
    there = results(ran.slurm / PATHS.root)
    assert here.keys() == there.keys()
    suffixes = {path.suffix for path in here.values()}
    assert suffixes >= {".npy", ".npz", ".safetensors", ".csv", ".json", ".png"}
    different = [name for name in here if content(here[name]) != content(there[name])]
    assert different == []


@pytest.mark.parametrize("injury", INJURIES)
def test_a_training_that_slurm_ended_goes_on_where_it_was(ran, injury):
    assert injury not in ran.uninjured
    log = daily_log(ran.slurm, INJURIES[injury])
    assert log.count("starts: ") == 1
    stopped = re.findall(r"stopped by SIGTERM after update (\d+)", log)
    assert re.findall(r"goes on after update (\d+)", log) == stopped
    assert len(stopped) == 1
    assert 20 < int(stopped[0]) < updates(INJURIES[injury])


def test_slurm_saw_each_injury(ran):
    trainings = ran.jobs_of("train")
    states = sorted(job["JobState"] for job in trainings)
    assert states == ["CANCELLED", "COMPLETED", "COMPLETED", "COMPLETED", "COMPLETED",
                      "TIMEOUT"]  # fmt: skip
    assert sorted(job["Restarts"] for job in trainings) == ["0"] * 5 + ["1"]


def test_each_job_asks_for_what_the_study_needs(ran):
    study = parse_study(STUDY)
    for job in ran.jobs_of("train"):
        (dataset,) = (name for name in EPOCHS if name in job["Comment"])
        asked = needs(study, "train", dataset=dataset, images=40)
        assert job["TresPerJob"] == "gres:gpu:1"
        assert job["Requeue"] == "1"
        assert job["NumCPUs"] == "1"
        assert job["Partition"] == "gpu"
        if job["JobState"] == "COMPLETED":
            assert minutes(job["TimeLimit"]) == asked.minutes
    for job in ran.jobs_of("preprocess"):
        assert "TresPerJob" not in job


def minutes(limit: str) -> int:
    """Read SLURM's days-hours:minutes:seconds."""
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + minutes


def test_short_jobs_share_one_and_run_one_after_another(ran):
    study = parse_study(STUDY)
    (scores,) = ran.jobs_of("score")
    each = needs(study, "score", dataset="toy_flowers", run=study.runs[0], images=40)
    assert minutes(scores["TimeLimit"]) == len(study.runs) * each.minutes
    assert scores["TresPerJob"] == "gres:gpu:1"
    (telling,) = ran.jobs_of("tell")
    assert (scores["NumCPUs"], telling["NumCPUs"]) == ("1", "1")
    files = results(ran.slurm / PATHS.root)
    drawn = [name for name in files if name.endswith(".png")]
    tables = [name for name in files if re.fullmatch(r"tables/.*\.csv", name)]
    assert minutes(telling["TimeLimit"]) >= needs(study, "draw").minutes * (
        len(drawn) + len(tables) + 1
    )


def test_each_job_used_the_gpu_that_slurm_gave(ran):
    lines = told(ran.slurm / "told")
    trainings = [line for line in lines if line["arguments"][0] == "train"]
    assert len(trainings) == len(STUDY["diffusion"]["steps"]) * 2 + len(INJURIES)
    assert {line["device"] for line in lines} == {"cuda:0"}
    assert {line["visible"] for line in trainings} == {"0", "1"}
    logs = (ran.slurm / PATHS.root / "logs").rglob("*.log")
    assert not any("sharing number" in path.read_text() for path in logs)
