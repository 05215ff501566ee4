"""How far generated images are from real ones: features, statistics, distance."""

from noisesteps.evaluation.extractors import Extractor, load_extractor
from noisesteps.evaluation.frechet import frechet_distance
from noisesteps.evaluation.scores import reference, score
from noisesteps.evaluation.statistics import Statistics

__all__ = [
    "Extractor",
    "Statistics",
    "frechet_distance",
    "load_extractor",
    "reference",
    "score",
]
