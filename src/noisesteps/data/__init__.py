"""Data sets: fetch and verify, decode, split, and the array later stages read.

The preparation is imported when it is asked for: who reads the array needs no Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noisesteps.data.array import Images, labels, load_images, unseen
from noisesteps.data.download import fetch

if TYPE_CHECKING:
    from noisesteps.data.preparation import prepare

__all__ = ["Images", "fetch", "labels", "load_images", "prepare", "unseen"]


def __getattr__(name: str) -> Any:
    if name == "prepare":
        from noisesteps.data import preparation

        return preparation.prepare
    raise AttributeError(f"module {__name__} has no attribute {name}")
