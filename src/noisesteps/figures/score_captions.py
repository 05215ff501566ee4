"""The words under the figures of scores, and of the schedules they depend on."""

from __future__ import annotations

from collections.abc import Iterator

from pandas import DataFrame, Series

from noisesteps.config import Study
from noisesteps.figures.fewer_steps import lines_of
from noisesteps.figures.measures import MEASURES, measure_name
from noisesteps.figures.quality_vs_cost import cells, numbered
from noisesteps.figures.schedule import noise_from
from noisesteps.figures.scores import candidates, comparable, mismatched
from noisesteps.figures.words import (
    Caption,
    conditions,
    course,
    intervals,
    listed,
    method_name,
    with_interval,
)
from noisesteps.paths import StudyPaths
from noisesteps.tables import dissertation, read_table


def schedule(study: Study, paths: StudyPaths, _: str | None) -> Caption:
    """Describe the figure `schedule`."""
    table = read_table("models", paths)
    several = len(study.datasets) > 1
    band = f" (shading: range over {len(study.datasets)} data sets)" if several else ""
    names = {"terminal_signal": "signal", "terminal_snr": "SNR"}
    names["prior_divergence"] = "divergence"
    shown = [
        f"{name}: " + "; ".join(_quantities(rows, names))
        for name, rows in table.groupby("schedule", sort=False)
    ]
    return Caption(
        "What T steps leave of an image, by schedule",
        "Sampling starts from pure noise, so what is left of the image in x_T is a "
        "mismatch between training and sampling. Lines: arithmetic, for any T; "
        f"markers: the models of this study. KL: mean over the training images{band}.",
        "Line charts over T of the terminal signal, the terminal signal-to-noise ratio "
        f"and the divergence of x_T from noise. {'. '.join(shown)}. With linear, x_T "
        f"counts as noise from T = {noise_from().steps} on.",
    )


def _quantities(rows: DataFrame, names: dict[str, str]) -> Iterator[str]:
    means = rows.groupby("steps")[list(names)].mean()
    for steps in dict.fromkeys([means.index[0], means.index[-1]]):
        row = means.loc[steps]
        values = [f"{name} {row[column]:.2g}" for column, name in names.items()]
        yield f"at T = {steps} {listed(values)}"


def scores(study: Study, paths: StudyPaths, dataset: str) -> Caption:
    """Describe the figure `fid_{dataset}`."""
    table = read_table(f"fid_{dataset}", paths)
    metric = table["metric"].iloc[0]
    known = dataset in set(dissertation("fid")["dataset"])
    beside = (
        " The dissertation's FID (Inception-v3, N = 128) is another score, so it has "
        "a panel of its own."
        if known and not comparable(table, study.preprocess.image_size)
        else ""
    )
    alike = candidates(table)
    sentences = [
        *_courses(table, alike),
        *_not_noise(table),
        *_floor(table),
    ]
    return Caption(
        f"{dataset}: {metric} over the number of noise steps",
        f"{conditions(table, against=True)} {intervals(table)}{beside}",
        f"Line chart of {metric} over T for {dataset}. {' '.join(sentences)}",
    )


def _courses(table: DataFrame, alike: dict[str, list[int]]) -> Iterator[str]:
    for name, rows in table.groupby("schedule", sort=False):
        sentence = f"{name}: {course(rows, 'value', '.1f')}"
        if name in alike:
            told = [steps for steps in rows["steps"] if steps not in alike[name]]
            sentence += (
                f"; worse than the best: T = {listed(sorted(told))}"
                if told
                else "; no T can be told from the best"
            )
        yield f"{sentence}."


def _not_noise(table: DataFrame) -> Iterator[str]:
    for name, rows in mismatched(table).groupby("schedule", sort=False):
        yield f"With {name}, x_T is not noise at T = {listed(sorted(rows['steps']))}."


def _floor(table: DataFrame) -> Iterator[str]:
    row = table.iloc[0]
    if row["real_floor"] == row["real_floor"]:
        value = with_interval(
            row["real_floor"], row["real_floor_low"], row["real_floor_high"]
        )
        yield f"Real held-out images score {value}."


