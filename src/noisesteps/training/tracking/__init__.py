"""Tracking: who is told how a training is going."""

from noisesteps.training.tracking.observer import Observer, Point, Start
from noisesteps.training.tracking.tracker import Tracker

__all__ = ["Observer", "Point", "Start", "Tracker"]
