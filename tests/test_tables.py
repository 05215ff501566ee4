"""Tables: records in, numbers out that can be checked by hand."""

from __future__ import annotations

import inspect
import math
import statistics
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import finished_study
from noisesteps import tables
from noisesteps.config import Study
from noisesteps.errors import ConfigError, StageError
from noisesteps.evaluation import copies
from noisesteps.files import read_json
from noisesteps.paths import Run, StudyPaths
from noisesteps.records import write_record
from noisesteps.tables import scores
from noisesteps.tables.classifiers import effect_rows
from noisesteps.uncertainty import share_interval

STUDY = finished_study.study()
LINEAR = Run("oxford_flowers", "linear", 100)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return finished_study.write_study(STUDY)


def row(frame: pd.DataFrame, **where: object) -> pd.Series:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_dissertation_holds_every_printed_number():
    fid = tables.dissertation("fid")
    assert len(fid) == 60
    assert (
        fid.groupby("dataset")["steps"].apply(list).tolist()
        == [list(range(100, 2001, 100))] * 3
    )
    # The sums of the printed columns: one digit copied wrongly would change them.
    sums = fid.groupby("dataset")["fid"].sum().round(2).to_dict()
    assert sums == {
        "anime_faces": 2682.17,
        "oxford_flowers": 3055.48,
        "smithsonian_butterflies": 6776.36,
    }
    assert row(fid, dataset="oxford_flowers", steps=100)["fid"] == 369.88
    assert row(fid, dataset="smithsonian_butterflies", steps=1700)["fid"] == 308.78
    assert row(fid, dataset="anime_faces", steps=600)["fid"] == 95.55
    assert row(fid, dataset="anime_faces", steps=2000)["fid"] == 109.04


def test_dissertation_times_and_accuracies():
    times = tables.dissertation("generation_time")
    assert len(times) == 20
    assert times["seconds"].sum() == 106_150  # of the printed column
    assert row(times, steps=100)["seconds"] == 8 * 60 + 20
    assert row(times, steps=2000)["seconds"] == 2 * 3600 + 48 * 60 + 40
    accuracy = tables.dissertation("classification")
    assert len(accuracy) == 6
    assert accuracy["accuracy"].tolist() == [0.65, 0.59, 0.72, 0.61, 0.54, 0.70]


def test_dissertation_names_the_contradiction_about_the_faces():
    hours = tables.dissertation("training_time")
    assert hours["hours"].tolist() == [15, 2, 30]
    assert hours["hours"].sum() * 20 == 940
    assert (15 + 2 + 50) * 20 != 940  # what the text writes
    assert "50" in row(hours, dataset="anime_faces")["note"]


def test_models_has_one_row_for_each_run(paths):
    frame = tables.tabulate("models", STUDY, paths)
    names = ["dataset", "schedule", "steps", "training_seed"]
    coordinates = frame[names].itertuples(index=False)
    assert [Run(*found) for found in coordinates] == STUDY.runs
    first = frame.iloc[0]
    assert (first["terminal_signal"], first["parameters"]) == (0.5, 1234)
    assert (first["terminal_snr"], first["prior_divergence"]) == (1 / 3, 0.025)
    assert (first["optimizer_steps"], first["final_loss"]) == (150, 0.25)
    assert (first["seconds"], first["device"]) == (100.0, "CPU <model>")


def test_training_time_averages_over_the_models(paths):
    frame = tables.tabulate("training_time", STUDY, paths)
    assert len(frame) == 6
    flowers = row(frame, dataset="oxford_flowers", schedule="linear")
    assert (flowers["models"], flowers["mean_seconds"]) == (2, 500.0)
    assert flowers["total_seconds"] == 1000.0
    assert flowers["mean_hours"] == pytest.approx(500 / 3600)
    assert flowers["dissertation_hours"] == 15


