"""What the tests of SLURM need, said before any of them starts."""

import importlib.util
import signal

import pytest
from cluster import missing_packages


@pytest.fixture(scope="session", autouse=True)
def _needed():
    """End, before anything is started, where something is not installed."""
    if missing := " ".join(missing_packages()):
        pytest.exit(
            f"Not installed: {missing}. On Debian or Ubuntu:\n"
            f"  apt-get install --no-install-recommends {missing}",
            returncode=3,
        )
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.exit("The plugin for SLURM is missing; run `make test-slurm`.", 3)


@pytest.fixture(scope="session", autouse=True)
def _ends_tidily():
    """Let SIGTERM end the tests as Ctrl-C does, so that the cluster is stopped."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)
