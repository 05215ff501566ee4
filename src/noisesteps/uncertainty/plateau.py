"""Which numbers of steps score as well as the best, as far as the repeats can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from noisesteps.uncertainty.intervals import check_confidence, finite, has_spread

TEST = "one-sided Welch t-tests against the best, Bonferroni"
ASSUMPTIONS = "independent repeats, near normal, whose spreads may differ"


@dataclass(frozen=True)
class Plateau:
    """The T that cannot be told from the best.

    Attributes
    ----------
    best
        The T with the lowest mean score (the smallest such T).
    smallest
        The smallest candidate: as good as the best, as far as the data tell.
    candidates
        Every T whose score is not significantly worse than the best's, ascending: a
        confidence set for the truly best T.
    decided
        Whether any T could be ruled out.
    test
        Name of the test and its confidence.
    assumptions
        What the test takes for granted.
    reason
        Why the data decide, or do not, in one clause.
    """

    best: int
    smallest: int
    candidates: tuple[int, ...]
    decided: bool
    test: str
    assumptions: str
    reason: str


def find_plateau(
    scores: Mapping[int, Sequence[float]], confidence: float = 0.95
) -> Plateau:
    """Find the T whose scores cannot be told from the best; lower scores are better.

    Each T is tested against the T with the lowest mean by a one-sided Welch t-test at
    (1 - confidence) / (K - 1) for K values of T: multiple comparisons with the best
    (Hsu 1981) with Bonferroni's bound. The truly best T is ruled out only if one of
    its K - 1 comparisons errs, so it is among the candidates with a probability of at
    least `confidence`, although "the best" was chosen from the same scores.

    Simulated with 2 to 8 repeats of 2 to 20 equally good T, and standard deviations
    that differ up to fivefold, that probability was 94.5 % or more (nominal: 95 %),
    while fewer T were wrongly kept than by Games and Howell's test of all pairs.

    A candidate is not shown to be *equal* to the best: with few or noisy repeats
    everything is a candidate. With K = 5, a T that is worse by four standard
    deviations of a repeat is ruled out with probability 0.15, 0.71 and 0.97 for 2, 3
    and 4 repeats.

    Assumes independent repeats, near normal, of every T; spreads and counts may differ.

    Parameters
    ----------
    scores
        For each T one score a repeat: of sampling seeds, then the answer is about
        these trained models; or the means of training seeds, then about training too.
    confidence
        Between 0 and 1.

    Returns
    -------
    Plateau
        Undecided, with every T a candidate, if one T alone was studied, if a T has
        fewer than two repeats or repeats without spread, or if no T is ruled out.

    Raises
    ------
    ValueError
        If there is no T, a T has no score or one that is not finite, or `confidence`
        is no probability.
    """
    check_confidence(confidence)
    values = {steps: finite(scores[steps]) for steps in sorted(scores)}
    if not values:
        raise ValueError("a plateau needs the scores of one T or more.")
    best = min(values, key=lambda steps: values[steps].mean())
    reason = _untestable(values)
    candidates = tuple(values)
    if reason is None:
        level = (1 - confidence) / (len(values) - 1)
        p_values = _p_values(values, best)
        candidates = tuple(
            steps for steps in values if steps == best or p_values[steps] > level
        )
        reason = _outcome(values, candidates)
    return Plateau(
        best=best,
        smallest=candidates[0],
        candidates=candidates,
        decided=len(candidates) < len(values),
        test=f"{TEST}, {confidence * 100:g}%",
        assumptions=ASSUMPTIONS,
        reason=reason,
    )


def _p_values(values: Mapping[int, np.ndarray], best: int) -> dict[int, float]:
    """Return, for each T, the p-value of its being no worse than T = `best`."""
    means, deviations, counts = np.array(
        [(found.mean(), found.std(ddof=1), len(found)) for found in values.values()]
    ).T
    place = list(values).index(best)
    test = scipy.stats.ttest_ind_from_stats(
        means,
        deviations,
        counts,
        means[place],
        deviations[place],
        counts[place],
        equal_var=False,
        alternative="greater",
    )
    return dict(zip(values, test.pvalue, strict=True))


def _untestable(values: Mapping[int, np.ndarray]) -> str | None:
    """Say why no test can be made, or None."""
    if len(values) == 1:
        return "one T alone was studied"
    few = [steps for steps, found in values.items() if len(found) < 2]
    if few:
        return f"fewer than 2 repeats of {_names(few)}"
    same = [steps for steps, found in values.items() if not has_spread(found)]
    if same:
        return f"the repeats of {_names(same)} are all the same"
    return None


def _outcome(values: Mapping[int, np.ndarray], candidates: Sequence[int]) -> str:
    ruled_out = [steps for steps in values if steps not in candidates]
    if not ruled_out:
        return "no T scores significantly worse than the best"
    verb = "scores" if len(ruled_out) == 1 else "score"
    return f"{_names(ruled_out)} {verb} significantly worse than the best"


def _names(steps: Sequence[int]) -> str:
    numbers = [f"{number:,}" for number in steps]
    if len(numbers) == 1:
        return f"T = {numbers[0]}"
    return f"T = {', '.join(numbers[:-1])} and {numbers[-1]}"
