"""Training: optimiser, learning rate, precision, checkpoints and tracking.

The trainer is imported when it is asked for: who reads the daily logs of a training
does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noisesteps.signals import Interrupted
from noisesteps.training.tracking import Observer, Tracker

if TYPE_CHECKING:
    from noisesteps.training.trainer import Trained, train

__all__ = ["Interrupted", "Observer", "Tracker", "Trained", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Trained", "train"):
        from noisesteps.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
