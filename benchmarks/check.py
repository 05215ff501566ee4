"""Whether anything became slower beside its peers. Ratios are compared, never times."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.goals import reached
from benchmarks.rows import Row

TOLERANCE = 0.15  # of the earlier ratio


def slower(
    rows: Iterable[Row], baseline: Iterable[Row], tolerance: float = TOLERANCE
) -> list[str]:
    """Return a sentence for each row whose ratio fell by more than the tolerance.

    Rows are matched by name and by whether they were measured on one thread: another
    machine has other names and other numbers of threads. Where an earlier result is of
    several machines, the same one counts, or else the first. A ratio counts as fallen
    only where its whole interval of quartiles did, so that a noisy row raises no alarm;
    and beside a peer of our own, which may have become faster, only where its goal is
    no longer met.

    Parameters
    ----------
    rows
        The new result.
    baseline
        An earlier one.
    tolerance
        Part of the earlier ratio that may be lost.

    Raises
    ------
    ValueError
        If no row of the two results is the same.
    """
    pairs = _pairs(rows, baseline)
    if not pairs:
        raise ValueError("the two results have no row in common")
    return [_sentence(new, old) for new, old in pairs if _fell(new, old, tolerance)]


def remarks(
    rows: Iterable[Row], baseline: Iterable[Row], tolerance: float = TOLERANCE
) -> list[str]:
    """Return what else there is to say of one machine's results; none is an error.

    That is each goal that is missed since, though the ratio fell by less than the
    tolerance, and which rows were not measured again.
    """
    rows, baseline = list(rows), list(baseline)
    found = [
        f"{new.name} ({new.thread_count}) misses its goal, {new.goal_text}: "
        f"{reached(new)}, and {reached(old)} before."
        for new, old in _pairs(rows, baseline)
        if new.device == old.device
        and old.met
        and new.met is False
        and not _fell(new, old, tolerance)
    ]
    measured, devices = {row.key for row in rows}, {row.device for row in rows}
    left = [
        f"{row.name} ({row.thread_count})"
        for row in baseline
        if row.device in devices and row.key not in measured
    ]
    return [*found, f"Not measured again: {', '.join(left)}."] if left else found


def _pairs(rows: Iterable[Row], baseline: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Pair each new ratio with the earlier one that it is compared with."""
    earlier: dict[tuple, list[Row]] = {}
    for row in baseline:
        if row.ratio is not None:
            earlier.setdefault(_match(row), []).append(row)
    return [
        (row, min(earlier[_match(row)], key=lambda old: old.device != row.device))
        for row in rows
        if row.ratio is not None and _match(row) in earlier
    ]


def _match(row: Row) -> tuple[str, str, bool]:
    return row.name, row.kind, row.threads == 1


def _fell(new: Row, old: Row, tolerance: float) -> bool:
    if new.own_peer:
        return bool(old.met) and not new.met
    best = max(new.ratio, new.ratio_high or new.ratio)
    return best < old.ratio * (1 - tolerance)


def _sentence(new: Row, old: Row) -> str:
    return (
        f"{new.name} ({new.thread_count}) became slower: {new.ratio:.3g}× its peer, "
        f"{new.peer}, and {old.ratio:.3g}× before."
    )
