"""Linear warm-up, then a cosine: equations (3.11) and (3.12)."""

from __future__ import annotations

import math

from noisesteps.config import Training


def learning_rate(update: int, updates: int, training: Training) -> float:
    """Return the learning rate of one update.

    Equations (3.11) and (3.12) of the dissertation; the cosine is that of Loshchilov
    & Hutter 2017, without restarts. The first update of a warm-up has rate 0.

    Parameters
    ----------
    update
        Index t of the update, from 0 to `updates` - 1.
    updates
        How many updates the whole training has (T in equation 3.12).
    training
        Gives lr_base (`learning_rate`), lr_min (`learning_rate_min`) and
        `warmup_steps`.
    """
    base, minimum = training.learning_rate, training.learning_rate_min
    warmup = training.warmup_steps
    if update < warmup:
        return base * update / warmup  # (3.11)
    angle = math.pi * (update - warmup) / (updates - warmup)
    return minimum + (base - minimum) * (1 + math.cos(angle)) / 2  # (3.12)
