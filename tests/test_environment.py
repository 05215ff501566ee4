"""The locks, the conda environment and the list of reasons are in step."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch"}
PINNED = re.compile(r"^([a-z0-9._-]+)==([^ \\;]+)(?: ; ([^\\]+?))? \\$", re.MULTILINE)


def direct_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.match(r"[a-z0-9-]+", line)[0] for line in project["dependencies"]]


def locked(name):
    """Return {package: versions} of a lock file; a marker may split versions."""
    versions = {}
    for package, version, _ in PINNED.findall((ROOT / "envs" / name).read_text()):
        versions.setdefault(package, []).append(version)
    return versions


def conda():
    """Return {package: version} of the conda environment, pip section included."""
    listed = yaml.safe_load((ROOT / "envs" / "noisesteps.yaml").read_text())
    lines = [line for line in listed["dependencies"] if isinstance(line, str)]
    lines += [line for part in listed["dependencies"] if isinstance(part, dict)
              for line in part["pip"]]  # fmt: skip
    return dict(re.split(r"\s*==?\s*", line) for line in lines)


@pytest.mark.parametrize("lock", ["noisesteps.lock", "dev.lock", "slurm.lock"])
def test_a_lock_pins_every_dependency_with_hashes_and_names_no_address(lock):
    text = (ROOT / "envs" / lock).read_text()
    assert set(direct_dependencies()) <= set(locked(lock))
    for block in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert "--hash=sha256:" in block, block[:60]
    assert "://" not in text
    assert "-index" not in text


@pytest.mark.parametrize("lock", ["dev.lock", "slurm.lock"])
def test_the_locks_agree(lock):
    assert locked("noisesteps.lock").items() <= locked(lock).items()


def test_only_the_lock_for_slurm_has_its_plugin():
    """Where SLURM's client finds no controller, importing the plugin takes 9 s."""
    plugin = "snakemake-executor-plugin-slurm"
    assert plugin in locked("slurm.lock")
    assert plugin not in locked("noisesteps.lock").keys() | locked("dev.lock").keys()


def test_the_conda_environment_has_the_locked_versions():
    pinned, listed = locked("noisesteps.lock"), conda()
    for package in direct_dependencies():
        if package == "snakemake":  # runs the environments, is not inside them
            continue
        assert listed[CONDA_NAMES.get(package, package)] in pinned[package], package


def test_every_direct_dependency_has_its_reason():
    text = (ROOT / "docs" / "dependencies.md").read_text()
    for package in direct_dependencies():
        assert f"| `{package}` |" in text, package
