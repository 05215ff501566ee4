"""Time, provenance and skipped files: read from the records that the stages left."""

import pytest

import finished_study
from noisesteps.errors import StageError
from noisesteps.files import read_json, write_text
from noisesteps.paths import StudyPaths
from noisesteps.records import write_record
from noisesteps.report import records

STUDY = finished_study.study(datasets={
    "toy_flowers": {"format": "toy_flowers", "train": 30, "held_out": 4}
}, classification=None)  # fmt: skip


@pytest.fixture
def paths(tmp_path, monkeypatch) -> StudyPaths:
    monkeypatch.chdir(tmp_path)
    return finished_study.write_study(STUDY)


def change(path, **values):
    write_record(path, read_json(path) | values)


def test_every_job_is_counted_once(paths):
    jobs = records.costs(records.stage_records(STUDY, paths)).set_index("stage")["jobs"]
    models = len(STUDY.runs)
    respaced = len(STUDY.respaced_runs_of("toy_flowers"))
    assert jobs.to_dict() == {
        "preprocess": 1,
        "train": models,
        "sample": models + respaced,
        "reference": 1,
        "score": models + respaced,
    }


def test_a_training_that_was_stopped_adds_up_its_time(paths):
    path = paths.model(STUDY.runs[0]) / "model.json"
    change(path, seconds=5000.0)
    table = records.costs(records.stage_records(STUDY, paths)).set_index("stage")
    assert table.loc["train", "longest_seconds"] == 5000.0
    assert table.loc["sample", "longest_seconds"] == 1.5  # wall_seconds of the record


def test_what_differs_between_jobs_is_listed(paths):
    path = paths.score(STUDY.runs[0]) / "score.json"
    other = finished_study.PROVENANCE | {
        "code": {"revision": "f" * 40, "sha256": "12" * 32},
        "libraries": {"python": "3.12.1", "torch": "2.12.0"},
        "started": "2026-01-01T00:00:00Z",
    }
    change(path, provenance=other)
    found = records.stage_records(STUDY, paths)
    assert records.libraries(found) == "python 3.12.1, torch 2.11.0 and 2.12.0"
    table = records.origins(found).set_index("stage")
    assert set(table.loc["score", "code revision"].split("; ")) == {
        "no commit",
        "f" * 12,
    }
    assert table.loc["score", "began (UTC)"] == "2026-01-01 00:00"
    assert table.loc["train", "began (UTC)"] == "2026-01-02 03:04"


def test_many_skipped_files_are_counted_and_the_first_are_named(paths):
    rows = "".join(f'"{n:03d}, odd.jpg",truncated\n' for n in range(20))
    listed = paths.data("toy_flowers") / "rejected.csv"
    write_text(listed, f"source,reason\n{rows}")
    (found,) = records.skipped(STUDY, paths)
    assert found.count == 20
    assert found.named[0] == ("000, odd.jpg", "truncated")
    assert len(found.named) == records.NAMED
    assert found.path == "results/mini/data/toy_flowers/rejected.csv"


def test_a_data_set_without_skipped_files_is_left_out(paths):
    write_text(paths.data("toy_flowers") / "rejected.csv", "source,reason\n")
    assert records.skipped(STUDY, paths) == []


def test_a_missing_or_damaged_list_is_named(paths):
    listed = paths.data("toy_flowers") / "rejected.csv"
    write_text(listed, "something,else\n1,2\n")
    with pytest.raises(StageError, match=r"rejected\.csv cannot be read.*preprocess"):
        records.skipped(STUDY, paths)
    listed.unlink()
    with pytest.raises(StageError, match=r"rejected\.csv is missing.*preprocess"):
        records.skipped(STUDY, paths)


def test_a_list_that_has_changed_is_not_shown(paths):
    folder = paths.data("toy_flowers")
    record, listed = folder / "dataset.json", folder / "rejected.csv"
    write_record(record, read_json(record), listed.name)
    assert records.skipped(STUDY, paths)
    write_text(listed, "source,reason\n")
    with pytest.raises(StageError, match=rf"{listed} is damaged .*preprocess` again"):
        records.skipped(STUDY, paths)
