"""Do generated images help to train a classifier? Origin, Synthesis and Mix."""

from noisesteps.classification.classifier import build_network, train_classifier
from noisesteps.classification.sets import LabelledSet, build_sets

__all__ = ["LabelledSet", "build_network", "build_sets", "train_classifier"]
