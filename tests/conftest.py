"""Shared set-up: few threads, since tests are tiny and machines are shared."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mini_report(tmp_path_factory):
    """Write the report of the study that `finished_study` makes; return its path."""
    import finished_study
    from noisesteps.report import write_report

    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study = finished_study.study()
        path = write_report(study, finished_study.finish(study), "config/mini.yaml")
        return folder / path


@pytest.fixture
def set_threads():
    """Return what sets the number of PyTorch's threads, until the test has ended."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def no_compiler(monkeypatch):
    """Hide the C++ compilers, so that whatever would compile fails."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
