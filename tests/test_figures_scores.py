"""Figures of what the scores decide: drawn as measured, marked as tested."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import finished_study
from drawn import clipped, lines
from noisesteps import figures, tables
from noisesteps.diffusion import Diffusion
from noisesteps.errors import StageError
from noisesteps.figures import (
    copies,
    fewer_steps,
    measures,
    quality_vs_cost,
    schedule,
    scores,
    style,
)
from noisesteps.files import read_json
from noisesteps.paths import Run
from noisesteps.records import write_record
from noisesteps.tables.comparisons import TRAINED

STUDY = finished_study.study(classification=None)


def write(study=STUDY):
    """Write a finished study and its tables below the working directory."""
    paths = finished_study.write_study(study)
    finished_study.write_tables(study, paths)
    return paths


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, write()


@pytest.fixture
def paths(finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    return finished[1]


@pytest.fixture
def own_paths(tmp_path, monkeypatch):
    """Write a finished study that the test may change."""
    monkeypatch.chdir(tmp_path)
    return write()


def without_intervals(paths, *names):
    """Rewrite tables as one score a model leaves them."""
    for name in names:
        table = tables.read_table(name, paths)
        ends = [column for column in table if column.endswith(("low", "high"))]
        table[ends] = np.nan
        if "sampling_seeds" in table:
            table = table.assign(sampling_seeds=1, interval_over="none: one score")
        finished_study.write_table(name, table, paths)


def marks(axes, **look):
    """Return where unconnected markers of a look stand."""
    return [
        (float(across), float(upwards))
        for line in axes.get_lines()
        if line.get_linestyle() == "None"
        and all(getattr(line, f"get_{name}")() == value for name, value in look.items())
        for across, upwards in zip(*line.get_data(), strict=True)
    ]


def strokes(axes):
    """Return across, low and high of every interval that is drawn as a stroke."""
    return [
        (*segment[0], segment[1][1])
        for collection in axes.collections
        if hasattr(collection, "get_segments")
        for segment in collection.get_segments()
    ]


def test_scores_have_their_intervals_and_the_floor_its_own(paths):
    main = scores.draw_scores(STUDY, paths, "toy_flowers").axes[0]
    table = tables.read_table("fid_toy_flowers", paths)
    expected = table[["steps", "low", "high"]].to_numpy(float)
    np.testing.assert_allclose(strokes(main), expected)
    (floor,) = (patch for patch in main.patches if patch.get_width() == 1)
    ends = (floor.get_y(), floor.get_y() + floor.get_height())
    row = table.iloc[0]
    assert ends == pytest.approx((row["real_floor_low"], row["real_floor_high"]))


def test_a_t_that_is_worse_than_the_best_is_hollow(paths):
    main = scores.draw_scores(STUDY, paths, "toy_flowers").axes[0]
    # 1 below and above, so 8.9 and 17.8 apart is told; the best is T = 900.
    hollow = marks(main, markerfacecolor="white")
    assert hollow == [(100, 110), (100, 220)]
    keys = [text.get_text() for text in main.figure.legends[0].get_texts()]
    assert "hollow: worse than its line's best T (95%)" in keys
    assert "ring: the lowest score of its line" in keys


def test_only_points_whose_x_t_is_not_noise_are_marked(paths):
    main = scores.draw_scores(STUDY, paths, "toy_flowers").axes[0]
    assert marks(main, color=style.ORANGE) == [(100, 110)]  # linear, signal 0.5
    assert (
        "With linear, x_T is not noise at T = 100."
        in figures.caption("fid_toy_flowers", STUDY, paths).alt
    )


def test_one_score_has_no_interval_and_no_test(own_paths):
    without_intervals(own_paths, "fid_toy_flowers", "plateau")
    main = scores.draw_scores(STUDY, own_paths, "toy_flowers").axes[0]
    assert strokes(main) == []
    assert marks(main, markerfacecolor="white") == []
    keys = [text.get_text() for text in main.figure.legends[0].get_texts()]
    assert not any("best T" in key for key in keys)
    words = figures.caption("fid_toy_flowers", STUDY, own_paths)
    assert "One score a model, so there is no interval." in words.text
    assert "best" not in words.alt


def test_the_caption_says_what_an_interval_covers(own_paths):
    words = figures.caption("fid_toy_flowers", STUDY, own_paths).text
    assert "95% intervals over 3 sets of images from one training; the luck" in words
    table = tables.read_table("fid_toy_flowers", own_paths).assign(training_seeds=4)
    finished_study.write_table("fid_toy_flowers", table, own_paths)
    words = figures.caption("fid_toy_flowers", STUDY, own_paths).text
    assert "95% intervals over 4 trainings, each scored 3 times." in words
    assert "luck" not in words


def test_curves_of_a_schedule_are_the_process(paths):
    steps = np.array([30, 100, 900])
    for name in ("linear", "linear_scaled", "cosine"):
        processes = [Diffusion(int(value), name) for value in steps]
        signal = schedule.curve("terminal_signal", name, steps, [0.1, 0.3])
        assert list(signal.mean) == [process.terminal_signal for process in processes]
        assert (signal.low == signal.high).all()
        divergence = schedule.curve("prior_divergence", name, steps, [0.1, 0.3])
        alpha_bar = np.array([process.alpha_bar[-1].item() for process in processes])
        low, high = (
            0.5 * (alpha_bar * (square - 1) - np.log1p(-alpha_bar))
            for square in (0.1, 0.3)
        )
        np.testing.assert_allclose(divergence.low, low, rtol=1e-6)
        np.testing.assert_allclose(divergence.high, high, rtol=1e-6)
        np.testing.assert_allclose(divergence.mean, (low + high) / 2, rtol=1e-6)


def test_linear_is_noise_from_where_the_signal_is_a_twentieth():
    edge = schedule.noise_from()
    assert edge.terminal_signal <= scores.NOT_NOISE
    assert Diffusion(edge.steps - 1, "linear").terminal_signal > scores.NOT_NOISE


def test_markers_of_the_schedules_are_the_models(paths):
    panels = schedule.draw_schedule(STUDY, paths, None).axes
    assert len(panels) == 3
    assert panels[0].get_shared_x_axes().joined(*panels[:2])
    models = tables.read_table("models", paths)
    for axes, quantity in zip(panels, schedule.QUANTITIES, strict=True):
        rows = models[models["dataset"] == "toy_flowers"]
        expected = rows[["steps", quantity]].to_numpy(float)
        np.testing.assert_allclose(marks(axes), expected)
        (shade,) = axes.patches
        assert shade.get_y() > 0
        assert shade.get_y() + shade.get_height() >= axes.get_ylim()[1] * (1 - 1e-9)
    assert panels[0].patches[0].get_y() == pytest.approx(scores.NOT_NOISE, rel=0.01)


def test_every_measure_has_its_panel_and_its_floor(paths):
    with style.styled():
        panels = measures.draw_measures(STUDY, paths, "toy_flowers").axes
    titles = [axes.get_title("left") for axes in panels]
    assert titles == [
        *("KD (EfficientNet-Lite0)", "FD (EfficientNet-Lite0), N → ∞"),
        *("precision", "recall"),
    ]
    table = tables.read_table("fid_toy_flowers", paths)
    linear = table[table["schedule"] == "linear"]
    for axes, measure in zip(panels, measures.MEASURES, strict=True):
        drawn = lines(axes)
        assert drawn["linear"][1] == pytest.approx(linear[measure].tolist())
    floors = [lines(axes)["real held-out images"][1][0] for axes in panels]
    assert floors == pytest.approx([0.0425, 12.5, 0.5, 0.3])
    assert len(strokes(panels[1])) == 4
    # No floor is known of this data set: 4 images are held out.
    panels = measures.draw_measures(STUDY, paths, "smithsonian_butterflies").axes
    assert not any("real held-out images" in lines(axes) for axes in panels)
    words = figures.caption("scores_smithsonian_butterflies", STUDY, paths)
    assert "Too few images are held out" in words.text


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("FID", "KID"),
        ("FD (EfficientNet-Lite0)", "KD (EfficientNet-Lite0)"),
        ("FD (Inception-v3, other weights)", "KD (Inception-v3, other weights)"),
    ],
)
def test_the_kernel_distance_is_named_as_the_frechet_distance(metric, name):
    assert measures.measure_name("kid", metric) == name
    assert measures.measure_name("fid_infinity", metric) == f"{metric}, N → ∞"


def test_fewer_steps_are_compared_with_training(paths):
    with style.styled():
        figure = fewer_steps.draw_fewer_steps(STUDY, paths, None)
    assert len(figure.axes) == 6  # 3 data sets × 2 schedules
    drawn = lines(figure.axes[0])
    best = 100 + 1000 / 900
    assert drawn == {
        "trained and sampled with as many steps": (
            [100, 900],
            pytest.approx([110, best]),
        ),
        # Ancestral is the study's own method, so its line ends in the whole model.
        "model of T = 900, ancestral sampling": (
            [100, 900],
            pytest.approx([best + 5, best]),
        ),
        "model of T = 900, DDIM sampling": ([100], pytest.approx([best + 10])),
    }
    top, bottom = figure.axes[0], figure.axes[3]
    assert top.get_title("left") == "oxford_flowers\nlinear"
    assert bottom.get_title("left") == "oxford_flowers\nlinear_scaled"
    assert top.get_ylim() == bottom.get_ylim()
    words = figures.caption("fewer_steps", STUDY, paths).alt
    assert "oxford_flowers, linear, at 100 steps: trained so 110.0 [" in words
    assert "ancestral 106.1 [" in words


def test_the_schedules_of_one_data_set_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flowers = {"toy_flowers": {"format": "toy_flowers", "train": 30, "held_out": 4}}
    study = finished_study.study(datasets=flowers, classification=None)
    paths = write(study)
    left, right = fewer_steps.draw_fewer_steps(study, paths, None).axes
    assert left.get_position().y0 == right.get_position().y0
    assert left.get_ylim() == right.get_ylim()


def test_what_nothing_beats_is_numbered_and_listed(paths):
    figure = quality_vs_cost.draw_quality_vs_cost(STUDY, paths, None)
    chart, beside = figure.axes[:2]
    # 0.1 s: 106.1 of the large T, sampled in 100 steps, beats 110.0; 0.9 s: 101.1.
    notes = [(note.get_text(), note.xy) for note in chart.texts]
    assert notes == [
        ("1", pytest.approx((0.1, 106.1111111))),
        ("2", pytest.approx((0.9, 101.1111111))),
    ]
    listed = [text.get_text() for text in beside.texts]
    assert listed[6:11] == ["1", "linear", "900", "ancestral 100", "106.1"]
    assert listed[11:] == ["2", "linear", "900", "all T steps", "101.1"]
    assert chart.get_xscale() == "log"
    words = figures.caption("quality_vs_cost", STUDY, paths).alt
    assert "toy_flowers: linear T = 900, ancestral 100: 106.1 in 0.1 s" in words


def front(seconds, values):
    table = pd.DataFrame({"seconds_per_image": seconds, "value": values})
    return table.assign(pareto=True)


def test_a_long_front_is_thinned_and_keeps_its_ends():
    rows = quality_vs_cost.numbered(front(np.arange(40.0, 0, -1), np.arange(40)))
    assert list(rows.index) == list(range(1, quality_vs_cost.NUMBERED + 1))
    assert (rows["value"].iloc[0], rows["value"].iloc[-1]) == (39, 0)
    assert rows["seconds_per_image"].is_monotonic_increasing


def test_points_that_lie_on_each_other_share_a_number():
    rows = quality_vs_cost.numbered(front([1, 1.01, 10, 10.1, 50], [9, 8.9, 5, 4.9, 1]))
    found = quality_vs_cost.groups(rows, (1, 100), (0, 10))
    assert found == [(1, 2), (3, 4), (5, 5)]
    apart = quality_vs_cost.groups(rows, (1, 100), (0, 0.1))
    assert apart == [(number, number) for number in range(1, 6)]


def test_ways_that_take_equally_long_stand_side_by_side():
    table = pd.DataFrame(
        {"seconds_per_image": [1.0, 1.0, 1.0, 2.0, 2.0], "value": [9, 7, 8, 5, 6]}
    )
    across = quality_vs_cost.beside(table)
    assert (across[1], across[3]) == (1.0, 2.0)
    assert across[1] < across[2] < across[0] < across[3] < across[4]
    (alone,) = quality_vs_cost.beside(table.iloc[:1])
    assert alone == 1.0


def test_one_way_is_a_front():
    rows = quality_vs_cost.numbered(front([1.0], [9.0]))
    assert quality_vs_cost.groups(rows, (0.5, 2), (0, 10)) == [(1, 1)]


def test_planted_copies_are_shown_closest_first(own_paths):
    """Plant a copy and a mirrored copy, and look for their training images."""
    flat = Run("toy_flowers", "linear_scaled", 900)
    train = np.load(own_paths.data("toy_flowers") / "images.npy")[:30]
    samples = np.load(own_paths.samples(flat) / "images.npy")
    samples[3], samples[5] = train[21], train[17][..., ::-1]
    np.save(own_paths.samples(flat) / "images.npy", samples)
    file = own_paths.score(flat) / "nearest.csv"
    rows = pd.read_csv(file)
    rows.loc[3, ["pixel_index", "pixel_relative"]] = [21, 0.0]
    rows.loc[5, ["pixel_index", "pixel_relative"]] = [17, 0.1]
    rows.to_csv(file, index=False)
    found = copies.neighbours("pixel", STUDY, own_paths, "toy_flowers")
    assert len(found.generated) == 8
    distances = [pair.relative for pair in found.generated]
    assert distances[:3] == [0, 0.1, 0.4]
    assert distances == sorted(distances)
    for pair, index in zip(found.generated[:2], (3, 5), strict=True):
        assert pair.name == "linear_scaled, T = 900"
        np.testing.assert_array_equal(pair.image, samples[index])
        np.testing.assert_array_equal(pair.nearest, pair.image)
    framed = copies.draw_copies(STUDY, own_paths, "toy_flowers").artists
    # Those planted, and in each space the first of each run, or as many as are shown.
    assert len(framed) == 8 + 8
    assert {to_hex(frame.get_edgecolor()) for frame in framed} == {"#d55e00"}
    words = figures.caption("copies_toy_flowers", STUDY, own_paths)
    assert "by pixels 0.00 (linear_scaled, T = 900), real images 0.60" in words.alt


def test_real_pairs_are_shown_for_scale(paths):
    found = copies.neighbours("feature", STUDY, paths, "toy_flowers")
    images = np.load(paths.data("toy_flowers") / "images.npy")
    assert [pair.relative for pair in found.real] == [0.6, 0.7, 0.8, 0.9]
    np.testing.assert_array_equal(found.real[1].image, images[31])
    either = [images[1], images[1][..., ::-1]]
    assert any((found.real[1].nearest == image).all() for image in either)


def test_without_held_out_images_there_is_nothing_to_compare_with(own_paths):
    path = own_paths.reference("toy_flowers")
    write_record(
        path / "reference.json", read_json(path / "reference.json") | {"copies": None}
    )
    (path / "nearest.csv").write_text("\n")
    finished_study.write_tables(STUDY, own_paths, "copies")
    figure = copies.draw_copies(STUDY, own_paths, "toy_flowers")
    shown = [text.get_text() for text in figure.texts]
    assert not any("for scale" in text for text in shown)
    words = figures.caption("copies_toy_flowers", STUDY, own_paths)
    assert "(real held-out images: none)" in words.text


def test_neighbours_must_be_of_the_images_at_hand(own_paths):
    file = own_paths.score(Run("toy_flowers", "linear", 100)) / "nearest.csv"
    whole = file.read_text()
    file.write_text(whole.replace("\n3,3,", "\n3,30,"))
    with pytest.raises(StageError, match=r"nearest\.csv names images that the 24"):
        figures.draw("copies_toy_flowers", STUDY, own_paths)
    file.write_text(whole.replace("pixel_index", "index"))
    with pytest.raises(StageError, match=r"nearest\.csv cannot be read.*steps score"):
        figures.draw("copies_toy_flowers", STUDY, own_paths)
    file.unlink()
    with pytest.raises(StageError, match=r"nearest\.csv is missing.*noisesteps score"):
        figures.draw("copies_toy_flowers", STUDY, own_paths)


@pytest.mark.parametrize("stage", ["score", "reference"])
def test_neighbours_that_have_changed_are_not_drawn(own_paths, stage):
    folder = own_paths.reference("toy_flowers")
    if stage == "score":
        folder = own_paths.score(Run("toy_flowers", "linear", 100))
    record, file = folder / f"{stage}.json", folder / "nearest.csv"
    write_record(record, read_json(record), file.name)
    figures.caption("copies_toy_flowers", STUDY, own_paths)
    file.write_text(file.read_text().replace("1,1,2.5", "1,2,2.5"))
    damaged = rf"{file} is damaged .*run `noisesteps {stage}` again"
    with pytest.raises(StageError, match=damaged):
        figures.draw("copies_toy_flowers", STUDY, own_paths)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([100, 900], "linear"),
        ([10, 20, 50, 1000], "log"),
        ([*range(1, 20), 1000], "log"),
        ([990, 995, 1000, 10], "log"),
        ([100, 200, 300, 1000, 1500, 2000], "linear"),
        (list(range(100, 2001, 100)), "linear"),
    ],
)
@pytest.mark.parametrize("inches", [1.87, 5.5])
def test_labels_of_steps_do_not_collide(values, scale, inches):
    with style.styled():
        figure = style.new_figure(inches + 0.4, 2)
        axes = figure.subplots()
        axes.plot(values, values)
        style.steps_axis(axes, values, inches=inches)
        assert axes.get_xscale() == scale
        assert clipped(figure) == []
        boxes = [
            label.get_window_extent()
            for label in axes.get_xticklabels()
            if label.get_text()
        ]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_wide_band_does_not_flatten_the_lines():
    figure = style.new_figure(4, 2)
    axes = figure.subplots()
    rows = pd.DataFrame({"steps": [1, 2], "value": [10.0, 8.0]})
    style.draw_band(axes, rows.assign(low=-500.0, high=500.0), style.BLUE)
    axes.plot(rows["steps"], rows["value"])
    style.from_zero(axes)
    assert axes.get_ylim() == (0, pytest.approx(1.08 * 15))
    style.around(axes)
    assert axes.get_ylim() == pytest.approx((6.9, 11.1))


def test_trained_ways_are_told_from_sampled_ones(paths):
    table = tables.read_table("fewer_steps", paths)
    rows = table.query("dataset == 'toy_flowers' and schedule == 'linear'")
    found = fewer_steps.lines_of(rows, STUDY)
    assert set(found) == {"trained", "ancestral", "ddim"}
    assert set(found["trained"]["way"]) == {TRAINED}
    assert list(found["ddim"]["way"]) == ["ddim"]
