"""Sentences about the scores: what the tables say, and no more."""

import pandas as pd
import pytest

import finished_study
from noisesteps.report import score_findings, short_findings
from noisesteps.tables import tabulate

STUDY = finished_study.study()


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Return a function that makes one data set's part of a table."""
    monkeypatch.chdir(tmp_path)
    paths = finished_study.write_study(STUDY)

    def table(name, dataset="toy_flowers"):
        frame = tabulate(name, STUDY, paths)
        return frame if dataset is None else frame[frame["dataset"] == dataset]

    return table


def test_the_best_steps_and_what_cannot_be_told_from_them(tables):
    plateau = tables("plateau")
    linear, scaled = score_findings.about_steps(plateau)
    note = score_findings.on_plateau(tables("fid"), plateau)
    assert linear.startswith("linear: the best FD (EfficientNet-Lite0) is 101.1 [98.6,")
    assert "no smaller T is left to choose (T = 100 scores significantly" in linear
    assert scaled.startswith("linear_scaled: the best")
    assert "over 3 sets of images from one training; the luck of" in note
    assert note.endswith(
        "one-sided Welch t-tests against the best, Bonferroni, 95%, which assume "
        "independent repeats, near normal, whose spreads may differ."
    )


def test_an_undecided_plateau_says_so(tables):
    plateau = tables("plateau").assign(decided=False, reason="no T scores worse")
    sentence = next(score_findings.about_steps(plateau))
    assert "the data do not decide which T is enough: no T scores worse" in sentence


def test_a_smaller_candidate_is_named(tables):
    plateau = tables("plateau").assign(smallest_steps=100)
    sentence = next(score_findings.about_steps(plateau))
    assert "T = 100 is the smallest that cannot be told from it" in sentence


def test_schedules_are_told_apart_only_by_their_corrected_p_value(tables):
    table = tables("schedules")
    first, _ = score_findings.about_schedules(table)
    assert "At T = 100, linear leaves 50.0% of the image's amplitude" in first
    assert "scores 110.0; linear_scaled leaves 0.1% and scores 220.0" in first
    assert "+110.0 [+107.7, +112.3], worse (p < 0.001)" in first
    assert "after Holm's correction" in score_findings.on_tests(table)
    assert score_findings.on_tests(table.assign(p_holm=float("nan"))) == ""
    first, *_ = score_findings.about_schedules(table.assign(p_holm=0.2))
    assert "which may be chance (p = 0.2)" in first
    first, _ = score_findings.about_schedules(table.assign(p_holm=float("nan")))
    assert "which single scores cannot test" in first
    first, _ = score_findings.about_schedules(table.assign(identical=True))
    assert first == (
        "At T = 100, linear_scaled is the same schedule as linear: only the seeds "
        "separate its 220.0 from linear's 110.0."
    )


def test_fewer_steps_name_both_models(tables):
    sentences = list(score_findings.about_fewer_steps(tables("fewer_steps")))
    assert len(sentences) == 4
    assert sentences[0] == (
        "linear: the model of T = 900 sampled in 100 steps (ancestral) scores 106.1, "
        "that of T = 100 scores 110.0: −3.9 [−6.2, −1.6], better (p = 0.018)."
    )
    assert "(DDIM) scores" in sentences[1]