def test_dissertation_stands_only_beside_its_schedule_and_data_sets(paths):
    hours = tables.tabulate("training_time", STUDY, paths)
    known = hours.dropna(subset="dissertation_hours")
    assert list(zip(known["dataset"], known["schedule"], strict=True)) == [
        ("oxford_flowers", "linear"),
        ("smithsonian_butterflies", "linear"),
    ]
    scores = tables.tabulate("fid", STUDY, paths)
    known = scores.dropna(subset="dissertation_fid")
    assert known["dissertation_fid"].tolist() == [369.88, 133.55, 464.27, 314.49]
    assert set(known["schedule"]) == {"linear"}


def test_scores_keep_what_was_measured(paths):
    frame = tables.tabulate("fid", STUDY, paths)
    assert len(frame) == len(STUDY.runs)
    scaled = row(frame, dataset="toy_flowers", schedule="linear_scaled", steps=900)
    assert scaled["value"] == pytest.approx(2 * (100 + 1000 / 900))
    assert (scaled["images"], scaled["reference_images"]) == (8, 12)
    assert scaled["metric"] == finished_study.METRIC
    assert scaled["real_floor"] == 42.5
    assert pd.isna(
        row(frame, dataset="smithsonian_butterflies", schedule="linear", steps=100)[
            "real_floor"
        ]
    )


def test_a_data_set_has_its_scores_alone(paths):
    assert tables.table_runs("fid_toy_flowers", STUDY) == STUDY.runs_of("toy_flowers")
    whole = tables.tabulate("fid", STUDY, paths)
    part = tables.tabulate("fid_toy_flowers", STUDY, paths)
    expected = whole[whole["dataset"] == "toy_flowers"].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected)


def test_generation_time_keeps_the_count_of_each_run(paths):
    frame = tables.tabulate("generation_time", STUDY, paths)
    for_classifiers = row(frame, dataset="oxford_flowers", schedule="linear", steps=900)
    assert (for_classifiers["images"], for_classifiers["seconds"]) == (30, 27.0)
    assert for_classifiers["dissertation_seconds"] == 75 * 60 + 50
    scored = row(frame, dataset="toy_flowers", schedule="linear", steps=900)
    assert (scored["images"], scored["seconds"]) == (24, 21.6)
    assert scored["seconds_per_image"] == 0.9
    assert (frame["sampling_steps"] == frame["steps"]).all()


