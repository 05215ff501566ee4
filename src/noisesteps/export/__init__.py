"""A finished run, in the formats that other tools read."""

from noisesteps.export.images import write_images
from noisesteps.export.pipeline import write_pipeline

__all__ = ["write_images", "write_pipeline"]
