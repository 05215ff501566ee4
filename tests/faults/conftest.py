"""One finished study for all tests, and a count of what they tried.

`--fault-counts FILE` writes, by test: how many injuries it made (`tried`, 1 unless the
test records another number), how many of them held, and the other numbers it recorded.
"""

import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import harness
import pytest


def pytest_addoption(parser):
    parser.addoption("--fault-counts", type=Path, help="write the counts as JSON")


def pytest_configure(config):
    if config.getoption("--fault-counts"):
        config.pluginmanager.register(Counts(config.getoption("--fault-counts")))


class Counts:
    """Adds up what the tests say by `record_property`."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = defaultdict(lambda: {"tried": 0, "held": 0})

    def pytest_runtest_logreport(self, report):
        module, _, name = report.nodeid.partition("::")
        if "faults/" not in module or report.skipped:
            return
        if report.when != "call" and report.passed:
            return
        row = self.rows[f"{Path(module).stem}::{name.partition('[')[0]}"]
        said = dict(report.user_properties)
        tried = said.pop("tried", 1)
        row["tried"] += tried
        row["held"] += tried * report.passed
        for key, value in said.items():
            row[key] = max(row.get(key, value), value)

    def pytest_sessionfinish(self, session):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.rows, indent=2) + "\n")


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Return a folder with the whole study, never disturbed; tests work on copies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return harness.build(folder, harness.commands())


@pytest.fixture
def copied(study, tmp_path):
    """Return a copy of the finished study."""
    return harness.copy(study, tmp_path / "copy")


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory):
    """Return the mount point of a file system of 48 MiB, or None without the right."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.call(command):
        yield None
        return
    yield folder
    subprocess.check_call(["umount", str(folder)])
