"""The comparison as Markdown, for a study that is not finished."""

import re

import pytest
from click.testing import CliRunner

import finished_study
from noisesteps.cli import main
from noisesteps.errors import StageError
from noisesteps.paths import StudyPaths
from noisesteps.report import beside_the_dissertation
from noisesteps.report.cells import make_table
from noisesteps.report.markdown import as_markdown


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = finished_study.study()
    finished_study.write_study(chosen)
    return chosen


def tables(text):
    """Return the rows of each table by its title, as lists of cells."""
    found = {}
    for part in text.split("\n**")[0:]:
        title, _, rest = part.lstrip("*").partition("**")
        rows = re.findall(r"^\| (.+) \|$", rest, re.MULTILINE)
        found[title] = [row.split(" | ") for row in rows]
    return found


def test_all_models_are_told(study):
    text = beside_the_dissertation(study, StudyPaths("mini"))
    assert text.startswith("12 of 12 models have a score. Device: CPU <model>.")
    scores = tables(text)["Scores; lower is better"]
    assert scores[0][:4] == ["data set", "schedule", "T", finished_study.METRIC]
    assert len(scores) == 2 + 12
    assert scores[2][:3] == ["oxford_flowers", "linear", "100"]
    assert scores[2][3].startswith("110")  # 100 + 1000 / T
    assert scores[2][-1] == "369.9"  # the dissertation's table 4.2
    assert "another measure" in text
    times = tables(text)["Losses and times"]
    assert times[0][3:5] == ["last loss", "training time"]
    assert times[2][3:5] == ["0.2500", "1 min 40 s"]  # T seconds
    assert "Table 4.2: FID of 128 generated images" in text
    assert "extractor efficientnet-lite0 instead of inception-v3" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_what_is_missing_is_left_out_and_counted(study):
    paths = StudyPaths("mini")
    for run in study.runs:
        if run.dataset == "toy_flowers" or run.schedule == "linear_scaled":
            (paths.score(run) / "score.json").unlink()
            (paths.model(run) / "model.json").unlink()
    text = beside_the_dissertation(study, paths)
    assert text.startswith("4 of 12 models have a score.")
    rows = tables(text)["Scores; lower is better"][2:]
    assert [row[:2] for row in rows] == [
        ["oxford_flowers", "100"],
        ["oxford_flowers", "900"],
        ["smithsonian_butterflies", "100"],
        ["smithsonian_butterflies", "900"],
    ]
    assert "schedule linear;" in text
    assert "toy_flowers" not in text
    assert "linear_scaled" not in text


def test_classifiers_are_told_once_all_are_done(study):
    paths = StudyPaths("mini")
    part = "Table 4.4: Accuracy, flowers against butterflies"
    told = tables(beside_the_dissertation(study, paths))[part]
    assert "this study's accuracy (%)" in told[0]
    paths.classifier("resnet18", "mix", 0).unlink()
    text = beside_the_dissertation(study, paths)
    assert tables(text)[part] == []
    assert "no model that belongs to a row of it" in text


def test_nothing_finished_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="no model with a score"):
        beside_the_dissertation(finished_study.study(), StudyPaths("mini"))


def test_cells_cannot_break_the_table():
    import pandas as pd

    frame = pd.DataFrame({"dataset": ["a|b", "<i>"], "kid": [1.0, 2.0]})
    text = as_markdown(make_table("x", "Title", frame))
    assert r"| a\|b | 1.000 |" in text
    assert "| &lt;i> | 2.000 |" in text


def test_the_command_prints_it(study, tmp_path):
    import yaml

    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    ended = CliRunner().invoke(main, ["compare", "--config", "mini.yaml"])
    assert ended.exit_code == 0
    assert ended.output.startswith("12 of 12 models have a score.")
