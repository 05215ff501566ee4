"""Do generated images help to train a classifier? Origin, Synthesis, Mix, controls."""

from noisesteps.classification.classifier import build_network, train_classifier
from noisesteps.classification.sets import LabelledSet, build_set

__all__ = ["LabelledSet", "build_network", "build_set", "train_classifier"]
