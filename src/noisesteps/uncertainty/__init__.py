"""How sure a number is: intervals over repeats, and which T cannot be told apart.

Plain numbers in, plain numbers out: the room knows no file, no study and no network,
needs numpy and scipy alone, and imports nothing of the house.
"""

from noisesteps.uncertainty.intervals import (
    Difference,
    Interval,
    difference,
    exact_interval,
    fewest_more_often,
    holm,
    mean_interval,
    more_often,
    paired_difference,
    share_interval,
)
from noisesteps.uncertainty.plateau import Plateau, find_plateau

__all__ = [
    "Difference",
    "Interval",
    "Plateau",
    "difference",
    "exact_interval",
    "fewest_more_often",
    "find_plateau",
    "holm",
    "mean_interval",
    "more_often",
    "paired_difference",
    "share_interval",
]
