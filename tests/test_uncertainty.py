"""Intervals and the plateau test, on data whose truth is known."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln

from noisesteps.evaluation import (
    Statistics,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from noisesteps.uncertainty import (
    Difference,
    Interval,
    Plateau,
    difference,
    exact_interval,
    fewest_more_often,
    find_plateau,
    holm,
    mean_interval,
    more_often,
    paired_difference,
    share_interval,
)

NOMINAL = 0.95
TOLERANCE = 0.03


def covered(found: Interval | Difference, truth: float) -> bool:
    return found.low <= truth <= found.high


def test_the_mean_interval_by_hand():
    """t(0.975, 4) = 2.776 from the printed tables; the deviation is √2.5."""
    found = mean_interval([1, 2, 3, 4, 5])
    assert (found.value, found.repeats) == (3.0, 5)
    assert found.high - 3 == pytest.approx(2.7764 * np.sqrt(2.5 / 5), rel=1e-4)
    assert found.low - 3 == pytest.approx(3 - found.high)


@pytest.mark.parametrize("repeats", [2, 4, 10])
def test_the_mean_interval_covers_as_it_says(repeats):
    random = np.random.default_rng(repeats)
    drawn = random.normal(7.0, 3.0, (1000, repeats))
    share = np.mean([covered(mean_interval(values), 7.0) for values in drawn])
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)


def test_another_confidence_covers_as_it_says():
    drawn = np.random.default_rng(0).normal(size=(1000, 4))
    share = np.mean([covered(mean_interval(values, 0.8), 0.0) for values in drawn])
    assert share == pytest.approx(0.8, abs=TOLERANCE)


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5], [0.1 + 0.2, 0.3]])
def test_repeats_without_spread_have_no_interval(values):
    found = mean_interval(values)
    assert (found.low, found.high) == (None, None)
    assert (found.value, found.repeats) == (pytest.approx(values[0]), len(values))


@pytest.mark.parametrize("repeats", [3, 5])
def test_the_interval_of_a_frechet_score_covers_in_one_dimension(repeats):
    """The expected score of N samples is exact: E[deviation] = c₄(N) σ."""
    count, mean, deviation, other = 128, 0.3, 1.5, 2.0
    c4 = np.sqrt(2 / (count - 1)) * gamma_ratio(count - 1)
    expected = mean**2 + deviation**2 / count
    expected += deviation**2 + other**2 - 2 * deviation * other * c4
    random = np.random.default_rng(repeats)
    features = random.normal(mean, deviation, (1000, repeats, count, 1))
    share = frechet_coverage(features, isotropic(1, other), expected)
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)


def test_the_interval_of_a_frechet_score_covers_for_two_samples():
    """The root of a covariance of rank one is the length of a Gaussian vector."""
    dimensions, mean, deviation = 64, 0.3, 1.5
    root = deviation * np.sqrt(2) * gamma_ratio(dimensions)
    expected = mean**2 + deviation**2 / 2 + deviation**2 + 1
    expected = dimensions * expected - 2 * root
    random = np.random.default_rng(1)
    features = random.normal(mean, deviation, (1000, 5, 2, dimensions))
    share = frechet_coverage(features, isotropic(dimensions, 1.0), expected)
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)


def gamma_ratio(degrees: int) -> float:
    """Return Γ((k + 1) / 2) / Γ(k / 2): E[χ_k] is √2 times it."""
    return np.exp(gammaln((degrees + 1) / 2) - gammaln(degrees / 2))


def isotropic(dimensions: int, deviation: float) -> Statistics:
    covariance = np.eye(dimensions) * deviation**2
    return Statistics(np.zeros(dimensions), covariance, 10**6, "none", "")


def test_the_interval_of_a_frechet_score_covers_in_many_dimensions():
    """Fewer samples than dimensions; the expectation is that of 3,000 other scores."""
    random = np.random.default_rng(1)
    deviations = np.linspace(2, 0.2, 24)
    reference = Statistics(np.zeros(24), np.diag(deviations**2), 10**6, "none", "")
    features = random.normal(0.2, deviations[::-1], (800, 4, 16, 24))
    others = random.normal(0.2, deviations[::-1], (3000, 16, 24))
    expected = np.mean([frechet_distance(values, reference) for values in others])
    share = frechet_coverage(features, reference, expected)
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)


def frechet_coverage(features, reference, expected) -> float:
    """Share of rows whose interval, over the scores of its blocks, has `expected`."""
    return np.mean(
        [
            covered(
                mean_interval([frechet_distance(block, reference) for block in row]),
                expected,
            )
            for row in features
        ]
    )


SHARES = (0.002, 0.005, 0.02, 0.08, 0.215, 0.235, 0.3, 0.92, 0.995)
EXPECTED = 30  # cases of either outcome in all repeats: whole numbers matter below


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("repeats", "cases"), [(2, 64), (4, 128), (8, 64), (5, 512)])
def test_the_interval_of_a_share_covers_near_nought_and_one(repeats, cases, share):
    """Cases are whole: an exact interval covers more than it says where few are."""
    random = np.random.default_rng(repeats)
    drawn = random.binomial(cases, share, (2000, repeats)) / cases
    coverage = share_coverage(drawn, cases, share)
    assert coverage >= NOMINAL - TOLERANCE
    if repeats > 2 and cases * repeats * min(share, 1 - share) >= EXPECTED:
        assert coverage <= NOMINAL + TOLERANCE


@pytest.mark.parametrize("spread", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("repeats, cases", [(2, 64), (3, 512), (4, 128), (8, 64)])
@pytest.mark.parametrize("share", [0.01, 0.06, 0.3, 0.92])
def test_the_interval_of_a_share_covers_the_luck_of_training(
    share, repeats, cases, spread
):
    """Each repeat has a share of its own, whose deviation is `spread` of the rarer."""
    random = np.random.default_rng(round(100 * spread))
    rarer = min(share, 1 - share)
    concentration = (1 - rarer) / (rarer * spread**2) - 1
    own = random.beta(
        share * concentration, (1 - share) * concentration, (2000, repeats)
    )
    coverage = share_coverage(random.binomial(cases, own) / cases, cases, share)
    if cases * repeats * rarer >= EXPECTED:
        assert coverage >= NOMINAL - TOLERANCE
        assert coverage <= NOMINAL + TOLERANCE or repeats == 2
    elif spread < 1:
        assert coverage >= NOMINAL - TOLERANCE
    else:
        assert coverage >= 0.87


def share_coverage(drawn: np.ndarray, cases: int, truth: float) -> float:
    return np.mean([covered(share_interval(row, cases), truth) for row in drawn])


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (1.6, 0.6), (2.4, 0.4)])
def test_the_intervals_of_precision_and_recall_cover(shift, spread):
    """Their expectation is that of 4,000 other sets; from near 0 to near 1."""
    random = np.random.default_rng(2)
    reference = random.normal(size=(64, 12)).astype(np.float32)

    def measured(rows: int) -> np.ndarray:
        drawn = random.normal(shift / 3, spread, (rows, 64, 12)).astype(np.float32)
        found = [precision_recall(samples, reference) for samples in drawn]
        return np.array([(one.precision, one.recall) for one in found])

    expected = measured(4000).mean(axis=0)
    repeated = measured(600 * 4).reshape(600, 4, 2)
    for place, truth in enumerate(expected):
        coverage = share_coverage(repeated[..., place], 64, truth)
        assert coverage >= NOMINAL - TOLERANCE, (truth, coverage)


def test_the_interval_of_a_share_is_near_students_away_from_the_ends():
    shares = [0.4, 0.5, 0.45, 0.6, 0.5, 0.55, 0.4, 0.6]
    found, students = share_interval(shares, 64), mean_interval(shares)
    assert found.value == students.value
    assert (found.low, found.high) == pytest.approx(
        (students.low, students.high), abs=0.01
    )


def test_the_interval_of_a_share_is_korn_and_graubards():
    """Two repeats of 1,000 cases, 20 % and 30 %: the formula, by scipy's own."""
    found = share_interval([0.2, 0.3], 1000)
    variance = np.var([0.2, 0.3], ddof=1) / 2
    quantiles = stats.t.ppf(0.975, [1999, 1])
    worth = 0.25 * 0.75 / variance * (quantiles[0] / quantiles[1]) ** 2
    happened = 0.25 * worth
    assert worth < 2
    assert (found.low, found.high) == pytest.approx(
        (
            stats.beta.ppf(0.025, happened, worth - happened + 1),
            stats.beta.ppf(0.975, happened + 1, worth - happened),
        )
    )


