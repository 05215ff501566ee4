"""What the tables say, in sentences: every number is computed here, none is typed."""

from __future__ import annotations

import math

from pandas import DataFrame, Series

from noisesteps.config import Study
from noisesteps.figures.effects import listed, outcome, points
from noisesteps.figures.style import time_unit
from noisesteps.tables import dissertation
from noisesteps.tables.published import IMAGE_SIZE, IMAGES

PLATEAU = 0.1  # scores within this share of the best count as level with it


def about_scores(table: DataFrame) -> list[str]:
    """Say what T does to the score of one data set; `table` is `fid_{dataset}`."""
    sentences = [
        _best(schedule, rows.sort_values("steps"))
        for schedule, rows in table.groupby("schedule", sort=False)
    ]
    return sentences + _matched(table) + _floor(table)


def _best(schedule: str, rows: DataFrame) -> str:
    best = rows.loc[rows["value"].idxmin()]
    sentence = (
        f"{schedule}: the best {best['metric']} is {best['value']:.1f}, at "
        f"T = {best['steps']:,}."
    )
    level = plateau(rows)
    if level is not None and level < rows["steps"].max():
        sentence += f" From T = {level:,} on, it stays within {PLATEAU:.0%} of that."
    return sentence


def plateau(rows: DataFrame) -> int | None:
    """Return the T from which every score is within `PLATEAU` of the best.

    `rows` are of one schedule, in ascending order of T; None if the last T is not.
    """
    limit = rows["value"].min() * (1 + PLATEAU)
    start = None
    for steps, value in zip(rows["steps"][::-1], rows["value"][::-1], strict=True):
        if value > limit:
            break
        start = int(steps)
    return start


def _matched(table: DataFrame) -> list[str]:
    """Compare linear with the schedules that do reach noise, at the smallest T."""
    rows = table[table["steps"] == table["steps"].min()].set_index("schedule")
    if "linear" not in rows.index:
        return []
    linear = rows.loc["linear"]
    return [
        f"At T = {linear['steps']:,}, linear leaves {_signal(linear)} of the image's "
        f"amplitude in x_T and scores {linear['value']:.1f}; {schedule} leaves "
        f"{_signal(row)} and scores {row['value']:.1f} "
        f"({_signed(100 * (row['value'] / linear['value'] - 1))}%)."
        for schedule, row in rows.drop(index="linear").iterrows()
    ]


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−")


def _signal(row: Series) -> str:
    value = row["terminal_signal"]
    return f"{value:.1%}" if value >= 0.0005 else "less than 0.1%"


def _floor(table: DataFrame) -> list[str]:
    floor, metric = table["real_floor"].iloc[0], table["metric"].iloc[0]
    if math.isnan(floor):
        return ["No floor is known: too few real images are held out."]
    return [
        f"As many real held-out images have {metric} {floor:.1f} against the training "
        "images: what images from the same source that nobody trained on score."
    ]


def about_time(table: DataFrame, study: Study) -> list[str]:
    """Say what T costs at generation; `table` is `generation_time`."""
    mean = table.groupby("steps")["seconds_per_image"].mean()
    first, last = mean.index[0], mean.index[-1]
    sentences = [
        f"Generating an image takes {_seconds(mean[last])} at T = {last:,}"
        + (f" and {_seconds(mean[first])} at T = {first:,}" if first < last else "")
        + "."
    ]
    if first < last:
        sentences.append(
            f"T grows {last / first:.3g}-fold, the time "
            f"{mean[last] / mean[first]:.3g}-fold."
        )
    same_steps = (table["sampling_steps"] == table["steps"]).all()
    if study.preprocess.image_size == IMAGE_SIZE and same_steps:
        sentences += _against_dissertation(mean)
    return sentences


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def _against_dissertation(mean: Series) -> list[str]:
    published = dissertation("generation_time").set_index("steps")["seconds"] / IMAGES
    shared = [steps for steps in mean.index if steps in published.index]
    if not shared:
        return []
    ratio = published[shared[-1]] / mean[shared[-1]]
    return [
        f"At T = {shared[-1]:,} the dissertation reports "
        f"{_seconds(published[shared[-1]])} for an image of the same size on a Tesla "
        f"P40: {ratio:.2g} times this study's time."
    ]


def about_training(table: DataFrame) -> list[str]:
    """Say what training costs; `table` is `training_time`."""
    unit, name = time_unit(table["total_seconds"].sum())
    total = table["total_seconds"].sum() / unit
    devices = "; ".join(dict.fromkeys(table["device"]))
    published = 20 * dissertation("training_time")["hours"].sum()
    return [
        f"Training the {table['models'].sum():,} models took {total:,.1f} {name} on "
        f"{devices}; the dissertation reports {published:,} hours for its 60."
    ]


