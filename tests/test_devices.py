"""Jobs that start together must not share a GPU; what SLURM gave is used."""

import logging.handlers
import multiprocessing
import os
import subprocess
import threading
import time

import pytest
import torch
import yaml

from noisesteps import devices
from noisesteps.errors import ConfigError
from pretended_gpus import interpreter, told
from test_workflow import ROOT, TINY


class Holder:
    """A process that claims one of some GPUs and holds it until it ends."""

    def __init__(self, folder, count, environment):
        context = multiprocessing.get_context("fork")  # without importing torch anew
        self.answer, sending = context.Pipe()
        arguments = (folder, count, environment, sending)
        self.process = context.Process(target=hold, args=arguments)
        self.process.start()
        self.device, self.warnings = self.answer.recv()

    def kill(self):
        self.process.kill()
        self.process.join()


def hold(folder, count, environment, answer):
    os.environ.clear()
    os.environ.update(without_devices() | environment)
    warnings = logging.handlers.BufferingHandler(capacity=10)
    devices.log.addHandler(warnings)
    number = devices.claim(count, folder)
    answer.send((number, [record.getMessage() for record in warnings.buffer]))
    time.sleep(600)


def without_devices():
    hidden = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
    return {key: value for key, value in os.environ.items() if key not in hidden}


@pytest.fixture
def holders(tmp_path):
    """Start processes that hold GPUs; they end with the test."""
    started = []

    def start(count=4, **environment):
        started.append(Holder(tmp_path, count, environment))
        return started[-1]

    yield start
    for holder in started:
        holder.kill()


def test_four_processes_hold_four_gpus_and_a_fifth_shares_one(holders):
    four = [holders() for _ in range(4)]
    assert [holder.device for holder in four] == [0, 1, 2, 3]
    fifth, sixth = holders(), holders()
    assert (fifth.device, sixth.device) == (0, 1)
    assert "sharing number 0" in fifth.warnings[0]
    assert not any(holder.warnings for holder in four)


def test_a_killed_process_gives_its_gpu_back(holders):
    four = [holders() for _ in range(4)]
    four[2].kill()
    assert holders().device == 2


def test_visible_devices_are_told_apart(holders):
    hidden = {"CUDA_VISIBLE_DEVICES": "3"}
    assert holders(1, **hidden).device == 0
    assert [holders().device for _ in range(3)] == [0, 1, 2]
    fourth = holders(1, **hidden)
    assert fourth.device == 0
    assert "sharing number 0" in fourth.warnings[0]


def test_jobs_that_slurm_confines_do_not_take_each_other_for_sharers(holders):
    """Every confined job counts from 0; SLURM alone knows which device that is."""
    first = holders(1, CUDA_VISIBLE_DEVICES="0", SLURM_STEP_GPUS="2")
    second = holders(1, CUDA_VISIBLE_DEVICES="0", SLURM_STEP_GPUS="3")
    assert (first.device, second.device) == (0, 0)
    assert first.warnings == second.warnings == []


@pytest.mark.parametrize("name", ["GPU-8f6d/1", " 2", "MIG-GPU-0a/1/0", "0,1"])
def test_any_name_of_a_device_makes_a_lock_in_the_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    count = len(name.split(","))
    assert devices.claim(count, tmp_path) == 0
    (lock,) = tmp_path.iterdir()
    assert lock.suffix == ".lock"