def measures(study: Study, paths: StudyPaths, dataset: str) -> Caption:
    """Describe the figure `scores_{dataset}`."""
    table = read_table(f"fid_{dataset}", paths)
    floor = read_table("floor", paths).set_index("dataset").loc[dataset]
    metric = table["metric"].iloc[0]
    dotted = (
        f" Dotted: as many real held-out images ({floor['sets']} sets)."
        if floor["sets"]
        else " Too few images are held out to score real ones the same way."
    )
    bands = f"{intervals(table)}{_of_shares(table)}"
    shown = [
        f"{measure_name(measure, metric)}, {name}: {_measure(rows, measure)}."
        for measure in MEASURES
        for name, rows in table.groupby("schedule", sort=False)
    ]
    return Caption(
        f"{dataset}: four more scores over the number of noise steps",
        f"{conditions(table, against=True)} {bands}{dotted}",
        f"Line charts over T for {dataset}. {' '.join(shown)}",
    )


def _of_shares(table: DataFrame) -> str:
    """Name the interval of precision and recall, where there is one."""
    if table["precision_low"].isna().all():
        return ""
    return " Those of precision and recall are Korn and Graubard's, of shares."


def _measure(rows: DataFrame, measure: str) -> str:
    share = measure in ("precision", "recall")
    form = {"kid": ".3g", "fid_infinity": ".1f"}.get(measure, ".2f")
    return course(rows, measure, form, best="highest" if share else "lowest")


def fewer_steps(study: Study, paths: StudyPaths, _: str | None) -> Caption:
    """Describe the figure `fewer_steps`."""
    table, fid = read_table("fewer_steps", paths), read_table("fid", paths)
    largest = max(study.diffusion.steps)
    shown = [
        sentence
        for (dataset, name), rows in table.groupby(["dataset", "schedule"], sort=False)
        for sentence in _few(dataset, name, lines_of(rows, study))
    ]
    return Caption(
        "Few steps: bad to train with, or only to sample with?",
        f"{conditions(fid)} {intervals(fid)} Where the model of T = {largest:,} does "
        "better in few steps than a model trained with as few, the number of "
        "steps alone does not explain it.",
        f"Line charts of {fid['metric'].iloc[0]} over the sampling steps. "
        + " ".join(shown),
    )


def _few(dataset: str, name: str, lines: dict[str, DataFrame]) -> Iterator[str]:
    """Compare the lines of a panel at the fewest steps that a respaced one has."""
    respaced = {key: rows for key, rows in lines.items() if key != "trained"}
    least = min(rows["sampling_steps"].min() for rows in respaced.values())
    values = []
    for key, rows in lines.items():
        at = rows[rows["sampling_steps"] == least]
        if not at.empty:
            row = at.iloc[0]
            score = with_interval(row["value"], row["low"], row["high"])
            how = "trained so" if key == "trained" else method_name(key)
            values.append(f"{how} {score}")
    yield f"{dataset}, {name}, at {least} steps: {listed(values)}."


def quality_vs_cost(study: Study, paths: StudyPaths, _: str | None) -> Caption:
    """Describe the figure `quality_vs_cost`."""
    table, fid = read_table("quality_vs_cost", paths), read_table("fid", paths)
    times = read_table("generation_time", paths)
    devices = "; ".join(dict.fromkeys(times["device"]))
    batches = listed(dict.fromkeys(times["batch_size"]))
    fronts = []
    for dataset, rows in table.groupby("dataset", sort=False):
        ways = [_way(row) for _, row in numbered(rows).iterrows()]
        fronts.append(f"{dataset}: {'; '.join(ways)}.")
    return Caption(
        "Score against the time that an image takes",
        f"{conditions(fid)} {intervals(fid, 'Strokes')} A time is "
        "the median over all models that take as many steps, whose network and work "
        f"are the same: batches of {batches} images on {devices}. Of equally fast ways "
        "the best stands at its time, the others on its right.",
        f"Scatter plots of {fid['metric'].iloc[0]} against seconds an image. Ways that "
        f"no other beats in both: {' '.join(fronts)}",
    )


def _way(row: Series) -> str:
    name, steps, sampling, score = cells(row)
    return (
        f"{name} T = {steps}, {sampling}: {score} in {row['seconds_per_image']:.3g} s"
    )
