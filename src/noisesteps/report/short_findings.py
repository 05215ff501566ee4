"""The findings in short: one answer to each question, over all data sets, in lines.

Like the long ones they are computed from the tables; a difference counts where its p
value, corrected after Holm, is below 5 %.
"""

from __future__ import annotations

from pandas import DataFrame

from noisesteps.figures.effects import listed
from noisesteps.figures.words import method_name
from noisesteps.report.classifier_findings import answer
from noisesteps.report.score_findings import (
    LEVEL,
    SPACES,
    best_and_fastest,
    copier_name,
    ruled_out_though_better,
    seconds,
    way_name,
)
from noisesteps.tables.comparisons import TRAINED


def on_steps(plateau: DataFrame) -> list[str]:
    """Name the smallest T that does as well as the best, for each schedule."""
    told = [
        f"With {schedule}, {_smallest(rows)}."
        for schedule, rows in plateau.groupby("schedule", sort=False)
    ]
    return ["The smallest T that cannot be told from the best:", *told]


def _smallest(rows: DataFrame) -> str:
    decided = rows[rows["decided"]]
    parts = [
        f"T = {steps:,} ({listed(list(found['dataset']))})"
        for steps, found in decided.groupby("smallest_steps")
    ]
    undecided, untested = ~rows["decided"], rows["best_value_low"].isna()
    for words, which in (
        ("the data do not decide", undecided & ~untested),
        ("not tested", undecided & untested),
    ):
        if which.any():
            parts.append(f"{words} ({listed(list(rows['dataset'][which]))})")
    return ", ".join(parts)


def on_schedules(table: DataFrame) -> list[str]:
    """Say at which T another schedule scores unlike linear, and how often."""
    return [
        f"{schedule} {listed(_at_each_t(rows))}."
        for schedule, rows in table.groupby("schedule", sort=False)
    ]


def _at_each_t(rows: DataFrame) -> list[str]:
    found: dict[str, list[str]] = {}
    for steps, compared in rows.groupby("steps"):
        counts = _counts(compared)
        for word, count in counts.items():
            of = f"{steps:,} ({count} of {len(compared)} data sets)"
            found.setdefault(f"scores {word} than linear at T =", []).append(of)
        if not counts:
            words = _without_difference(compared)
            found.setdefault(f"{words} at T =", []).append(f"{steps:,}")
    return [f"{words} {listed(places)}" for words, places in found.items()]


def _without_difference(compared: DataFrame) -> str:
    if compared["identical"].all():
        return "is the same schedule"
    untested = compared["p_holm"].isna().all()
    return "is not tested" if untested else "shows no difference"


def on_fewer_steps(table: DataFrame) -> list[str]:
    """Say whether training with a large T beats training with a small one."""
    rows = table[(table["way"] != TRAINED) & table["difference"].notna()]
    if rows.empty:
        return ["No model was trained with as few steps, so nothing can be compared."]
    told = [
        f"{schedule}, {method_name(way)}: {_compared(found)}."
        for (schedule, way), found in rows.groupby(["schedule", "way"], sort=False)
    ]
    lead = (
        f"The model of T = {rows['trained_steps'].max():,} sampled in fewer steps, "
        "against models trained with as few:"
    )
    return [lead, *told]


def _compared(rows: DataFrame) -> str:
    found = [
        f"{word} in {count} of {len(rows)} comparisons"
        for word, count in _counts(rows).items()
    ]
    if found:
        return listed(found)
    return "not tested" if rows["p_holm"].isna().all() else "no difference shown"


def _counts(rows: DataFrame) -> dict[str, int]:
    """Count the comparisons of some rows that tell better or worse."""
    known = rows["p_holm"] < LEVEL
    counts = {
        "better": int((known & (rows["difference"] < 0)).sum()),
        "worse": int((known & (rows["difference"] > 0)).sum()),
    }
    return {word: count for word, count in counts.items() if count}


def on_use(table: DataFrame) -> list[str]:
    """Name the fastest way that does as well as the best, for each data set."""
    told = []
    for dataset, rows in table.groupby("dataset", sort=False):
        if rows["candidate"].all() and len(rows) > 1:
            tested = rows["low"].notna().any()
            words = "the data do not decide" if tested else "not tested"
            told.append(f"{dataset}: {words}.")
            continue
        _, fastest = best_and_fastest(rows)
        named = [
            f"{way_name(row)} ({row['value']:.1f})" for _, row in fastest.iterrows()
        ]
        took = seconds(fastest["seconds_per_image"].iloc[0])
        told.append(
            f"{dataset}: {' or '.join(named)}, {took} an image"
            f"{_ruled_out(ruled_out_though_better(rows, fastest))}."
        )
    return ["The fastest that cannot be told from the best:", *told]


def _ruled_out(ways: DataFrame) -> str:
    named = [f"{way_name(row)} ({row['value']:.1f})" for _, row in ways.iterrows()]
    return f"; ruled out despite a better mean: {listed(named)}" if named else ""


def on_copies(table: DataFrame) -> list[str]:
    """Say which models repeat training images more often than real images would."""
    found = table[table["p_holm"] < LEVEL]
    models = dict.fromkeys(
        f"{copier_name(row, table)} ({row['dataset']})" for _, row in found.iterrows()
    )
    copies = [
        f"{rows['copies'].sum():,} by {SPACES[space]}"
        for space, rows in table.groupby("space", sort=False)
    ]
    images = table["images"].sum() // len(copies)
    alone = list(dict.fromkeys(table.loc[table["p_holm"].isna(), "dataset"]))
    if models:
        told = f"More near-copies than among real images: {listed(list(models))}."
    else:
        told = "No model is shown to." if table["p_holm"].notna().any() else ""
    untested = f"Not tested, for want of real images: {listed(alone)}." if alone else ""
    counted = f"Near-copies among {images:,} generated images: {listed(copies)}."
    return [" ".join(filter(None, (told, untested, counted)))]


def on_classifiers(effects: DataFrame) -> list[str]:
    """Say for each architecture whether generated images help."""
    mix = effects[effects["set"] == "mix"]
    told = [
        f"{architecture}: {answer(rows)}"
        for architecture, rows in mix.groupby("architecture", sort=False)
    ]
    if not told:
        return ["The study does not train on real and generated images."]
    return [*told, "One choice of training and test images; others may differ."]