@pytest.mark.parametrize("happened", [0, 1, 7, 64])
def test_the_exact_interval_is_scipys(happened):
    test = stats.binomtest(happened, 64)
    assert exact_interval(happened, 64) == pytest.approx(test.proportion_ci(0.95))


def test_shares_that_are_all_none_or_agree_too_well_are_worth_their_cases():
    assert share_interval([0.0] * 4, 64).high == exact_interval(0, 256)[1]
    few = [1 / 64, 1 / 64, 1 / 64, 2 / 64]
    assert share_interval(few, 64).high == exact_interval(5, 256)[1]
    near = share_interval([0.5, 0.5 + 1e-8], 64)
    assert 0 <= near.low < 0.5 < near.high <= 1
    found = share_interval([0.25, 0.25], 64)
    assert (found.low, found.high) == exact_interval(32, 128)


def test_one_share_has_no_interval():
    assert share_interval([0.25], 64) == Interval(0.25, None, None, 1)


@pytest.mark.parametrize("shares", [[0.5, 1.2], [-0.1, 0.2]])
def test_what_is_no_share_is_refused(shares):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        share_interval(shares, 64)


@pytest.mark.parametrize("repeats", [3, 5])
def test_the_interval_of_a_kernel_score_covers(repeats):
    """For x ~ N(0, s² I) the cubic kernel's expectation is a polynomial."""
    dimensions, deviation, images = 16, 0.8, 40
    random = np.random.default_rng(repeats)
    reference = random.normal(0.1, 1.0, (60, dimensions))
    gram = (reference @ reference.T / dimensions + 1) ** 3
    within = (gram.sum() - np.trace(gram)) / (60 * 59)
    squares = np.square(reference).sum(axis=1)
    between = 1 + 3 * deviation**2 * squares.mean() / dimensions**2
    expected = 1 + 3 * deviation**4 / dimensions + within - 2 * between
    drawn = random.normal(0, deviation, (600, repeats, images, dimensions))
    found = [
        [
            kernel_distance(
                samples, reference, subset_size=images, subsets=8, generator=random
            ).mean
            for samples in row
        ]
        for row in drawn
    ]
    share = np.mean([covered(mean_interval(row), expected) for row in found])
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)


