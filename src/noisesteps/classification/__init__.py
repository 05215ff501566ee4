"""Do generated images help to train a classifier? Origin, Synthesis, Mix, controls.

The classifier is imported when it is asked for: building a set does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noisesteps.classification.sets import LabelledSet, build_set

if TYPE_CHECKING:
    from noisesteps.classification.classifier import build_network, train_classifier

__all__ = ["LabelledSet", "build_network", "build_set", "train_classifier"]


def __getattr__(name: str) -> Any:
    if name in ("build_network", "train_classifier"):
        from noisesteps.classification import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
