"""Data sets: fetch and verify, decode, split, and the array later stages read."""

from noisesteps.data.array import Images, labels, load_images
from noisesteps.data.download import fetch
from noisesteps.data.preparation import prepare

__all__ = ["Images", "fetch", "labels", "load_images", "prepare"]
