"""Training: optimiser, learning rate, precision, checkpoints and tracking."""

from noisesteps.training.signals import Interrupted
from noisesteps.training.tracking import Observer, Tracker
from noisesteps.training.trainer import Trained, train

__all__ = ["Interrupted", "Observer", "Tracker", "Trained", "train"]