@pytest.mark.parametrize(("counts", "deviation"), [((5, 5), 1.0), ((4, 9), 4.0)])
def test_the_difference_covers_as_it_says(counts, deviation):
    random = np.random.default_rng(counts[1])
    first = random.normal(5.0, deviation, (1000, counts[0]))
    second = random.normal(3.5, 1.0, (1000, counts[1]))
    pairs = zip(first, second, strict=True)
    share = np.mean([covered(difference(*pair), 1.5) for pair in pairs])
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)


def test_the_difference_equals_welch_by_hand():
    """Welch's own formula for the standard error and the degrees of freedom."""
    first, second = [27.5, 21.0, 19.0, 23.6], [27.1, 22.0, 20.8, 23.4, 30.2]
    parts = [np.var(values, ddof=1) / len(values) for values in (first, second)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 4)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    found = difference(first, second)
    assert found.value == pytest.approx(np.mean(first) - np.mean(second))
    assert found.high - found.value == pytest.approx(half)
    assert found.value - found.low == pytest.approx(half)


def test_the_paired_difference_covers_as_it_says():
    """What the pair shares varies ten times as much as what it does not."""
    random = np.random.default_rng(3)
    shared = random.normal(50, 10, (1000, 5))
    first = shared + random.normal(1.5, 1, shared.shape)
    second = shared + random.normal(0, 1, shared.shape)
    found = [paired_difference(*pair) for pair in zip(first, second, strict=True)]
    share = np.mean([covered(one, 1.5) for one in found])
    assert share == pytest.approx(NOMINAL, abs=TOLERANCE)
    unpaired = difference(first[0], second[0])
    assert found[0].high - found[0].low < (unpaired.high - unpaired.low) / 3


def test_no_difference_is_found_as_often_as_the_level_says():
    drawn = np.random.default_rng(4).normal(size=(1000, 2, 5))
    for test in (difference, paired_difference):
        found = [test(*pair) for pair in drawn]
        assert np.mean([one.p_value < 0.05 for one in found]) == pytest.approx(
            0.05, abs=0.02
        )


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6),
)
def test_the_p_value_says_what_the_interval_says(first, second):
    tests = [difference] + [paired_difference] * (len(first) == len(second))
    for test in tests:
        found, turned = test(first, second), test(second, first)
        assert found.value == pytest.approx(-turned.value)
        if found.p_value is None:
            assert found.low is found.high is None
        elif abs(found.p_value - 0.05) > 1e-6:
            assert (found.p_value < 0.05) == (not covered(found, 0.0))
            assert found.p_value == pytest.approx(turned.p_value)


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [2.0]), ([1.0, 1.0], [2.0, 2.0])]
)
def test_a_difference_without_spread_has_no_interval(first, second):
    for test in (difference, paired_difference):
        assert test(first, second) == Difference(-1.0, None, None, None)


