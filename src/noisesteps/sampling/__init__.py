"""The reverse process, run over a trained model."""

from noisesteps.sampling.generate import Samples, generate

__all__ = ["Samples", "generate"]
