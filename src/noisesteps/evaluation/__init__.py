"""How far generated images are from real ones: features, statistics, distance."""

from noisesteps.evaluation.extractors import Extractor, load_extractor
from noisesteps.evaluation.frechet import frechet_distance
from noisesteps.evaluation.scores import Reference, describe, score
from noisesteps.evaluation.statistics import Statistics

__all__ = [
    "Extractor",
    "Reference",
    "Statistics",
    "describe",
    "frechet_distance",
    "load_extractor",
    "score",
]
