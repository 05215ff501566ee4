"""Figures: what is drawn is what was measured, and the files are what they claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import finished_study
from drawn import clipped, lines, texts
from noisesteps import figures, tables
from noisesteps.config import parse_study
from noisesteps.errors import ConfigError, StageError
from noisesteps.figures import accuracy, copies, costs, effects, grids, scores, style
from noisesteps.figures.drawing import DRAW
from noisesteps.figures.inputs import evenly, figure_kind, rows_shown
from noisesteps.files import read_json
from noisesteps.paths import Run, StudyPaths
from noisesteps.records import write_record

STUDY = finished_study.study()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Write a finished study once, with its tables; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        paths = finished_study.write_study(STUDY)
        finished_study.write_tables(STUDY, paths)
    return folder, paths


@pytest.fixture
def paths(finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    return finished[1]


@pytest.fixture
def own_paths(tmp_path, monkeypatch):
    """Write a finished study that the test may change."""
    monkeypatch.chdir(tmp_path)
    return finished_study.write_study(STUDY)


EXPECTED = {
    "dataset_toy_flowers": ["toy_flowers: 8 of 30 training images", "4 further"],
    "samples_toy_flowers": ["T = 100", "T = 900", "linear_scaled", "= 0.603"],
    "fid_toy_flowers": [
        "toy_flowers: FD (EfficientNet-Lite0) over",
        "N = 8 generated images",
        "linear (best: 101.1 at T = 900)",
        "real held-out images: 42.5",
        "number of noise steps T",
        "is not noise",
    ],
    "schedule": ["KL(", "from T = 593 on", "the models of this study", "3 data sets"],
    "scores_toy_flowers": [
        *("KD (EfficientNet-Lite0)", "N → ∞", "precision", "recall"),
        *("N = 8 generated", "over 3 sets of images", "higher is better"),
    ],
    "fewer_steps": [
        *("trained and sampled with as many", "model of T = 900, DDIM sampling"),
        *("toy_flowers", "linear_scaled", "N = 8 generated images", "sampling steps"),
    ],
    "quality_vs_cost": [
        *("seconds an image", "none is both faster and better", "ancestral 100"),
        *("106.1", "101.1", "all T steps", "CPU <model>", "over 3 sets of images"),
    ],
    "copies_toy_flowers": [
        *("by features, as a share of the distance", "0.40, near-copy"),
        *("linear, T = 100", "the closest real held-out images", "0.60"),
        *("Near-copies among 192 generated images: 4.2%", "held-out images: 0.0%"),
    ],
    "generation_time": ["time for 8 images, seconds", "CPU <model>", "dissertation"],
    "classification": [
        *("resnet18", "vgg16", "82.0", "guessing (50%)", "dissertation"),
        *("mix is above origin, not distinguishable", "+10.0 [+7.5, +12.5]"),
        *("−1.0 [−6.0, +4.0]", "after Holm's", "correction for 10 tests"),
    ],
    "training_loss_toy_flowers": ["updates", "T = 900", "squared error of the noise"],
}
# Four pictures of 0.85 inches are narrower than a chart; eight in two panels, wider.
WIDTHS = {"dataset_toy_flowers": 345, "samples_toy_flowers": 444}


@pytest.mark.parametrize("figure", EXPECTED)
def test_files_are_whole_and_say_what_they_show(paths, figure):
    png, svg = figures.draw(figure, STUDY, paths)
    assert (png, svg) == (paths.figure(figure), paths.figure(figure, ".svg"))
    with Image.open(png) as picture:
        picture.load()
        assert picture.width == WIDTHS.get(figure, 432)  # 7.2 inches
    shown = texts(svg)
    for words in EXPECTED[figure]:
        assert words in shown
    before = [path.read_bytes() for path in (png, svg)]
    figures.draw(figure, STUDY, paths)
    assert [path.read_bytes() for path in (png, svg)] == before
    assert b"<dc:date>" not in before[1]


def test_every_name_has_inputs_that_exist(paths):
    for name in figures.figure_names(STUDY):
        reads = figures.figure_inputs(name, STUDY)
        assert any((reads.tables, reads.samples, reads.datasets, reads.histories))
        assert all(paths.table(table).is_file() for table in reads.tables)
        assert set(reads.datasets) <= set(STUDY.datasets)
        files = [paths.samples(run) / "images.npy" for run in reads.samples]
        files += [paths.score(run) / "nearest.csv" for run in reads.scores]
        assert all(path.is_file() for path in files)


def test_a_figure_of_one_data_set_reads_that_data_set_alone():
    assert figures.figure_inputs("fid_toy_flowers", STUDY).tables == (
        "fid_toy_flowers",
    )
    runs = tuple(STUDY.runs_of("toy_flowers"))
    assert figures.figure_inputs("samples_toy_flowers", STUDY).samples == runs
    assert figures.figure_inputs("training_loss_toy_flowers", STUDY).histories == runs


def test_no_words_are_clipped(paths):
    for name in figures.figure_names(STUDY):
        kind, dataset = figure_kind(name, STUDY)
        words = figures.caption(name, STUDY, paths)
        with style.styled():
            figure = DRAW[kind](STUDY, paths, dataset)
            style.headline(figure, words.title, words.text)
            assert clipped(figure) == [], name


def test_a_long_headline_covers_nothing(paths):
    """Figures that lay themselves out make room for as many lines as there are."""
    for name in ("copies_toy_flowers", "samples_toy_flowers"):
        kind, dataset = figure_kind(name, STUDY)
        figure = DRAW[kind](STUDY, paths, dataset)
        drawn = len(figure.texts)
        side = figure.axes[0].get_window_extent().height
        style.headline(figure, "a title " * 30, "small print " * 60)
        tops = [text.get_window_extent().y1 for text in figure.texts[:drawn]]
        tops += [axes.get_window_extent().y1 for axes in figure.axes]
        assert figure.texts[-1].get_window_extent().y0 > max(tops)
        assert figure.axes[0].get_window_extent().height == pytest.approx(side)


def test_without_fewer_steps_there_is_no_such_figure():
    sampling = STUDY.sampling.model_copy(update={"fewer_steps": None})
    study = STUDY.model_copy(update={"sampling": sampling})
    assert "fewer_steps" not in figures.figure_names(study)
    with pytest.raises(ConfigError, match=r"needs the key `sampling\.fewer_steps`"):
        figures.figure_inputs("fewer_steps", study)


def test_without_classifiers_there_is_no_such_figure():
    study = STUDY.model_copy(update={"classification": None})
    assert "classification" not in figures.figure_names(study)
    with pytest.raises(ConfigError, match="needs the key `classification`"):
        figures.figure_inputs("classification", study)
    with pytest.raises(ConfigError, match="there is no figure fid; choose one of"):
        figures.figure_inputs("fid", study)


def test_another_score_keeps_the_dissertation_on_its_own_axis(paths):
    main, beside = scores.draw_scores(STUDY, paths, "oxford_flowers").axes
    drawn = lines(main)
    assert drawn["linear (best: 101.1 at T = 900)"] == (
        [100, 900],
        pytest.approx([110, 100 + 1000 / 900]),
    )
    assert drawn["real held-out images: 42.5"][1] == [42.5, 42.5]
    assert not any("dissertation" in label for label in drawn)
    ((steps, fids),) = lines(beside).values()
    assert steps == list(range(100, 2001, 100))
    assert fids[0] == 369.88


def test_a_comparable_fid_shares_the_axis_with_the_dissertation(own_paths):
    table = tables.tabulate("fid_oxford_flowers", STUDY, own_paths)
    table = table.assign(metric="FID", images=128)
    full_size = STUDY.model_copy(
        update={"preprocess": STUDY.preprocess.model_copy(update={"image_size": 128})}
    )
    assert scores.comparable(table, 128)
    assert not scores.comparable(table, 32)
    assert not scores.comparable(table.assign(images=64), 128)
    finished_study.write_table("fid_oxford_flowers", table, own_paths)
    finished_study.write_tables(STUDY, own_paths, "plateau")
    (main,) = scores.draw_scores(full_size, own_paths, "oxford_flowers").axes
    assert lines(main)["dissertation, linear"][1][0] == 369.88


def test_unknown_data_sets_and_floors_are_left_out(paths):
    assert len(scores.draw_scores(STUDY, paths, "toy_flowers").axes) == 1
    main = scores.draw_scores(STUDY, paths, "smithsonian_butterflies").axes[0]
    assert not any("real held-out" in label for label in lines(main))


def test_times_are_scaled_to_the_images_of_the_study(paths):
    ours, theirs = costs.draw_generation_time(STUDY, paths, None).axes
    # This run made 16 images for the classifiers, in 14.4 seconds.
    drawn = lines(ours)
    assert drawn["mean of all models"] == ([100, 900], pytest.approx([0.8, 7.2]))
    across, seconds = drawn["a model of oxford_flowers"]
    assert sorted(across) == [100, 100, 900, 900]
    assert sorted(seconds) == pytest.approx([0.8, 0.8, 7.2, 7.2])
    (line,) = theirs.get_lines()
    assert line.get_ydata()[-1] == pytest.approx((2 * 3600 + 48 * 60 + 40) / 3600)


def test_no_point_touches_the_edge_of_a_chart(paths):
    for axes in (
        *scores.draw_scores(STUDY, paths, "oxford_flowers").axes,
        *costs.draw_generation_time(STUDY, paths, None).axes,
    ):
        bottom, top = axes.get_ylim()
        highest = max(max(line.get_ydata()) for line in axes.get_lines())
        assert bottom == 0
        assert 1.05 * highest < top < 1.2 * highest


def test_losses_are_drawn_over_updates(paths):
    with style.styled():
        panels = costs.draw_training_loss(STUDY, paths, "toy_flowers").axes
    assert [axes.get_title("left") for axes in panels] == ["linear", "linear_scaled"]
    for axes in panels:
        assert len(axes.get_lines()) == 2
        line = axes.get_lines()[0]
        assert list(line.get_xdata()) == [50, 100, 150]
        assert list(line.get_ydata()) == pytest.approx([1, 1 / 2, 1 / 3])


def is_upright(line) -> bool:
    x, y = line.get_xdata(), line.get_ydata()
    return len(x) == 2 and x[0] == x[1] and y[0] != y[1]


def test_differences_stand_against_zero(paths):
    """A filled dot is a difference that the table tells from zero."""
    resnet, vgg = accuracy.draw_classification(STUDY, paths, None).axes[2:]
    table = tables.read_table("classification_effects", paths)
    for axes, name in ((resnet, "resnet18"), (vgg, "vgg16")):
        rows = table[table["architecture"] == name]
        dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
        values = [line.get_xdata()[0] for line in dots]
        assert values == pytest.approx(100 * rows["difference"])
        filled = [line.get_markerfacecolor() != "white" for line in dots]
        assert filled == (rows["p_holm"] <= 0.05).tolist()
        assert filled == [True, False, False, True, True]
        bars = [
            list(line.get_xdata()) for line in axes.get_lines()
            if len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1]
        ]  # fmt: skip
        ends = 100 * rows[["difference_low", "difference_high"]].to_numpy()
        np.testing.assert_allclose(bars, ends)
        heights = [line.get_ydata()[0] for line in dots]
        assert heights == sorted(heights, reverse=True)
        assert axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
    labels = [label.get_text() for label in resnet.get_yticklabels()]
    assert labels[:2] == ["mix\n− origin", "mix\n− origin_repeated"]
    hollow = [line for line in vgg.get_lines() if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in hollow] == pytest.approx([9, -7])


def effect(p_holm=0.01, difference=0.05, **values) -> pd.Series:
    return pd.Series({"p_holm": p_holm, "difference": difference} | values)


def test_an_outcome_needs_a_small_p():
    assert effects.outcome(effect()) == "above"
    assert effects.outcome(effect(difference=-0.05)) == "below"
    assert effects.outcome(effect(p_holm=0.051)) == "unknown"
    assert effects.outcome(effect(p_holm=float("nan"))) == "unknown"


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (
            {"origin": 0.05, "origin_repeated": 0.02, "origin_augmented": 0.01},
            "mix is above origin, origin_repeated and origin_augmented",
        ),
        (
            {"origin": 0.05, "origin_repeated": None, "origin_augmented": -0.02},
            "mix is above origin, below origin_augmented, not distinguishable from "
            "origin_repeated",
        ),
        ({}, ""),
    ],
)
def test_the_verdict_names_every_comparison_of_mix(outcomes, words):
    rows = [
        effect(1.0 if value is None else 0.01, value or 0.01, set="mix", baseline=name)
        for name, value in outcomes.items()
    ]
    others = effect(set="synthesis", baseline="origin")
    assert effects.verdict(pd.DataFrame([*rows, others])) == words


def test_what_is_not_zero_shows_its_sign():
    values = (0.2273, -1.26, 2, -0.0303, 0.04, -0.0004, 0, -0.0, 5.6e-15)
    assert [effects.signed(value) for value in values] == [
        *("+0.2", "−1.3", "+2.0", "−0.03", "+0.04", "−0.0004", "0.0", "0.0", "0.0")
    ]


def test_an_interval_that_holds_zero_does_not_seem_to_end_there():
    ends = {"difference_low": -0.000303, "difference_high": 0.004849}
    assert effects.points({"difference": 0.00227, **ends}) == "+0.2 [−0.03, +0.5]"


@pytest.mark.parametrize(
    ("values", "panels"),
    [
        ({"seeds": 1}, 4),
        ({"sets": ["origin", "origin_augmented"]}, 4),
        ({"sets": ["origin"]}, 2),
        ({"architectures": ["vgg16"], "sets": ["synthesis", "mix"]}, 1),
    ],
)
def test_a_part_of_the_sets_can_be_drawn(tmp_path, monkeypatch, values, panels):
    monkeypatch.chdir(tmp_path)
    chosen = STUDY.classification.model_copy(update=values)
    study = STUDY.model_copy(update={"classification": chosen})
    paths = StudyPaths(study.study)
    finished_study.write_classifiers(study, paths)
    names = figures.figure_inputs("classification", study).tables
    finished_study.write_tables(study, paths, *names)
    files = figures.draw("classification", study, paths)
    assert all(path.stat().st_size for path in files)
    assert len(accuracy.draw_classification(study, paths, None).axes) == panels


def test_every_seed_is_a_dot(paths):
    figure = accuracy.draw_classification(STUDY, paths, None)
    first = figure.axes[0]
    dots = [line for line in first.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in dots] == [
        pytest.approx(values)
        for values in (
            *([70, 72, 74], [61, 62, 63], [79, 82, 85]),
            *([73, 78, 83], [82, 83, 84]),
        )
    ]
    bars = [list(line.get_ydata()) for line in first.get_lines() if is_upright(line)]
    table = tables.read_table("classification", paths).query("architecture=='resnet18'")
    ends = 100 * table[["accuracy_low", "accuracy_high"]].to_numpy()
    np.testing.assert_allclose(bars, ends)
    hollow = [line for line in first.get_lines() if line.get_marker() == "D"]
    assert [line.get_ydata()[0] for line in hollow] == pytest.approx([65, 59, 72])


def test_rows_of_the_grid_are_values_of_t(own_paths):
    """Give every sample a colour of its own and look for it in the picture."""
    runs = STUDY.runs_of("toy_flowers")
    colours = {}
    for number, run in enumerate(runs):
        images = np.zeros((STUDY.sample_images(run), 3, 8, 8), np.uint8)
        for index in range(8):
            colours[run, index] = (40 + 50 * number, 10 + 20 * index, 200 - 7 * index)
            images[index] = np.reshape(colours[run, index], (3, 1, 1))
        np.save(own_paths.samples(run) / "images.npy", images)
    png, _ = figures.draw("samples_toy_flowers", STUDY, own_paths)
    pixels = np.asarray(Image.open(png).convert("RGB"))

    def place(run: Run, index: int) -> tuple[float, float]:
        found = np.argwhere((pixels == colours[run, index]).all(axis=-1))
        assert len(found) > 100
        return tuple(found.mean(axis=0))

    where = {run: [place(run, index) for index in range(4)] for run in runs}
    for run in runs:
        (y, x), *others = where[run]
        assert all(abs(other[0] - y) < 1 for other in others)
        assert x < others[0][1] < others[1][1] < others[2][1]
    small, large = runs[0], runs[1]
    assert (small.steps, large.steps) == (100, 900)
    assert where[small][0][0] < where[large][0][0]
    assert where[small][3][1] < where[runs[2]][0][1]  # the next schedule's panel
    unseen = (pixels == colours[small, 4]).all(axis=-1)
    assert not unseen.any()


def test_pictures_keep_their_pixels():
    images = np.arange(2 * 3 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 3, 2, 2)
    canvas = grids.compose(images, side=4, gap=1)
    assert canvas.shape == (10, 15, 3)
    tile = canvas[5:9, 10:14]  # second row, third column
    assert (tile[::2, ::2].transpose(2, 0, 1) == images[1, 2]).all()
    assert (tile[1::2, 1::2].transpose(2, 0, 1) == images[1, 2]).all()
    assert (canvas[4] == 255).all()
    assert (canvas[:, 4] == 255).all()


@given(st.integers(1, 60), st.integers(1, 60))
def test_evenly_takes_both_ends(count, total):
    places = evenly(count, total)
    assert len(places) == min(count, total)
    assert places == sorted(set(places))
    assert places[0] == 0
    assert count == 1 or places[-1] == total - 1


def test_the_dissertations_twenty_values_all_have_a_row():
    study = finished_study.study(
        diffusion={"steps": list(range(2000, 0, -100))}, classification=None
    )
    assert rows_shown(study) == list(range(100, 2001, 100))
    study = finished_study.study(
        diffusion={"steps": list(range(1, 102))}, classification=None
    )
    shown = rows_shown(study)
    assert (len(shown), shown[0], shown[-1]) == (20, 1, 101)


def test_one_model_alone_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = parse_study(
        {
            "study": "one",
            "datasets": {"toy_flowers": {"format": "toy_flowers", "train": 16}},
            "preprocess": {"image_size": 8},
            "network": {"preset": "tiny"},
            "diffusion": {"steps": [100]},
            "sampling": {"images": 6, "batch_size": 2},
            "evaluation": {"extractor": "efficientnet-lite0"},
            "figures": {"dpi": 50},
        }
    )
    paths = finished_study.write_study(study)
    finished_study.write_tables(study, paths)
    for name in figures.figure_names(study):
        assert all(path.stat().st_size for path in figures.draw(name, study, paths))


def test_missing_and_wrong_inputs_are_named(own_paths):
    run = Run("toy_flowers", "linear", 900)
    samples = own_paths.samples(run) / "images.npy"
    np.save(samples, np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(StageError, match=r"images\.npy holds uint8 \(4, 8, 8, 3\)"):
        figures.draw("samples_toy_flowers", STUDY, own_paths)
    samples.unlink()
    with pytest.raises(StageError, match=rf"{samples} is missing.*noisesteps sample"):
        figures.draw("samples_toy_flowers", STUDY, own_paths)
    (own_paths.data("toy_flowers") / "images.npy").unlink()
    with pytest.raises(StageError, match=r"images\.npy is missing"):
        figures.draw("dataset_toy_flowers", STUDY, own_paths)
    (own_paths.model(run) / "history.csv").write_text("epoch\n1\n")
    with pytest.raises(StageError, match=r"history\.csv cannot be read"):
        figures.draw("training_loss_toy_flowers", STUDY, own_paths)
    with pytest.raises(StageError, match=r"fid_toy_flowers\.csv is missing"):
        figures.draw("fid_toy_flowers", STUDY, own_paths)
    assert not list(own_paths.root.glob("figures/*"))


def test_losses_that_have_changed_are_not_drawn(own_paths):
    folder = own_paths.model(Run("toy_flowers", "linear", 900))
    record, file = folder / "model.json", folder / "history.csv"
    write_record(record, read_json(record), file.name)
    figures.draw("training_loss_toy_flowers", STUDY, own_paths)
    whole = file.read_text()
    for text in (whole.replace("100,0.5", "100,0.7"), whole[: len(whole) // 2]):
        file.write_text(text)
        damaged = rf"{file} is damaged .*run `noisesteps train` again"
        with pytest.raises(StageError, match=damaged):
            figures.draw("training_loss_toy_flowers", STUDY, own_paths)


def test_captions_tell_the_numbers(paths):
    words = figures.caption("fid_toy_flowers", STUDY, paths)
    assert "linear: 110.0 at T = 100, lowest 101.1 at T = 900" in words.alt
    assert "8 generated images a score against 12 training images" in words.text
    words = figures.caption("classification", STUDY, paths)
    assert "resnet18 mix: 82.0%" in words.alt
    assert "30 real images a class" in words.text
    assert "mix minus origin: +10.0 [+7.5, +12.5];" in words.alt
    assert "−1.0 [−6.0, +4.0], not distinguishable from zero" in words.alt
    assert "not the choice of images" in words.text


@pytest.mark.parametrize(
    ("relative", "text"),
    [(0.0, "0.00"), (0.0015, "< 0.01"), (0.0049, "< 0.01"), (0.4, "0.40")],
)
def test_only_an_exact_copy_reads_as_one(relative, text):
    assert copies.shown_distance(relative) == text