def test_rounding_is_no_spread():
    first = np.array([50.1, 61.7, 70.3])
    assert paired_difference(first + 0.1, first).p_value is None


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [1.0, np.inf], [[1.0, 2.0]]])
def test_what_is_no_list_of_numbers_is_refused(values):
    for call in (
        lambda: mean_interval(values),
        lambda: difference(values, [1.0, 2.0]),
        lambda: paired_difference([1.0, 2.0], values),
        lambda: find_plateau({100: values, 200: [1.0, 2.0]}),
    ):
        with pytest.raises(ValueError, match="one finite number a repeat"):
            call()


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, float("nan")])
def test_what_is_no_confidence_is_refused(confidence):
    values = [1.0, 2.0]
    for call in (
        lambda: mean_interval(values, confidence),
        lambda: difference(values, values, confidence),
        lambda: paired_difference(values, values, confidence),
        lambda: find_plateau({100: values}, confidence),
    ):
        with pytest.raises(ValueError, match="between 0 and 1"):
            call()


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 and 3 values make no pairs"):
        paired_difference([1, 2], [1, 2, 3])


def test_more_often_is_fishers_exact_test():
    # 8 of 10 against 1 of 10, by summing the hypergeometric probabilities of 8 and 9.
    expected = sum(math.comb(10, k) * math.comb(10, 9 - k) for k in (8, 9)) / math.comb(
        20, 9
    )
    assert more_often((8, 10), (1, 10)) == pytest.approx(expected)
    assert more_often((0, 24), (0, 24)) == 1.0
    assert more_often((0, 0), (3, 24)) == 1.0
    with pytest.raises(ValueError, match="25 of 24 cases"):
        more_often((25, 24), (0, 24))


@pytest.mark.parametrize("second", [(0, 24), (6, 132), (37, 132)])
def test_the_fewest_that_are_told_are_the_first_that_are(second):
    fewest = fewest_more_often(128, second, 0.01)
    assert more_often((fewest, 128), second) < 0.01
    assert more_often((fewest - 1, 128), second) >= 0.01
    assert fewest_more_often(3, (1, 2), 0.01) is None


