"""What separates two training sets: differences with their intervals, against zero."""

from __future__ import annotations

import math
import textwrap

from matplotlib.axes import Axes
from pandas import DataFrame, Series

from noisesteps.figures import style

LEVEL = 0.05  # probability of a false alarm among all the comparisons of a study
# By whether a difference is distinguishable from zero: colour, and a filled dot.
LOOKS = {True: (style.INK, True), False: ("#8a8a8a", False)}
WIDTH = 38  # letters of a verdict above a panel


def outcome(row: Series) -> str:
    """Say whether the first set of a comparison is `above` or `below` the second.

    `unknown`: the difference is not distinguishable from zero, after Holm's correction
    for the comparisons of the whole study.
    """
    if math.isnan(row["p_holm"]) or row["p_holm"] > LEVEL:
        return "unknown"
    return "above" if row["difference"] > 0 else "below"


def verdict(effects: DataFrame) -> str:
    """Say in a few words what mix is above, below or level with.

    `effects` are of one architecture; empty where mix is compared with nothing.
    """
    rows = effects[effects["set"] == "mix"]
    if rows.empty:
        return ""
    found: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        found.setdefault(outcome(row), []).append(row["baseline"])
    words = {"above": "above", "below": "below", "unknown": "not distinguishable from"}
    parts = [f"{words[one]} {listed(found[one])}" for one in words if one in found]
    return f"mix is {', '.join(parts)}"


def listed(names: list[str], link: str = "and") -> str:
    """Write names as a person would: `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} {link} {last}" if others else last


def draw_effects(axes: Axes, effects: DataFrame) -> None:
    """Draw the comparisons of one architecture, the first at the top."""
    axes.axvline(0, color=style.INK, linewidth=1)
    for place, row in enumerate(effects.to_dict("records")):
        _draw_effect(axes, -place, row)
    names = [f"{row.set}\n− {row.baseline}" for row in effects.itertuples()]
    axes.set_yticks([-place for place in range(len(names))], names, fontsize=8)
    axes.margins(x=0.2)  # room for the numbers above the outermost dots
    axes.set_ylim(0.5 - len(names), 0.8)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference, percentage points")
    axes.set_title("\n".join(textwrap.wrap(verdict(effects), WIDTH)), fontsize=8)


def _draw_effect(axes: Axes, place: int, row: dict) -> None:
    colour, filled = LOOKS[outcome(row) != "unknown"]
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    value, published = 100 * row["difference"], 100 * row["dissertation_difference"]
    if not math.isnan(low):
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
    axes.plot(
        value, place, marker="o", markersize=7, color=colour, linestyle="",
        markerfacecolor=colour if filled else "white", markeredgewidth=1.6,
    )  # fmt: skip
    axes.annotate(
        points(row), (value, place), (0, 6), textcoords="offset points", ha="center",
        va="bottom", fontsize=7.5, color=style.INK if filled else style.QUIET,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip
    if not math.isnan(published):
        axes.plot(
            published, place, marker="D", color=style.QUIET, markerfacecolor="none",
            linestyle="",
        )  # fmt: skip


def points(row: Series | dict) -> str:
    """Write a difference and its interval in percentage points: `+7.0 [+5.1, +8.9]`."""
    value = signed(100 * row["difference"])
    if math.isnan(row["difference_low"]):
        return value
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    return f"{value} [{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """Write a number with its sign and as many decimals as show that it is not zero.

    That is one for most. What is zero to five decimals is rounding, and has no sign.
    """
    decimals = next((count for count in range(1, 6) if round(value, count)), None)
    return f"{value:+.{decimals}f}".replace("-", "−") if decimals else "0.0"
