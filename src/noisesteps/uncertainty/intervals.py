"""Student's intervals of means and of differences, over independent repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its `stats` are imported when first used: that takes half a second
from scipy.special import betaincinv, stdtrit

FEW = 20  # of either outcome: the spread of so few may be none by chance


@dataclass(frozen=True)
class Interval:
    """A mean and how far off it may be.

    Attributes
    ----------
    value
        The estimate.
    low, high
        Ends of the confidence interval; None where the repeats give none.
    repeats
        How many repeats the estimate is made of.
    """

    value: float
    low: float | None
    high: float | None
    repeats: int


@dataclass(frozen=True)
class Difference:
    """How far one mean lies above another.

    Attributes
    ----------
    value
        Mean of the first minus mean of the second.
    low, high
        Ends of the confidence interval; None where the repeats give none.
    p_value
        Two-sided, of no difference; None with the interval. It is below 1 - confidence
        exactly where the interval leaves zero out.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of repeats with Student's t-interval.

    It covers the mean over *new repeats of the same kind*. Over sampling seeds of one
    trained model that is this model's expected score at its number of images: neither
    the luck of training nor the bias of a score of few images is in it.

    Assumes independent repeats whose distribution is near normal. A Fréchet score of
    many features is: over scores of simulated features the 95 % interval covered their
    exact expectation 93 to 95 times of 100, and 92 only for a single feature of 32 or
    fewer images. Shares close to 0 or 1 are not: see `share_interval`.

    Parameters
    ----------
    values
        One number a repeat. With several sampling seeds to each training seed, pass
        the mean of each training seed: its samplings are not independent repeats.
    confidence
        Probability that the interval covers the mean, between 0 and 1.

    Returns
    -------
    Interval
        `low` and `high` are None for a single value, and for values that are all the
        same: repeats without spread say nothing of the spread of others.

    Raises
    ------
    ValueError
        If there is no value, a value is not finite, or `confidence` is no probability.
    """
    values = finite(values)
    check_confidence(confidence)
    mean = float(values.mean())
    if not has_spread(values):
        return Interval(mean, None, None, len(values))
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2) * error)
    return Interval(mean, mean - half, mean + half, len(values))


def share_interval(
    shares: Sequence[float], cases: int, confidence: float = 0.95
) -> Interval:
    """Return the mean of repeated shares with an interval that holds near 0 and 1.

    It is the interval of Korn and Graubard (1998), which surveys use: Clopper and
    Pearson's, of as many cases as the spread between the repeats says that they are
    worth; of no more than there are where fewer than 20 have either outcome, or the
    repeats are all equal. Unlike Student's it reaches farther on the side that is away
    from 0 and 1.

    Simulated with 2 to 8 repeats of 32 to 512 cases, shares from 0.002 to 0.995, and
    repeats that are alike or have each a share of its own, from a beta distribution
    with one mode whose standard deviation is up to the mean of the rarer outcome. With
    30 cases or more of either outcome to be expected of all repeats together it covered
    in 93 to 97 of 100, in 94 to 99.8 with 2 repeats. With fewer cases, which are whole,
    it covers too often rather than too rarely: in 92 to 100 with standard deviations of
    up to 0.7 of the mean, and in 87 to 100 with larger ones. Where most repeats have a
    share near 0 and a rare one has a large share, few repeats miss that one, and the
    interval with them.

    Parameters
    ----------
    shares
        One a repeat, in [0, 1].
    cases
        Images that each share is of.
    confidence
        Probability that the interval covers the share, between 0 and 1.

    Returns
    -------
    Interval
        `low` and `high` are None for a single share, as for every other score.

    Raises
    ------
    ValueError
        If there is no share, one is outside [0, 1], `cases` is below 1, or
        `confidence` is no probability.
    """
    values = finite(shares)
    check_confidence(confidence)
    if cases < 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"shares of {cases} cases lie in [0, 1], not {shares!r}.")
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None, 1)
    total = cases * len(values)
    worth = float(total)
    if has_spread(values):
        # Whole counts cannot agree better than that; mere rounding can.
        told = min(_effective_cases(values, total, confidence), float(total**2))
        few = round(min(mean, 1 - mean) * total, 6) < FEW
        worth = min(told, worth) if few else told
    return Interval(mean, *exact_interval(mean * worth, worth, confidence), len(values))


def _effective_cases(shares: np.ndarray, total: int, confidence: float) -> float:
    """Return how many independent cases give a mean of shares this spread.

    Fewer by the squared ratio of Student's quantiles, since few repeats know their
    spread badly (Korn and Graubard, Survey Methodology 24, 193 to 201).
    """
    mean, variance = shares.mean(), shares.var(ddof=1) / len(shares)
    tail = (1 + confidence) / 2
    known = stdtrit(total - 1, tail) / stdtrit(len(shares) - 1, tail)
    return float(mean * (1 - mean) / variance * known**2)


def exact_interval(
    happened: float, cases: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) interval of a probability.

    It covers at least as often as it says, for any number of independent cases.

    Parameters
    ----------
    happened, cases
        How often it happened, from 0 to `cases`, and of how many cases; a part of a
        case where cases that hang together are worth fewer.
    confidence
        Probability that the interval covers, between 0 and 1.
    """
    tail = (1 - confidence) / 2
    low = betaincinv(happened, cases - happened + 1, tail) if happened else 0.0
    high = 1.0
    if happened < cases:
        high = betaincinv(happened + 1, cases - happened, 1 - tail)
    return float(low), float(high)


def difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Compare the means of two independent sets of repeats by Welch's t-test.

    Assumes independent repeats, near normal, and that no repeat of one set belongs to
    one of the other (else see `paired_difference`). Spreads and counts may differ.

    Parameters
    ----------
    first, second
        One number a repeat.
    confidence
        Probability that the interval covers the difference, between 0 and 1.

    Returns
    -------
    Difference
        Without interval and p-value where a set has fewer than two values, or values
        that are all the same.

    Raises
    ------
    ValueError
        If a set is empty, a value is not finite, or `confidence` is no probability.
    """
    first, second = finite(first), finite(second)
    check_confidence(confidence)
    value = float(first.mean() - second.mean())
    if not (has_spread(first) and has_spread(second)):
        return Difference(value, None, None, None)
    test = scipy.stats.ttest_ind(first, second, equal_var=False)
    ends = test.confidence_interval(confidence)
    return Difference(value, float(ends.low), float(ends.high), float(test.pvalue))


def paired_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Compare two sets of repeats that belong together in pairs by the paired t-test.

    What a pair shares (the seed, the split) drops out, so that a small difference
    shows in few repeats. Assumes independent pairs whose *differences* are near
    normal; what the values themselves do does not matter.

    Parameters
    ----------
    first, second
        One number a repeat, in the same order.
    confidence
        Probability that the interval covers the mean difference, between 0 and 1.

    Returns
    -------
    Difference
        Without interval and p-value for fewer than two pairs, or where all pairs
        differ by the same.

    Raises
    ------
    ValueError
        If the sets are empty or of different lengths, a value is not finite, or
        `confidence` is no probability.
    """
    first, second = finite(first), finite(second)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values make no pairs.")
    check_confidence(confidence)
    value = float((first - second).mean())
    if not has_spread(first - second, scale=np.abs([first, second]).max()):
        return Difference(value, None, None, None)
    test = scipy.stats.ttest_rel(first, second)
    ends = test.confidence_interval(confidence)
    return Difference(value, float(ends.low), float(ends.high), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of a family of tests by Holm's step-down method.

    Rejecting where the adjusted value is at most α keeps the probability of one false
    rejection or more at α or below, however the tests depend on each other (Holm 1979).

    Parameters
    ----------
    p_values
        In any order; a None (a test that could not be made) stays None and is not
        counted as a test.

    Returns
    -------
    list
        Adjusted values, in the order given.

    Raises
    ------
    ValueError
        If a value is not in [0, 1].
    """
    made = [place for place, p_value in enumerate(p_values) if p_value is not None]
    values = np.array([p_values[place] for place in made], np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1: {values.tolist()}.")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted: list[float | None] = [None] * len(p_values)
    for place, value in zip(order, np.maximum.accumulate(scaled), strict=True):
        adjusted[made[place]] = min(float(value), 1.0)
    return adjusted


def more_often(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Test whether something happens more often in one sample than in another.

    Parameters
    ----------
    first, second
        How often it happened, and of how many independent cases.

    Returns
    -------
    float
        One-sided p-value of Fisher's exact test that the first is no likelier; valid
        for any counts, also of nothing.

    Raises
    ------
    ValueError
        If something happened more often than there were cases, or less than never.
    """
    for happened, cases in (first, second):
        if not 0 <= happened <= cases:
            raise ValueError(f"{happened} of {cases} cases is impossible.")
    table = [[happened, cases - happened] for happened, cases in (first, second)]
    return float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)


def fewest_more_often(cases: int, second: tuple[int, int], level: float) -> int | None:
    """Return from how many times on `more_often` tells a sample from another.

    Parameters
    ----------
    cases
        Of the first sample.
    second
        How often it happened in the second, and of how many cases.
    level
        What the p-value has to be below; for the first of m tests after Holm, a part
        of it: level / m.

    Returns
    -------
    int or None
        None where not even `cases` times would be told.
    """
    told = (more_often((count, cases), second) < level for count in range(cases + 1))
    return next((count for count, more in enumerate(told) if more), None)


def finite(values: Sequence[float]) -> np.ndarray:
    """Return values as float64 (n,), n > 0, or refuse them with a ValueError."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"one finite number a repeat is needed, not {values!r}.")
    return array


def has_spread(values: np.ndarray, scale: float | None = None) -> bool:
    """Tell whether values differ by more than rounding numbers of size `scale` can."""
    scale = np.abs(values).max() if scale is None else scale
    return bool(np.ptp(values) > 32 * np.finfo(np.float64).eps * scale)


def check_confidence(confidence: float) -> None:
    """Refuse what is no probability with a ValueError."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}.")