@pytest.mark.workflow
def test_four_trainings_of_a_study_train_on_four_gpus_at_once(tmp_path):
    """Snakemake with gpu=4: real trainings, each told to use a device of its own."""
    python = interpreter(tmp_path / "environment")
    study = TINY | {
        "datasets": {"toy_flowers": {"format": "toy_flowers", "train": 20}},
        "diffusion": {"schedules": ["linear"], "steps": [2, 3, 4, 5, 6]},
        "sampling": {"images": 6, "batch_size": 3},
        "classification": None,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    lines = tmp_path / "told.jsonl"
    command = [python, "-m", "snakemake", "--cores", "4", "--resources", "gpu=4"]
    command += ["--snakefile", ROOT / "Snakefile", "--configfile", "tiny.yaml"]
    environment = {"TOLD": str(lines), "PRETENDED_GPUS": "4", "TMPDIR": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "AT_ONCE": "4"}
    result = subprocess.run(
        [*map(str, command), "--until", "train"],
        cwd=tmp_path,
        env=without_devices() | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    trainings = told(lines)
    assert len({tuple(line["arguments"]) for line in trainings}) == 5
    first_four = {line["device"] for line in trainings[:4]}
    assert first_four == {"cuda:0", "cuda:1", "cuda:2", "cuda:3"}
    logs = [
        path.read_text() for path in tmp_path.glob("results/*/logs/train/*/*/*.log")
    ]
    assert len(logs) == 5
    assert not any("sharing" in text for text in logs)


@pytest.mark.parametrize("name", ["cuda:99", "abacus", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="--device"):
        devices.select_device(name)


def test_a_device_says_what_it_is():
    assert "thread" in devices.describe(devices.select_device("cpu"))


@pytest.mark.parametrize(
    ("device", "dtype", "training", "vectors", "last"),
    [
        ("cuda", torch.bfloat16, True, "AVX512", True),
        ("cuda", torch.float16, False, "AVX512", True),
        ("cuda", torch.float32, False, "AVX2", False),
        ("cpu", torch.bfloat16, False, "AVX512", True),
        ("cpu", torch.float16, False, "AVX2", True),
        ("cpu", torch.float32, False, "DEFAULT", True),
        ("cpu", torch.bfloat16, True, "AVX512", True),
        ("cpu", torch.float16, True, "AVX512", False),
        ("cpu", torch.float32, True, "AVX512", True),
        ("cpu", torch.float32, True, "DEFAULT", False),
        ("cpu", torch.float32, True, "AVX2", True),
        ("mps", torch.float32, True, "AVX2", False),
        ("mps", torch.float32, False, "AVX2", False),
    ],
)
def test_channels_lie_side_by_side_where_that_is_faster(
    device, dtype, training, vectors, last, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    layout = devices.memory_format(torch.device(device), dtype, training=training)
    expected = torch.channels_last if last else torch.contiguous_format
    assert layout is expected


@pytest.mark.parametrize(
    ("device", "precision", "supported", "remedy"),
    [
        ("cpu", "fp32", False, None),
        ("cpu", "bf16", True, None),
        ("cpu", "bf16", False, "choose fp32."),
        ("cpu", "fp16", True, "choose fp32 or bf16."),
        ("cpu", "fp16", False, "choose fp32."),
        ("cuda", "fp16", False, None),
    ],
)
def test_a_slow_precision_is_named_with_a_faster_one(
    device, precision, supported, remedy, monkeypatch, caplog
):
    monkeypatch.setattr(devices, "multiplies_bf16", lambda: supported)
    devices.warn_if_slow(torch.device(device), precision, "training.precision")
    expected = f"training.precision {precision} is slow on this CPU; {remedy}"
    assert caplog.messages == ([expected] if remedy else [])


@pytest.mark.parametrize(
    ("threads", "parts", "expected"),
    [(1, 5, 1), (2, 1, 1), (2, 2, 2), (2, 7, 2), (4, 3, 2), (7, 3, 1), (16, 4, 4)],
)
def test_callers_divide_the_threads(set_threads, threads, parts, expected):
    set_threads(threads)
    assert devices.concurrent_calls(parts) == expected


@pytest.mark.parametrize("threads", [1, 2, 4, 6])
def test_parts_keep_their_order_side_by_side(set_threads, threads):
    set_threads(threads)
    parts = torch.arange(70.0).split(10)
    told = []

    def double(part):
        told.append(torch.get_num_threads())
        return 2 * part

    done = devices.in_parallel(double, parts)
    assert torch.equal(torch.cat(done), 2 * torch.cat(parts))
    assert set(told) == {threads // devices.concurrent_calls(7)}
    assert torch.get_num_threads() == threads


def test_parts_are_worked_on_at_once(set_threads):
    set_threads(3)
    together = threading.Barrier(3, timeout=60)
    parts = torch.arange(3).split(1)
    devices.in_parallel(lambda part: together.wait(), parts)


def test_an_error_in_a_part_is_the_callers_once_all_calls_have_ended(set_threads):
    set_threads(2)
    begun, ended = [], []

    def fail(part):
        begun.append(part)
        if len(part) == 4:
            raise torch.OutOfMemoryError(f"no room for {len(part)}")
        time.sleep(0.2)
        ended.append(part)

    parts = torch.arange(34).split([4, *[3] * 10])
    with pytest.raises(torch.OutOfMemoryError, match="no room for 4"):
        devices.in_parallel(fail, parts)
    assert len(begun) == len(ended) + 1 < len(parts)
    assert torch.get_num_threads() == 2
