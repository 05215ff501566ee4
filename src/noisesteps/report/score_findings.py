"""What the scores say about T, in sentences computed from the tables.

A difference counts as found where its p value, corrected after Holm, is below 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from pandas import DataFrame, Series

from noisesteps.figures.effects import listed
from noisesteps.figures.words import intervals, method_name, run_name
from noisesteps.tables.comparisons import TRAINED
from noisesteps.tables.scores import COPY_RATIO, NEIGHBOURS
from noisesteps.uncertainty import fewest_more_often
from noisesteps.uncertainty.plateau import ASSUMPTIONS, TEST

LEVEL = 0.05
SPACES = {"feature": "the extractor's features", "pixel": "pixels"}


def about_steps(plateau: DataFrame) -> Iterator[str]:
    """Say which T is best, and which cannot be told from it, for each schedule."""
    for row in plateau.itertuples():
        best = with_interval(row.best_value, row.best_value_low, row.best_value_high)
        yield (
            f"{row.schedule}: the best {row.metric} is {best}, at "
            f"T = {row.best_steps:,}; {_candidates(row)}."
        )


def about_kernel(scores: DataFrame) -> Iterator[str]:
    """Say where another measure sees the best T; `scores` is `fid` of one data set."""
    lowest = scores.loc[scores.groupby("schedule", sort=False)["kid"].idxmin()]
    places = [f"T = {row.steps:,} with {row.schedule}" for row in lowest.itertuples()]
    yield (
        "The kernel distance (KID), which few images do not bias, is lowest at "
        f"{listed(places)}."
    )


def on_plateau(scores: DataFrame, plateau: DataFrame) -> str:
    """Say what the intervals cover, and how T are told from the best."""
    return (
        f"{intervals(scores, 'In brackets')} Significantly worse than the best is told "
        f"by {plateau['test'].iloc[0]}, which assume {ASSUMPTIONS}."
    )


def _candidates(row: tuple) -> str:
    if not row.decided:
        return f"the data do not decide which T is enough: {row.reason}"
    if row.smallest_steps == row.best_steps:
        return f"no smaller T is left to choose ({row.reason})"
    return (
        f"T = {row.smallest_steps:,} is the smallest that cannot be told from it "
        f"({row.reason})"
    )


def about_schedules(table: DataFrame) -> Iterator[str]:
    """Say at each T whether another schedule beats linear; `table` is of one data set.

    At a small T linear leaves the image in x_T: what another schedule gains there was
    lost to the schedule and not to T.
    """
    for schedule, rows in table.groupby("schedule", sort=False):
        rows = rows.sort_values("steps")
        yield from (_against_linear(schedule, row) for row in rows.itertuples())


def _against_linear(schedule: str, row: tuple) -> str:
    if row.identical:
        return (
            f"At T = {row.steps:,}, {schedule} is the same schedule as linear: only "
            f"the seeds separate its {row.value:.1f} from linear's "
            f"{row.linear_value:.1f}."
        )
    interval = with_interval(
        row.difference, row.difference_low, row.difference_high, signed=True
    )
    return (
        f"At T = {row.steps:,}, linear leaves {_share(row.linear_terminal_signal)} of "
        f"the image's amplitude in x_T and scores {row.linear_value:.1f}; {schedule} "
        f"leaves {_share(row.terminal_signal)} and scores {row.value:.1f}: "
        f"{interval}, {_verdict(row)}."
    )


def on_tests(table: DataFrame) -> str:
    """Say what the p values of differences are, where there are any."""
    if table["p_holm"].isna().all():
        return ""
    return (
        "In brackets: 95% intervals of the differences. p is of Welch's t test, after "
        "Holm's correction for all differences of a data set; both assume "
        f"{ASSUMPTIONS}. The intervals are not corrected: one can leave out zero where "
        "p does not tell."
    )


def _verdict(row: tuple) -> str:
    if pd.isna(row.p_holm):
        return "which single scores cannot test"
    if row.p_holm >= LEVEL:
        return f"which may be chance (p {_p_value(row.p_holm)})"
    return f"{'better' if row.difference < 0 else 'worse'} (p {_p_value(row.p_holm)})"


def about_fewer_steps(table: DataFrame) -> Iterator[str]:
    """Say whether a small T is bad to train or only bad to sample."""
    trained = table[table["way"] == TRAINED].set_index(["schedule", "sampling_steps"])
    for row in table[table["way"] != TRAINED].itertuples():
        sentence = (
            f"{row.schedule}: the model of T = {row.trained_steps:,} sampled in "
            f"{row.sampling_steps:,} steps ({method_name(row.way)}) scores "
            f"{row.value:.1f}"
        )
        if (row.schedule, row.sampling_steps) in trained.index:
            other = trained.loc[(row.schedule, row.sampling_steps), "value"]
            interval = with_interval(
                row.difference, row.difference_low, row.difference_high, signed=True
            )
            sentence += (
                f", that of T = {row.sampling_steps:,} scores {other:.1f}: {interval}, "
                f"{_verdict(row)}"
            )
        yield sentence + "."


def about_use(table: DataFrame) -> Iterator[str]:
    """Say what to use; `table` is `quality_vs_cost` of one data set."""
    best, fastest = best_and_fastest(table)
    took = fastest["seconds_per_image"].iloc[0]
    yield (
        f"The best score is {with_interval(best['value'], best['low'], best['high'])}, "
        f"of {way_name(best)}: {seconds(best['seconds_per_image'])} an image."
    )
    if len(table) == 1:
        yield "No other was tried."
    elif pd.isna(best["low"]):
        yield "Which others do as well cannot be tested: there is one score of each."
    elif table["candidate"].all():
        yield "No way scores significantly worse: the data do not decide."
    elif best.name in fastest.index:
        faster = table["seconds_per_image"] < best["seconds_per_image"]
        yield (
            "Every faster way scores significantly worse."
            if faster.any()
            else "None is faster."
        )
        if len(others := fastest.drop(best.name)):
            yield f"As fast, and not to be told from it: {_scored(others)}."
            yield from _ruled_out(table, others)
    else:
        ratio = best["seconds_per_image"] / took
        times = f"{ratio:,.0f}" if ratio > 9.5 else f"{ratio:.1f}"
        verb = "is" if len(fastest) == 1 else "are"
        yield (
            f"The fastest that cannot be told from it {verb} {_scored(fastest)}. An "
            f"image takes {seconds(took)}, {times} times as fast."
        )
        yield from _ruled_out(table, fastest)


def _ruled_out(table: DataFrame, named: DataFrame) -> Iterator[str]:
    """Name the ways that a reader would take instead of the named ones, and why not."""
    ways = ruled_out_though_better(table, named)
    if ways.empty:
        return
    beaten = named[named["value"] > ways["value"].min()]
    steadier = _width(ways).max() < _width(beaten).min()
    of_which, them = ("Its", "it") if len(ways) == 1 else ("Their", "them")
    reason = (
        f"{of_which} repeats differ less, so the test tells {them} from the best."
        if steadier
        else "The test weighs how much repeats differ, not the mean alone."
    )
    yield (
        "Ruled out, although no slower and better on average than a way just named: "
        f"{_scored(ways)}. {reason}"
    )


def _width(ways: DataFrame) -> Series:
    return ways["high"] - ways["low"]


def _scored(ways: DataFrame) -> str:
    return "; ".join(
        f"{way_name(row)}: {with_interval(row['value'], row['low'], row['high'])}"
        for _, row in ways.iterrows()
    )


def best_and_fastest(table: DataFrame) -> tuple[Series, DataFrame]:
    """Return the way of the lowest score, and the fastest ones as good as it.

    Ways that evaluate the network as often are equally fast; the lower score is first.
    """
    alike = table[table["candidate"]].sort_values("value", kind="stable")
    fastest = alike["seconds_per_image"] == alike["seconds_per_image"].min()
    return table.loc[table["value"].idxmin()], alike[fastest]


def ruled_out_though_better(table: DataFrame, named: DataFrame) -> DataFrame:
    """Return the ways that are ruled out, though no slower than `named`, and better.

    Their mean is better than one of the named. The test weighs the spread of the
    repeats too: it can tell a small difference from the best and not a larger one.

    Parameters
    ----------
    table
        `quality_vs_cost` of one data set.
    named
        Some of its candidates.
    """
    ruled_out = table[~table["candidate"]]
    no_slower = ruled_out["seconds_per_image"] <= named["seconds_per_image"].min()
    return ruled_out[no_slower & (ruled_out["value"] < named["value"].max())]


def on_candidates() -> str:
    """Say how a way is told from the best, and what its time is."""
    return (
        f"What is worse than the best is told by {TEST}, 95%; they assume "
        f"{ASSUMPTIONS}. Ways to sample one model share the luck of its training, so "
        "they are less independent than that. Times are medians over all models "
        "sampled in as many steps."
    )


def way_name(row: Series) -> str:
    """Name a way to make images: `linear, T = 600, in 30 steps (DDIM)`."""
    respaced = f"{row['way']}-{row['sampling_steps']}"
    sampler = None if row["way"] == TRAINED else respaced
    return run_name(row["schedule"], row["trained_steps"], sampler)


def copier_name(row: Series, table: DataFrame) -> str:
    """Name the model of a row of `copies`, which of its trainings, and the sampling."""
    sampler = None if pd.isna(row["sampler"]) else row["sampler"]
    name = run_name(row["schedule"], row["steps"], sampler)
    if table["training_seed"].nunique() == 1:
        return name
    return f"{name}, training seed {row['training_seed']}"


def seconds(value: float) -> str:
    """Write a time with two significant digits: `0.048 s`."""
    return f"{value:.2g} s" if value < 9.95 else f"{value:,.0f} s"


def about_floor(floor: DataFrame, scores: DataFrame) -> Iterator[str]:
    """Say what real images score; both tables are of one data set."""
    row, best = floor.iloc[0], scores.loc[scores["value"].idxmin()]
    if not row["sets"]:
        yield "No floor is known: too few real images are held out."
        return
    value = with_interval(row["value"], row["low"], row["high"])
    yield (
        f"{row['images']:,} real held-out images score {value} against the training "
        f"images ({row['sets']} sets of them): the bias of so few images, and what no "
        f"model can be expected to beat. The best model ({best['schedule']}, "
        f"T = {best['steps']:,}) scores {best['value'] - row['value']:.1f} more; "
        f"extrapolated to infinitely many images, {best['fid_infinity']:.1f} against "
        f"{row['fid_infinity']:.1f}."
    )


def about_copies(table: DataFrame) -> Iterator[str]:
    """Say whether models repeat training images; `table` is of one data set."""
    for space, rows in table.groupby("space", sort=False):
        worst = rows.loc[rows["share"].idxmax()]
        copies, images = rows["copies"].sum(), rows["images"].sum()
        counted = f"{copies:,}" if copies else "none"
        yield (
            f"By {SPACES[space]}, {counted} of {images:,} generated images "
            f"{'is a near-copy' if copies < 2 else 'are near-copies'}. "
            f"{_beside_real(worst, table['p_holm'].count())}"
            + (f" {_largest(worst, table)}" if copies else "")
        )


def on_near_copies() -> str:
    """Say what counts as a near-copy, and how shares are compared."""
    return (
        f"A near-copy is less than {COPY_RATIO:g} times as far from one training image "
        f"as from the next {NEIGHBOURS}, on average. Shares are compared with that of "
        "real held-out images by Fisher's exact test, corrected after Holm."
    )


def _largest(worst: Series, table: DataFrame) -> str:
    """Tell the largest share of near-copies that a model has."""
    interval = with_interval(
        100 * worst["share"], 100 * worst["share_low"], 100 * worst["share_high"]
    )
    return (
        f"{copier_name(worst, table)} has the largest share: "
        f"{interval} % of its images, {_memorised(worst)}."
    )


def _beside_real(row: Series, tests: int) -> str:
    """Tell the near-copies among real images, and which share would be told apart."""
    if pd.isna(row["real_share"]):
        return "No real images are held out to compare with, so nothing is tested."
    real = int(row["real_copies"]), int(row["real_images"])
    images = int(row["images"])
    fewest = fewest_more_often(images, real, LEVEL / tests)
    told = (
        "no share of near-copies would be told from that"
        if fewest is None
        else f"told from that is a model with {fewest:,} or more of its {images:,} "
        f"({fewest / images:.0%})"
    )
    return f"Of real held-out images it is {real[0]:,} of {real[1]:,}; {told}."


def _memorised(row: Series) -> str:
    if pd.isna(row["p_holm"]):
        return "not tested"
    p_value = f"(p {_p_value(row['p_holm'])})"
    if row["p_holm"] < LEVEL:
        return f"more than among real images {p_value}: it memorises"
    return f"not shown to be more than among real images {p_value}"


def with_interval(
    value: float, low: float, high: float, *, signed: bool = False
) -> str:
    """Write a value with its interval: `110.1 [104.2, 116.0]`."""
    form = "{:+.1f}" if signed else "{:.1f}"
    numbers = [form.format(number).replace("-", "−") for number in (value, low, high)]
    return numbers[0] if pd.isna(low) else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _share(signal: float) -> str:
    return f"{signal:.1%}" if signal >= 0.0005 else "less than 0.1%"