def about_classifiers(table: DataFrame) -> list[str]:
    """Say how accurate each set made the classifiers; `table` is `classification`."""
    sentences = []
    for architecture, rows in table.groupby("architecture", sort=False):
        shown = [f"{row['set']} {_accuracy(row)}" for _, row in rows.iterrows()]
        runs = rows["runs"].iloc[0]
        of = f"mean of {runs} repetitions, 95% interval" if runs > 1 else "1 repetition"
        sentences.append(f"{architecture}: {', '.join(shown)} ({of}).")
    return sentences


def _accuracy(row: Series) -> str:
    ends = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
    interval = "" if math.isnan(ends[0]) else f" [{ends[0]:.1f}, {ends[1]:.1f}]"
    return f"{100 * row['accuracy_mean']:.1f}%{interval}"


# What the controls are controls for, and what the sets that others are compared with
# are called in a sentence.
CONTROLS = {
    "origin_repeated": "longer training",
    "origin_augmented": "ordinary augmentation",
}
BASELINES = {
    "origin": "origin",
    "origin_repeated": "origin trained for as many updates",
    "origin_augmented": "origin with ordinary augmentation",
}


def about_effects(effects: DataFrame) -> list[str]:
    """Say whether mix beats origin and its controls.

    `effects` is `classification_effects`.
    """
    sentences = []
    for architecture, rows in effects.groupby("architecture", sort=False):
        of_mix = rows["set"] == "mix"
        mix, others = rows[of_mix], rows[~of_mix]
        if len(mix):
            told = _told(mix)
            sentences.append(f"{architecture}: {_answer(mix)} Mix is {told}.")
        for name, compared in others.groupby("set", sort=False):
            sentences.append(f"{architecture}: {name} is {_told(compared)}.")
    return [*sentences, _covered(effects)]


def _answer(mix: DataFrame) -> str:
    """Answer, for one architecture, whether generated images help."""
    results = {row["baseline"]: outcome(row) for _, row in mix.iterrows()}
    origin = results.pop("origin", "above")
    if origin == "below":
        return "generated images lower the accuracy."
    if origin == "unknown":
        return "generated images are not shown to help."
    if not results:
        return "more images help; no control says whether it takes generated ones."
    level = [CONTROLS[name] for name in results if results[name] != "above"]
    if level:
        return f"generated images are not shown to beat {listed(level, 'or')}."
    return (
        f"generated images help, and beat {listed([CONTROLS[one] for one in results])}."
    )


def _told(rows: DataFrame) -> str:
    return listed([_effect(row) for _, row in rows.iterrows()])


def _effect(row: Series) -> str:
    """Tell one comparison: the difference, its interval and how sure it is."""
    value = f"{_distance(100 * row['difference'])} {BASELINES[row['baseline']]}"
    notes = []
    if not math.isnan(row["p_holm"]):
        value += f" {points(row).split(' ', 1)[1]}"
        known = "not " if outcome(row) == "unknown" else ""
        notes.append(f"{known}distinguishable from zero, {_p_value(row['p_holm'])}")
    published = 100 * row["dissertation_difference"]
    if not math.isnan(published):
        notes.append(f"the dissertation reports {_signed(published)}")
    return value + (f" ({'; '.join(notes)})" if notes else "")


def _distance(value: float) -> str:
    if abs(value) < 0.05:
        return "level with"
    return f"{abs(value):.1f} points {'above' if value > 0 else 'below'}"


def _p_value(value: float) -> str:
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.2f}" if value >= 0.1 else f"p = {value:.2g}"


def _covered(effects: DataFrame) -> str:
    """Say what the intervals are, what they cover, and what they do not."""
    count, tests = effects["repetitions"].iloc[0], effects["p_value"].count()
    if count == 1:
        return (
            "One repetition was trained for each set, so nothing says whether these "
            "differences are chance; raise classification.seeds."
        )
    alike = (
        " A difference that is the same in every repetition has no interval."
        if tests < len(effects)
        else ""
    )
    return (
        f"Mean differences of {count} paired repetitions, 95% intervals, paired "
        f"t-tests, p after Holm's correction for {tests} "
        f"test{'' if tests == 1 else 's'}.{alike} The intervals cover the seeds of "
        "training (first weights, order of the images, dropout), not the choice of "
        "images: all repetitions learn from the same ones and are tested on the same."
    )
