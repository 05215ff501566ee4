"""Sentences about the scores: what the tables say, and no more."""

import pytest

import finished_study
from noisesteps.report import score_findings
from noisesteps.tables import tabulate

STUDY = finished_study.study()


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Return a function that makes one data set's part of a table."""
    monkeypatch.chdir(tmp_path)
    paths = finished_study.write_study(STUDY)

    def table(name, dataset="toy_flowers"):
        frame = tabulate(name, STUDY, paths)
        return frame[frame["dataset"] == dataset]

    return table


def test_the_best_steps_and_what_cannot_be_told_from_them(tables):
    plateau = tables("plateau")
    linear, scaled, intervals = score_findings.about_steps(tables("fid"), plateau)
    assert linear.startswith("linear: the best FD (EfficientNet-Lite0) is 101.1 [98.6,")
    assert "no smaller T does as well: T = 100 scores significantly worse" in linear
    assert scaled.startswith("linear_scaled: the best")
    assert "over 1 trainings and 3 samplings a model (sampling)" in intervals


def test_an_undecided_plateau_says_so(tables):
    plateau = tables("plateau").assign(decided=False, reason="no T scores worse")
    sentence = next(score_findings.about_steps(tables("fid"), plateau))
    assert "the data do not decide which T is enough: no T scores worse" in sentence


def test_a_smaller_candidate_is_named(tables):
    plateau = tables("plateau").assign(smallest_steps=100)
    sentence = next(score_findings.about_steps(tables("fid"), plateau))
    assert "T = 100 is the smallest that cannot be told from it" in sentence


def test_schedules_are_told_apart_only_by_their_corrected_p_value(tables):
    table = tables("schedules")
    first, _ = score_findings.about_schedules(table)
    assert "At T = 100, linear leaves 50.0% of the image's amplitude" in first
    assert "scores 110.0; linear_scaled leaves 0.1% and scores 220.0" in first
    assert "+110.0 [+107.7, +112.3], worse (p < 0.001)" in first
    (first, _) = score_findings.about_schedules(table.assign(p_holm=0.2))
    assert "which may be chance (p = 0.2)" in first
    (first, _) = score_findings.about_schedules(table.assign(p_holm=float("nan")))
    assert "which single scores cannot test" in first


def test_fewer_steps_name_both_models(tables):
    sentences = list(score_findings.about_fewer_steps(tables("fewer_steps")))
    assert len(sentences) == 4
    assert sentences[0] == (
        "linear: trained with T = 900 and sampled in 100 steps (ancestral), the score "
        "is 106.1, and 110.0 when trained with T = 100: −3.9 [−6.2, −1.6], better "
        "(p = 0.018)."
    )


def test_the_floor_is_what_real_images_score(tables):
    (sentence,) = score_findings.about_floor(tables("floor"), tables("fid"))
    assert "8 real held-out images score 42.5 [40.0, 45.0]" in sentence
    assert "(linear, T = 900) scores 58.6 more" in sentence
    unknown = tables("floor", "smithsonian_butterflies")
    (sentence,) = score_findings.about_floor(unknown, tables("fid"))
    assert sentence.startswith("No floor is known")


def test_copies_are_called_so_where_real_images_have_fewer(tables):
    table = tables("copies")
    features, pixels = score_findings.about_copies(table)
    assert features.startswith("By the extractor's features, 4 of 96 generated images")
    assert "Of real held-out images it is 0 of 24." in features
    assert "4.2 [0.1, 21.0] % of its images, no more than among real" in pixels
    many = table.assign(p_holm=0.001)
    assert "it memorises" in next(score_findings.about_copies(many))
    alone = next(
        score_findings.about_copies(tables("copies", "smithsonian_butterflies"))
    )
    assert "No real images are held out to compare with." in alone
    assert "which nothing can be compared with" in alone
