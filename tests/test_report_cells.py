"""Numbers for a reader: digits, times, intervals, and what is said once."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesteps.report.cells import aligned, duration, heading, make_table, significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (0.35, "0.350 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (15 * 3600, "15 h 00 min"),
        (940 * 3600, "940 h"),
        (-125, "−2 min 05 s"),
    ],
)
def test_a_time_is_written_as_a_person_would(seconds, text):
    assert duration(seconds) == text


@given(st.floats(0.1, 3.5e5))
def test_a_time_reads_back(seconds):
    units = {"h": 3600, "min": 60, "s": 1, "ms": 1e-3}
    words = duration(seconds).replace(",", "").split()
    total = sum(
        float(number) * units[unit]
        for number, unit in zip(words[::2], words[1::2], strict=True)
    )
    # Below a minute three digits that count, above it whole seconds or minutes.
    step = 1.0 if seconds >= 59.95 else 10 ** (math.floor(math.log10(seconds)) - 2)
    assert abs(total - seconds) <= max(step, 60 if seconds >= 3599 else 0) / 2 + 1e-9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (12.345, "12.3"),
        (9.996, "10.0"),
        (-0.0123, "−0.0123"),
        (1.5e-7, "1.50 × 10⁻⁷"),
        (math.inf, "∞"),
    ],
)
def test_significant_digits(value, text):
    assert significant(value) == text


def test_numbers_of_a_column_have_the_same_decimals():
    assert aligned([369.88, 95.55, 1234.0]) == ["370", "96", "1,234"]
    assert aligned([369.88, 95.56]) == ["369.9", "95.6"]
    assert aligned([0.0, 12.0]) == ["0.00", "12.00"]


def test_a_number_that_would_lose_its_digits_keeps_three():
    assert aligned([0.6, 0.00004]) == ["0.600", "4.00 × 10⁻⁵"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_no_number_is_shown_as_another(values):
    for value, text in zip(values, aligned(values), strict=True):
        number, _, power = text.replace(",", "").replace("−", "-").partition(" × 10")
        exponent = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        shown = float(number) * 10.0 ** int(exponent or 0)
        # Rounded to 3 digits of its own, or to the 4th digit of the largest.
        tolerance = max(abs(value) * 0.005, 0)
        assert shown == pytest.approx(value, abs=tolerance + 1e-300, rel=0.05)


def table(**columns):
    return make_table("name", "title", pd.DataFrame(columns))


def texts(made):
    return [[cell.text for cell in row] for row in made.rows]


def test_an_interval_joins_its_value():
    made = table(
        dataset=["a", "b"],
        value=[110.04, 95.55],
        low=[107.5, None],
        high=[112.5, None],
    )
    assert made.headings == [("data set", False), ("value", True)]
    assert texts(made) == [["a", "110.0 [107.5, 112.5]"], ["b", "95.5"]]
    assert "95% interval" in made.note
    assert made.rows[0][1].key == "110.04"


def test_a_difference_near_zero_gets_no_more_digits_than_the_others():
    made = table(
        difference=[-113.04, 0.5964, -0.04],
        difference_low=[-149.0, -5.56, -3.0],
        difference_high=[-76.5, 6.75, 3.0],
    )
    assert texts(made) == [
        ["−113.0 [−149.0, −76.5]"],
        ["0.6 [−5.6, 6.8]"],
        ["0.0 [−3.0, 3.0]"],
    ]


def test_the_interval_of_a_mean_joins_the_mean():
    made = table(accuracy_mean=[0.7], accuracy_low=[0.65], accuracy_high=[0.75])
    assert texts(made) == [["70.0 [65.0, 75.0]"]]
    assert made.headings == [("mean accuracy (%)", True)]


def test_a_low_without_its_high_stays_a_column():
    assert table(value=[1.0], low=[0.5]).headings == [("value", True), ("low", True)]


def test_conditions_that_every_row_states_are_said_once():
    made = table(metric=["FID"] * 2, images=[128] * 2, value=[1.0, 2.0], kid=[3.0] * 2)
    assert made.headings == [("FID", True), ("kernel distance", True)]
    assert made.same == ["metric FID", "images 128"]


def test_what_is_missing_is_a_dash_without_a_key():
    made = table(steps=pd.array([100, None], "Int64"), none=[None, None])
    assert made.headings == [("T", True)]
    assert [(cell.text, cell.key) for (cell,) in made.rows] == [
        ("100", "100.0"),
        ("–", None),
    ]


def test_answers_are_yes_and_no():
    made = table(pareto=pd.array([True, False, None], "boolean"))
    assert texts(made) == [["yes"], ["no"], ["–"]]
    assert made.headings == [("on the Pareto front", False)]


def test_times_are_said_once_and_small_p_values_are_not_zero():
    made = table(mean_seconds=[7200.0], mean_hours=[2.0], p_value=[1e-9])
    assert made.headings == [("mean time", True), ("p", True)]
    assert texts(made) == [["2 h 00 min", "< 0.001"]]


def test_a_heading_names_its_unit():
    assert heading("terminal_signal") == "terminal signal √ᾱ_T (%)"
    assert heading("difference_of_accuracy") == "difference of accuracy (points)"
    assert heading("longest_seconds") == "longest time"
    assert heading("some_new_column") == "some new column"