def test_the_fastest_way_as_good_as_the_best_is_named(tables):
    table = tables("quality_vs_cost")
    best, fastest = score_findings.about_use(table)
    assert best.startswith("The best score is 101.1 [98.6, 103.6], of linear, T = 900:")
    assert best.endswith(": 0.9 s an image.")
    # 106.1 ± 1 in 100 steps is told from 101.1 ± 1, as is everything else.
    assert fastest.startswith("Every faster way scores significantly worse")
    _, undecided = score_findings.about_use(table.assign(candidate=True))
    assert undecided.endswith("the data do not decide.")
    respaced = table["way"] == "ancestral"
    table.loc[respaced & (table["schedule"] == "linear"), "candidate"] = True
    _, fastest = score_findings.about_use(table)
    assert fastest == (
        "The fastest that cannot be told from it is linear, T = 900, in 100 steps "
        "(ancestral): 106.1 [103.6, 108.6]. An image takes 0.1 s, 9.0 times as fast."
    )
    table.loc[respaced, "candidate"] = True
    _, fastest, ruled_out = score_findings.about_use(table)
    assert "just named: linear, T = 100: 110.0 [107.5, 112.5]; linear, T =" in ruled_out
    assert "ancestral" not in ruled_out
    assert "it are linear, T = 900, in 100 steps (ancestral): 106.1 [103.6," in fastest
    assert "; linear_scaled, T = 900, in 100 steps (ancestral): 207.2 [204.7" in fastest
    _, untested = score_findings.about_use(table.assign(low=float("nan")))
    assert "there is one score of each" in untested


def test_a_way_that_is_ruled_out_despite_a_better_mean_is_named(tables):
    table = tables("quality_vs_cost")
    ddim, ancestral = (
        (table["schedule"] == "linear") & (table["way"] == way)
        for way in ("ddim", "ancestral")
    )
    table.loc[ancestral, "candidate"] = True
    _, _, *more = score_findings.about_use(table)
    assert more == []
    table.loc[ddim, ["value", "low", "high"]] = (105, 104.5, 105.5)
    _, fastest, ruled_out = score_findings.about_use(table)
    assert "it is linear, T = 900, in 100 steps (ancestral): 106.1 [103.6" in fastest
    assert ruled_out == (
        "Ruled out, although no slower and better on average than a way just named: "
        "linear, T = 900, in 100 steps (DDIM): 105.0 [104.5, 105.5]. Its repeats "
        "differ less, so the test tells it from the best."
    )
    assert short_findings.on_use(table)[1] == (
        "toy_flowers: linear, T = 900, in 100 steps (ancestral) (106.1), 0.1 s an "
        "image; ruled out despite a better mean: linear, T = 900, in 100 steps (DDIM) "
        "(105.0)."
    )
    table.loc[ddim, ["low", "high"]] = (95, 115)
    *_, ruled_out = score_findings.about_use(table)
    assert ruled_out.endswith(
        "The test weighs how much repeats differ, not the mean alone."
    )
    table.loc[ddim, "seconds_per_image"] = 0.2
    assert len(list(score_findings.about_use(table))) == 2


def test_beside_a_best_that_is_fastest_the_ruled_out_are_named_too(tables):
    table = tables("quality_vs_cost")
    linear = table["schedule"] == "linear"
    quick = linear & (table["sampling_steps"] == 100)
    table.loc[linear & (table["way"] == "ancestral"), "value"] = 90
    table["candidate"] = linear & table["way"].isin(["ancestral", "ddim"])
    _, _, alike, ruled_out = score_findings.about_use(table)
    assert quick.sum() == 3
    assert alike.startswith("As fast, and not to be told from it: linear, T = 900, in")
    assert "than a way just named: linear, T = 100: 110.0 [" in ruled_out