def test_classification_has_means_and_sample_deviations(paths):
    frame = tables.tabulate("classification", STUDY, paths)
    assert len(frame) == 2 * 5
    mix = row(frame, architecture="resnet18", set="mix")
    assert mix["accuracy_mean"] == pytest.approx(0.82)
    accuracies = [0.79, 0.82, 0.85]
    assert mix["accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
    share = share_interval(accuracies, 10)
    ends = mix["accuracy_low"], mix["accuracy_high"]
    assert ends == pytest.approx((share.low, share.high))
    assert (mix["runs"], mix["train_images"], mix["test_images"]) == (3, 64, 10)
    assert (mix["schedule"], mix["steps"]) == ("linear", 900)
    assert mix["dissertation_accuracy"] == 0.72


def classifying(**values) -> Study:
    """Return the study with other values of `classification`."""
    chosen = STUDY.classification.model_copy(update=values)
    return STUDY.model_copy(update={"classification": chosen})


def test_one_seed_has_no_interval(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = classifying(seeds=1)
    paths = StudyPaths(study.study)
    finished_study.write_classifiers(study, paths)
    frame = tables.tabulate("classification", study, paths)
    absent = ["accuracy_std", "accuracy_low", "accuracy_high"]
    assert frame[absent].isna().all(axis=None)
    assert (frame["runs"] == 1).all()
    effects = tables.tabulate("classification_effects", study, paths)
    absent = ["difference_low", "difference_high", "p_value", "p_holm"]
    assert effects[absent].isna().all(axis=None)
    assert (effects["repetitions"] == 1).all()
    mix = row(effects, architecture="vgg16", set="mix", baseline="origin")
    assert mix["difference"] == pytest.approx(0.79 - 0.70)


def test_classification_of_other_classes_has_no_dissertation_beside_it(paths):
    study = classifying(datasets=["oxford_flowers", "toy_flowers"])
    frame = tables.tabulate("classification", study, paths)
    assert frame["dissertation_accuracy"].isna().all()
    effects = tables.tabulate("classification_effects", study, paths)
    assert effects["dissertation_difference"].isna().all()


def test_the_dissertations_classifiers_stand_beside_any_schedule(paths):
    """It does not say which T made its images, so no study can match it in that."""
    study = classifying(schedule="linear_scaled", steps=100)
    frame = tables.tabulate("classification", study, paths)
    known = frame.dropna(subset="dissertation_accuracy")
    assert set(known["set"]) == {"origin", "synthesis", "mix"}
    assert known["dissertation_accuracy"].tolist() == [
        *(0.65, 0.59, 0.72, 0.61, 0.54, 0.70)
    ]
    effects = tables.tabulate("classification_effects", study, paths)
    known = effects.dropna(subset="dissertation_difference")
    assert known.set_index(["architecture", "set", "baseline"])[
        "dissertation_difference"
    ].to_dict() == {
        ("resnet18", "mix", "origin"): pytest.approx(0.07),
        ("resnet18", "synthesis", "origin"): pytest.approx(-0.06),
        ("vgg16", "mix", "origin"): pytest.approx(0.09),
        ("vgg16", "synthesis", "origin"): pytest.approx(-0.07),
    }


def write_accuracies(study, paths, random) -> dict[tuple[str, str], np.ndarray]:
    """Give every classifier an accuracy by chance; return them by seed."""
    chosen, accuracies = study.classification, {}
    for architecture in chosen.architectures:
        for name in chosen.sets:
            drawn = random.integers(50, 100, chosen.seeds) / 100
            accuracies[architecture, name] = drawn
            for seed, accuracy in enumerate(drawn):
                path = paths.classifier(architecture, name, seed)
                write_record(path, read_json(path) | {"accuracy": accuracy})
    return accuracies


@pytest.mark.parametrize("draw", range(3))
def test_effects_are_paired_t_tests(tmp_path, monkeypatch, draw):
    monkeypatch.chdir(tmp_path)
    study = classifying(seeds=6)
    paths = StudyPaths(study.study)
    finished_study.write_classifiers(study, paths)
    accuracies = write_accuracies(study, paths, np.random.default_rng(draw))
    effects = tables.tabulate("classification_effects", study, paths)
    assert len(effects) == 2 * 5
    for found in effects.itertuples():
        first = accuracies[found.architecture, found.set]
        second = accuracies[found.architecture, found.baseline]
        test = stats.ttest_rel(first, second)
        ends = test.confidence_interval(0.95)
        assert found.p_value == pytest.approx(test.pvalue)
        assert found.difference == pytest.approx((first - second).mean())
        assert (found.difference_low, found.difference_high) == pytest.approx(
            (ends.low, ends.high)
        )
        assert found.repetitions == 6
    # Holm's definition, over the ten tests of the table.
    values = sorted(effects["p_value"])
    steps = [min(1, (10 - place) * value) for place, value in enumerate(values)]
    expected = {value: max(steps[: place + 1]) for place, value in enumerate(values)}
    for found in effects.itertuples():
        assert found.p_holm == pytest.approx(expected[found.p_value])


def test_pairs_are_matched_by_seed_in_whatever_order_they_come():
    drawn = {"origin": [0.1, 0.5, 0.8], "mix": [0.2, 0.7, 0.9]}
    runs = [
        {"architecture": "vgg16", "set": name, "seed": seed, "accuracy": accuracy}
        for name, accuracies in drawn.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    study = classifying(architectures=["vgg16"], sets=["origin", "mix"])
    expected = stats.ttest_rel(drawn["mix"], drawn["origin"]).pvalue
    for order in (runs, runs[::-1], runs[1::2] + runs[::2]):
        (row,) = effect_rows(order, study)
        assert row["p_value"] == row["p_holm"] == pytest.approx(expected)


def test_only_sets_that_the_study_has_are_compared(paths):
    effects = tables.tabulate(
        "classification_effects", classifying(sets=["mix", "origin_augmented"]), paths
    )
    assert effects[["set", "baseline"]].drop_duplicates().values.tolist() == [
        ["mix", "origin_augmented"]
    ]
    study = classifying(sets=["origin", "origin_repeated"])
    assert "classification_effects" not in tables.table_names(study)
    assert "classification" in tables.table_names(study)
    with pytest.raises(ConfigError, match="there is no table classification_effects"):
        tables.tabulate("classification_effects", study, paths)


@pytest.mark.parametrize("table", tables.table_names(STUDY))
def test_csv_brings_back_the_table(paths, table):
    frame = tables.tabulate(table, STUDY, paths)
    finished_study.write_table(table, frame, paths)
    read = tables.read_table(table, paths)
    pd.testing.assert_frame_equal(read, frame, rtol=1e-7)
    before = paths.table(table).read_bytes()
    tables.write_csv(paths.table(table), read)
    assert paths.table(table).read_bytes() == before


def test_csv_is_plain_text(paths):
    frame = tables.tabulate("training_time", STUDY, paths)
    tables.write_csv(paths.table("training_time"), frame)
    lines = paths.table("training_time").read_text().splitlines()
    assert lines[0] == (
        "dataset,schedule,models,mean_seconds,total_seconds,mean_hours,"
        "dissertation_hours,device"
    )
    assert lines[1] == "oxford_flowers,linear,2,500,1000,0.13888889,15,CPU <model>"
    assert lines[2] == "oxford_flowers,linear_scaled,2,500,1000,0.13888889,,CPU <model>"


def test_a_missing_record_names_its_file_and_stage(paths):
    missing = paths.score(LINEAR) / "score.json"
    missing.unlink()
    with pytest.raises(StageError, match=rf"{missing} is missing.*noisesteps score"):
        tables.tabulate("fid", STUDY, paths)
    tables.tabulate("fid_toy_flowers", STUDY, paths)  # does not depend on it


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_not_a_traceback(paths, content):
    damaged = paths.model(LINEAR) / "model.json"
    damaged.write_text(content)
    with pytest.raises(StageError, match=rf"{damaged}.*remove it.*noisesteps train"):
        tables.tabulate("models", STUDY, paths)


def test_a_record_without_a_key_names_the_key(paths):
    path = paths.samples(LINEAR) / "sample.json"
    record = read_json(path)
    del record["seconds_per_image"]
    write_record(path, record)
    with pytest.raises(StageError, match="lacks the key 'seconds_per_image'"):
        tables.tabulate("generation_time", STUDY, paths)


def test_a_missing_table_names_its_stage(paths):
    with pytest.raises(
        StageError, match=r"fid\.csv is missing.*noisesteps tabulate --table fid"
    ):
        tables.read_table("fid", paths)


def test_a_table_that_has_changed_is_not_read(paths):
    finished_study.write_tables(STUDY, paths, "fid")
    file, record = paths.table("fid"), paths.table("fid", ".json")
    whole = file.read_text()
    for text in (whole.replace(",110,", ",170,"), "\n".join(whole.split("\n")[:2])):
        assert text != whole
        file.write_text(text)
        damaged = rf"{file} is damaged .*run `noisesteps tabulate --table fid` again"
        with pytest.raises(StageError, match=damaged):
            tables.read_table("fid", paths)
    file.write_text(whole)
    tables.read_table("fid", paths)
    record.unlink()
    with pytest.raises(StageError, match=rf"{record} is missing; run `noisesteps tab"):
        tables.read_table("fid", paths)


def test_unknown_tables_are_refused(paths):
    with pytest.raises(ConfigError, match="there is no table score; choose one of"):
        tables.tabulate("score", STUDY, paths)
    study = STUDY.model_copy(update={"classification": None})
    assert "classification" not in tables.table_names(study)
    with pytest.raises(ConfigError, match="`classification`"):
        tables.table_runs("classification", study)


def test_tables_name_the_records_they_are_made_of(paths):
    for name in tables.table_names(STUDY):
        records = tables.table_records(name, STUDY, paths)
        assert records
        assert all(path.is_file() for path in records), name
    assert tables.table_runs("classification", STUDY) == []
    names = {path.name for path in tables.table_records("fid", STUDY, paths)}
    assert names == {"score.json", "reference.json"}


def test_the_interval_is_over_the_trainings_where_there_are_several(paths, monkeypatch):
    study = finished_study.study(training={"batch_size": 4, "seeds": 3})
    paths = finished_study.write_study(study)
    for seed in range(3):
        run = Run("toy_flowers", "linear", 100, seed)
        path = paths.score(run) / "score.json"
        record = read_json(path)
        record["fid"] = [100.0 + 10 * seed, 102.0 + 10 * seed, 107.0 + 10 * seed]
        write_record(path, record)
    frame = tables.tabulate("fid_toy_flowers", study, paths)
    found = row(frame, schedule="linear", steps=100)
    expected = stats.t.interval(0.95, 2, 113, 10 / math.sqrt(3))
    assert found["value"] == pytest.approx(113)
    assert (found["low"], found["high"]) == pytest.approx(expected)
    assert (found["training_seeds"], found["sampling_seeds"]) == (3, 3)
    assert found["interval_over"] == "training and sampling"


def test_scores_have_a_row_each(paths):
    frame = tables.tabulate("scores", STUDY, paths)
    respaced = sum(len(STUDY.respaced_runs_of(name)) for name in STUDY.datasets)
    assert len(frame) == 3 * (len(STUDY.runs) + respaced)
    rows = frame.query("dataset == 'toy_flowers' and sampler == 'ddim-100'")
    assert rows.query("schedule == 'linear'")["value"].tolist() == pytest.approx(
        [110 + 1 / 9, 111 + 1 / 9, 112 + 1 / 9]
    )


def test_plateau_is_the_tests_answer(paths):
    found = row(
        tables.tabulate("plateau", STUDY, paths),
        dataset="toy_flowers",
        schedule="linear",
    )
    assert (found["best_steps"], found["smallest_steps"]) == (900, 900)
    assert found["candidates"] == "900"
    assert bool(found["decided"])
    assert found["best_value"] == pytest.approx(100 + 1000 / 900)


def test_schedules_are_compared_at_equal_steps(paths):
    frame = tables.tabulate("schedules", STUDY, paths)
    assert len(frame) == 6
    found = row(frame, dataset="toy_flowers", steps=100)
    test = stats.ttest_ind([219, 220, 221], [109, 110, 111], equal_var=False)
    assert found["difference"] == pytest.approx(110)
    assert found["p_value"] == pytest.approx(test.pvalue)
    assert found["p_holm"] >= found["p_value"]
    assert found["linear_terminal_signal"] == 0.5
    assert not frame["identical"].any()


def test_a_schedule_is_not_tested_against_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diffusion = {"schedules": ["linear", "linear_scaled", "cosine"]}
    diffusion["steps"] = [100, 1000]
    study = finished_study.study(diffusion=diffusion, classification=None)
    paths = finished_study.write_study(study)
    frame = tables.tabulate("schedules", study, paths)
    finished_study.write_table("schedules", frame, paths)
    frame = tables.read_table("schedules", paths).query("dataset == 'toy_flowers'")
    same = row(frame, schedule="linear_scaled", steps=1000)
    assert same["identical"]
    assert (same["linear_value"], same["value"]) == (101, 202)
    assert same[["difference", "difference_low", "p_value", "p_holm"]].isna().all()
    tested = frame[~frame["identical"]]
    assert len(frame) == 4
    assert len(tested) == 3
    smallest = tested["p_value"].idxmin()
    assert tested["p_holm"][smallest] == pytest.approx(3 * tested["p_value"][smallest])


def test_fewer_steps_stand_beside_models_trained_with_as_many(paths):
    frame = tables.tabulate("fewer_steps", STUDY, paths)
    rows = frame.query(
        "dataset == 'toy_flowers' and schedule == 'linear' and sampling_steps == 100"
    ).set_index("way")
    assert rows["trained_steps"].to_dict() == {
        "trained with as many": 100, "ancestral": 900, "ddim": 900
    }  # fmt: skip
    assert pd.isna(rows.loc["trained with as many", "difference"])
    ddim = rows.loc["ddim"]
    assert ddim["difference"] == pytest.approx(111 + 1 / 9 - 110)
    assert ddim["difference_low"] < ddim["difference"] < ddim["difference_high"]


def test_the_pareto_front_is_what_nothing_beats(paths):
    frame = tables.tabulate("quality_vs_cost", STUDY, paths)
    for _, rows in frame.groupby("dataset"):
        for row in rows.itertuples():
            better = rows.query(
                "seconds_per_image <= @row.seconds_per_image and value <= @row.value "
                "and (seconds_per_image < @row.seconds_per_image "
                "or value < @row.value)"
            )
            assert row.pareto == better.empty
    # 1 below and above: 5 and more apart is told, so that the best stands alone.
    assert frame.query("candidate")["value"].tolist() == pytest.approx(
        [101 + 1 / 9] * 3
    )


def test_the_time_of_a_way_is_that_of_its_steps(paths):
    """What else the machine did in one run does not choose the front."""
    for schedule, slower in (("linear", 50.0), ("linear_scaled", 0.001)):
        path = paths.score(Run("toy_flowers", schedule, 100)) / "score.json"
        record = read_json(path)
        write_record(path, record | {"seconds_per_image": slower})
    frame = tables.tabulate("quality_vs_cost", STUDY, paths)
    seconds = frame.groupby("sampling_steps")["seconds_per_image"].unique()
    assert {steps: list(found) for steps, found in seconds.items()} == {
        100: [0.1], 900: [0.9]
    }  # fmt: skip


def test_the_interval_of_a_share_stays_between_zero_and_one(paths):
    path = paths.score(Run("toy_flowers", "linear", 100)) / "score.json"
    record = read_json(path)
    record |= {"precision": [0.9, 1.0, 1.0], "recall": [0.0, 0.0, 0.1]}
    write_record(path, record)
    found = row(
        tables.tabulate("fid_toy_flowers", STUDY, paths), schedule="linear", steps=100
    )
    for measure in ("precision", "recall"):
        expected = share_interval(record[measure], record["images"])
        ends = [found[f"{measure}_low"], found[f"{measure}_high"]]
        assert ends == pytest.approx([expected.low, expected.high])
        assert 0 <= ends[0] < found[measure] < ends[1] <= 1


def test_the_floor_and_the_copies_are_kept(paths):
    floors = tables.tabulate("floor", STUDY, paths)
    assert row(floors, dataset="toy_flowers")["value"] == 42.5
    unknown = row(floors, dataset="smithsonian_butterflies")
    assert (unknown["sets"], pd.isna(unknown["value"])) == (0, True)
    copies = tables.tabulate("copies", STUDY, paths)
    respaced = [r for name in STUDY.datasets for r in STUDY.respaced_runs_of(name)]
    assert len(copies) == 2 * (len(STUDY.runs) + len(respaced))
    assert copies["sampler"].nunique() == len({run.sampler for run in respaced})
    assert set(copies["space"]) == {"feature", "pixel"}
    assert copies["share"].tolist() == pytest.approx([1 / 24] * len(copies))
    known = copies.query("dataset == 'toy_flowers'")
    assert set(known["real_copies"]) == {0}
    exact = stats.fisher_exact([[1, 23], [0, 24]], alternative="greater")
    assert known["p_value"].tolist() == pytest.approx([exact.pvalue] * len(known))
    assert set(known["p_holm"]) == {1.0}
    unknown = copies.query("dataset == 'smithsonian_butterflies'")
    assert unknown[["real_share", "p_value", "p_holm"]].isna().all(axis=None)


def test_planning_imports_nothing_heavy():
    program = (
        "import sys, noisesteps.tables, noisesteps.figures\n"
        "print([m for m in ('pandas', 'matplotlib', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_tables_figures_and_the_report_wait_for_no_torch():
    program = (
        "import importlib, pkgutil, sys\n"
        "from noisesteps import figures, report, tables\n"
        "for room in (figures, report, tables):\n"
        "    for module in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_cut_of_copies_is_the_one_that_scores_are_made_with():
    assert scores.COPY_RATIO == copies.COPY_RATIO
    neighbours = inspect.signature(copies.nearest_relative).parameters["neighbours"]
    assert neighbours.default == scores.NEIGHBOURS