def test_holm_on_a_published_example():
    """R's `p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")`."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_bonferroni_test(p_values):
    """The definition: the largest Bonferroni p-value of all families it belongs to."""
    indices = range(len(p_values))
    families = [
        family
        for size in range(1, len(p_values) + 1)
        for family in itertools.combinations(indices, size)
    ]
    expected = [
        max(
            min(1.0, len(family) * min(p_values[member] for member in family))
            for family in families
            if index in family
        )
        for index in indices
    ]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_leaves_out_tests_that_were_not_made():
    assert holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, wrong])


STEPS = (100, 200, 300, 400, 500)


def simulate(means, deviations, repeats: int, studies: int = 500) -> list[Plateau]:
    """Return the plateaus of many studies of which the truth is known."""
    random = np.random.default_rng([repeats, *np.abs(means).astype(int)])
    drawn = random.normal(
        np.array(means)[:, None],
        np.array(deviations)[:, None],
        (studies, len(means), repeats),
    )
    return [find_plateau(dict(zip(STEPS, study, strict=True))) for study in drawn]


@pytest.mark.parametrize("repeats", [2, 3, 8])
@pytest.mark.parametrize(
    ("means", "deviations"),
    [
        ((5, 5, 4.99, 5, 5), (1, 1, 1, 1, 1)),
        ((5, 5, 4.99, 5, 5), (3, 2, 1, 2, 3)),
        ((5, 5, 4.99, 5, 5), (1, 1, 5, 1, 1)),
        ((8, 5.5, 4.99, 5, 5), (3, 2, 1, 1, 1)),
    ],
    ids=["flat", "best is steady", "best is noisy", "descending"],
)
def test_the_truly_best_is_a_candidate_as_often_as_it_says(means, deviations, repeats):
    found = simulate(means, deviations, repeats)
    share = np.mean([300 in plateau.candidates for plateau in found])
    assert share >= NOMINAL - 2 * np.sqrt(NOMINAL * (1 - NOMINAL) / len(found))


def test_a_flat_curve_is_rarely_decided():
    found = simulate([5.0] * 5, [1.0] * 5, repeats=4)
    assert np.mean([plateau.decided for plateau in found]) < 0.1
    undecided = next(plateau for plateau in found if not plateau.decided)
    assert undecided.candidates == STEPS
    assert undecided.smallest == 100
    assert undecided.reason == "no T scores significantly worse than the best"


def test_a_clear_best_is_found():
    found = simulate([15, 15, 5, 15, 15], [1.0] * 5, repeats=4)
    exact = [plateau.candidates == (300,) for plateau in found]
    assert np.mean(exact) > 0.95
    assert all(plateau.best == 300 for plateau in found)
    assert found[0] == Plateau(
        best=300,
        smallest=300,
        candidates=(300,),
        decided=True,
        test="one-sided Welch t-tests against the best, Bonferroni, 95%",
        assumptions="independent repeats, near normal, whose spreads may differ",
        reason="T = 100, 200, 400 and 500 score significantly worse than the best",
    )


def test_the_start_of_a_plateau_is_found():
    found = simulate([40, 25, 5, 5, 5], [3, 2, 1, 1, 1], repeats=5)
    assert np.mean([plateau.smallest == 300 for plateau in found]) > 0.9
    assert np.mean([plateau.candidates == STEPS[2:] for plateau in found]) > 0.85


def test_the_power_that_the_documentation_states():
    for repeats, stated in ((2, 0.15), (3, 0.71), (4, 0.97)):
        found = simulate([9, 9, 5, 9, 9], [1.0] * 5, repeats)
        wrong = np.mean([len(set(plateau.candidates) - {300}) for plateau in found])
        assert 1 - wrong / 4 == pytest.approx(stated, abs=TOLERANCE)


def test_few_noisy_repeats_decide_nothing():
    found = simulate([6, 5.5, 5, 5, 5], [3.0] * 5, repeats=2)
    assert np.mean([plateau.decided for plateau in found]) < 0.15


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({100: [3.0, 2.0]}, "one T alone was studied"),
        ({100: [3.0, 2.0], 200: [1.0]}, "fewer than 2 repeats of T = 200"),
        ({100: [3.0], 200: [1.0]}, "fewer than 2 repeats of T = 100 and 200"),
        ({100: [3.0, 3.0], 200: [1, 2]}, "the repeats of T = 100 are all the same"),
    ],
)
def test_what_cannot_be_tested_is_undecided(scores, reason):
    found = find_plateau(scores)
    assert found.candidates == tuple(scores)
    assert (found.decided, found.reason) == (False, reason)
    assert found.best == min(scores, key=lambda steps: np.mean(scores[steps]))


def test_the_comparisons_are_welchs():
    """Each T against the best, by scipy's test on the values themselves."""
    random = np.random.default_rng(6)
    for _ in range(30):
        scores = {t: random.normal(t / 100, 1, random.integers(2, 6)) for t in STEPS}
        best = min(scores, key=lambda steps: scores[steps].mean())
        kept = [
            steps
            for steps in STEPS
            if steps == best
            or stats.ttest_ind(
                scores[steps], scores[best], equal_var=False, alternative="greater"
            ).pvalue
            > 0.05 / 4
        ]
        assert find_plateau(scores).candidates == tuple(kept)


def test_the_order_of_the_scores_does_not_matter():
    scores = {300: [2.0, 2.1, 1.9], 100: [9.0, 9.2, 8.7], 200: [2.0, 2.2, 1.9]}
    found = find_plateau(scores)
    assert found == find_plateau(
        {steps: scores[steps][::-1] for steps in sorted(scores)}
    )
    assert (found.best, found.smallest, found.candidates) == (300, 200, (200, 300))
    assert found.reason == "T = 100 scores significantly worse than the best"


def test_ties_go_to_the_smaller_steps():
    assert find_plateau({300: [1.0, 2.0], 100: [2.0, 1.0]}).best == 100


def test_no_score_at_all_is_refused():
    with pytest.raises(ValueError, match="the scores of one T or more"):
        find_plateau({})


def test_the_room_needs_neither_torch_nor_the_house():
    code = (
        "import sys, noisesteps.uncertainty\n"
        "ours = [name for name in sys.modules if name.startswith('noisesteps.')]\n"
        "assert {name.split('.')[1] for name in ours} == {'uncertainty'}, ours\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