def test_the_answers_in_short_cover_all_data_sets(tables):
    table = {name: tables(name, None) for name in ("plateau", "schedules", "copies")}
    _, steps, _ = short_findings.on_steps(table["plateau"])
    names = "oxford_flowers, smithsonian_butterflies and toy_flowers"
    assert steps == f"With linear, T = 900 ({names})."
    *_, undecided = short_findings.on_steps(table["plateau"].assign(decided=False))
    assert undecided == f"With linear_scaled, the data do not decide ({names})."
    assert short_findings.on_schedules(table["schedules"]) == [
        "linear_scaled scores worse than linear at T = 100 (3 of 3 data sets) and 900 "
        "(3 of 3 data sets)."
    ]
    alike = short_findings.on_schedules(table["schedules"].assign(p_holm=0.5))
    assert alike == ["linear_scaled shows no difference at T = 100 and 900."]
    schedules = table["schedules"]
    schedules.loc[schedules["steps"] == 900, ["p_holm", "identical"]] = (None, True)
    assert short_findings.on_schedules(schedules) == [
        "linear_scaled scores worse than linear at T = 100 (3 of 3 data sets) and is "
        "the same schedule at T = 900."
    ]
    fewer = short_findings.on_fewer_steps(tables("fewer_steps", None))
    assert "linear, ancestral: better in 3 of 3 comparisons." in fewer
    use = short_findings.on_use(tables("quality_vs_cost", None))
    assert "toy_flowers: linear, T = 900 (101.1), 0.9 s an image." in use
    unsure = tables("quality_vs_cost", None).assign(candidate=True)
    assert "toy_flowers: the data do not decide." in short_findings.on_use(unsure)
    assert short_findings.on_copies(table["copies"]) == [
        "No model is shown to. Not tested, for want of real images: "
        "smithsonian_butterflies. Near-copies among 576 generated images: 24 by the "
        "extractor's features and 24 by pixels."
    ]
    (alone,) = short_findings.on_copies(table["copies"].assign(p_holm=float("nan")))
    assert alone.startswith("Not tested, for want of real images: oxford_flowers, ")
    copies = table["copies"]
    (many,) = short_findings.on_copies(copies.assign(p_holm=0.001))
    assert "More near-copies than among real images: linear, T = 100 (oxford" in many
    assert many.endswith("24 by the extractor's features and 24 by pixels.")
    twice = pd.concat([copies.assign(training_seed=seed) for seed in (0, 1)])
    first = twice["p_holm"].notna() & (twice["training_seed"] == 0)
    (one,) = short_findings.on_copies(twice.assign(p_holm=1.0 - first))
    assert "linear, T = 100, training seed 0 (" in one
    assert "training seed 1" not in one


def test_what_was_not_tested_is_not_called_alike(tables):
    none = float("nan")
    schedules = tables("schedules", None).assign(p_holm=none)
    assert short_findings.on_schedules(schedules) == [
        "linear_scaled is not tested at T = 100 and 900."
    ]
    fewer = tables("fewer_steps", None).assign(p_holm=none)
    assert short_findings.on_fewer_steps(fewer)[1:] == [
        "linear, ancestral: not tested.",
        "linear, DDIM: not tested.",
        "linear_scaled, ancestral: not tested.",
        "linear_scaled, DDIM: not tested.",
    ]
    alike = short_findings.on_fewer_steps(fewer.assign(p_holm=0.5))
    assert "linear, ancestral: no difference shown." in alike
    plateau = tables("plateau", None).assign(decided=False, best_value_low=none)
    assert short_findings.on_steps(plateau)[1] == (
        "With linear, not tested (oxford_flowers, smithsonian_butterflies and "
        "toy_flowers)."
    )
    ways = tables("quality_vs_cost", None).assign(candidate=True, low=none)
    assert "toy_flowers: not tested." in short_findings.on_use(ways)


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
    assert features.startswith("By the extractor's features, 8 of 192 generated images")
    assert "Of real held-out images it is 0 of 24; told from that is " in features
    assert "4.2 [0.1, 21.0] % of its images, not shown to be more than" in pixels
    none, *_ = score_findings.about_copies(table.assign(copies=0))
    assert none == (
        "By the extractor's features, none of 192 generated images is a near-copy. Of "
        "real held-out images it is 0 of 24; told from that is a model with 8 or more "
        "of its 24 (33%)."
    )
    few = table.assign(real_images=1)
    assert "; no share of near-copies would" in next(score_findings.about_copies(few))
    many = table.assign(p_holm=0.001)
    assert "it memorises" in next(score_findings.about_copies(many))
    alone = next(
        score_findings.about_copies(tables("copies", "smithsonian_butterflies"))
    )
    assert "No real images are held out to compare with, so nothing" in alone
    assert "% of its images, not tested." in alone
