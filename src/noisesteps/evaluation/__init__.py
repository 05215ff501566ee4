"""How far generated images are from real ones: features, statistics, distances.

Beside the Fréchet distance: kernel distance, precision and recall, the Fréchet distance
extrapolated to infinitely many samples, and near-copies of training images.
"""

from noisesteps.evaluation.copies import (
    COPY_RATIO,
    CopyShare,
    near_copies,
    nearer,
    nearest_relative,
)
from noisesteps.evaluation.extractors import Extractor, load_extractor
from noisesteps.evaluation.frechet import frechet_distance
from noisesteps.evaluation.infinity import (
    frechet_infinity,
    frechet_infinity_interval,
)
from noisesteps.evaluation.kernel import KernelDistance, kernel_distance
from noisesteps.evaluation.precision_recall import (
    PrecisionRecall,
    neighbour_radii,
    precision_recall,
)
from noisesteps.evaluation.scores import Reference, describe, score
from noisesteps.evaluation.statistics import Statistics

__all__ = [
    "COPY_RATIO",
    "CopyShare",
    "Extractor",
    "KernelDistance",
    "PrecisionRecall",
    "Reference",
    "Statistics",
    "describe",
    "frechet_distance",
    "frechet_infinity",
    "frechet_infinity_interval",
    "kernel_distance",
    "load_extractor",
    "near_copies",
    "nearer",
    "nearest_relative",
    "neighbour_radii",
    "precision_recall",
    "score",
]
