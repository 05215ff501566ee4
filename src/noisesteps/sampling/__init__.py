"""The reverse process, run over a trained model."""

from noisesteps.sampling.generate import generate
from noisesteps.sampling.samples import Partial, Samples

__all__ = ["Partial", "Samples", "generate"]
