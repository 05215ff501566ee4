"""Jobs that start together must not share a GPU."""

import subprocess
import sys

import pytest

from noisesteps import devices
from noisesteps.errors import ConfigError

CLAIM = """
import sys
from pathlib import Path
from noisesteps.devices import claim
print(claim(2, Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def started(folder):
    """Start a process that claims one of two GPUs and holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, int(process.stdout.readline())


def test_each_process_claims_a_gpu_of_its_own(tmp_path):
    first, one = started(tmp_path)
    second, two = started(tmp_path)
    assert {one, two} == {0, 1}
    first.communicate()
    third, again = started(tmp_path)
    assert again == one
    second.communicate()
    third.communicate()


def test_visible_devices_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert devices.claim(1, tmp_path) == 0
    assert (tmp_path / "noisesteps-gpu-3.lock").exists()


@pytest.mark.parametrize("name", ["cuda:99", "abacus", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="--device"):
        devices.select_device(name)


def test_a_device_says_what_it_is():
    assert "thread" in devices.describe(devices.select_device("cpu"))
