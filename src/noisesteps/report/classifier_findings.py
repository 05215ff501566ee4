"""What the tables say about generated images as training images, in sentences."""

from __future__ import annotations

import math

from pandas import DataFrame, Series

from noisesteps.figures.effects import listed, outcome, points

UNSETTLED = 0.05  # of all test images


def about_classifiers(table: DataFrame) -> list[str]:
    """Say how accurate each set made the classifiers; `table` is `classification`."""
    sentences = []
    for architecture, rows in table.groupby("architecture", sort=False):
        shown = [f"{row['set']} {_accuracy(row)}" for _, row in rows.iterrows()]
        runs = rows["runs"].iloc[0]
        of = f"mean of {runs} repetitions, 95% interval" if runs > 1 else "1 repetition"
        sentences.append(f"{architecture}: {', '.join(shown)} ({of}).")
        sentences += _unsettled(architecture, rows)
    return sentences


def _unsettled(architecture: str, rows: DataFrame) -> list[str]:
    """Say where accuracy hangs on statistics that training was too short to settle."""
    gaps = (rows["accuracy_precise_bn_mean"] - rows["accuracy_mean"]).abs()
    moved = rows[gaps > UNSETTLED]
    if moved.empty:
        return []
    shown = [
        f"{row['set']} {100 * row['accuracy_precise_bn_mean']:.1f}% instead of "
        f"{100 * row['accuracy_mean']:.1f}%"
        for _, row in moved.iterrows()
    ]
    return [
        f"{architecture}: with the statistics of batch normalisation taken anew over "
        f"the training set, and no weight changed, {listed(shown)}. So much of the "
        "differences is training too short for the running averages to settle, "
        "whatever the images are."
    ]


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
            sentences.append(f"{architecture}: {answer(mix)} Mix is {told}.")
        for name, compared in others.groupby("set", sort=False):
            sentences.append(f"{architecture}: {name} is {_told(compared)}.")
    return [*sentences, _covered(effects)]


def answer(mix: DataFrame) -> str:
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
        f"test{'' if tests == 1 else 's'}; they assume independent pairs whose "
        f"differences are near normal.{alike} The intervals cover the seeds of "
        "training (first weights, order of the images, dropout), not the choice of "
        "images: all repetitions learn from the same ones and are tested on the same."
    )


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−")
