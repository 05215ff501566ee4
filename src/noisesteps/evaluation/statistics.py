"""Mean and covariance of a set of features, and the file that keeps them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noisesteps.errors import StageError
from noisesteps.files import atomic


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of the features of `images` images.

    Attributes
    ----------
    mean
        float64 (D,).
    covariance
        float64 (D, D), normalised by `images` - 1 as in `numpy.cov`.
    images
        How many images the statistics describe.
    extractor, digest
        Name of the extractor and SHA-256 of its weights.
    """

    mean: np.ndarray
    covariance: np.ndarray
    images: int
    extractor: str
    digest: str

    @classmethod
    def of(cls, features: np.ndarray, extractor: str, digest: str) -> Statistics:
        """Summarise features (N, D) that `extractor` computed.

        Raises
        ------
        StageError
            If there are fewer than two images: one has no covariance.
        """
        require_two(features)
        features = np.asarray(features, np.float64)
        covariance = np.atleast_2d(np.cov(features, rowvar=False))
        return cls(features.mean(axis=0), covariance, len(features), extractor, digest)

    def save(self, path: str | Path) -> None:
        """Write the statistics to an npz file."""
        with atomic(path) as temporary:
            np.savez(
                temporary,
                mean=self.mean,
                covariance=self.covariance,
                images=self.images,
                extractor=self.extractor,
                digest=self.digest,
            )

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read statistics that `save` wrote.

        Raises
        ------
        StageError
            If the file is missing or is not one of ours.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    stored["mean"],
                    stored["covariance"],
                    int(stored["images"]),
                    str(stored["extractor"]),
                    str(stored["digest"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StageError(
                f"{path} holds no statistics; run `noisesteps reference` again."
            ) from error

    def require_extractor(self, name: str, digest: str) -> None:
        """Refuse features that another network computed.

        Raises
        ------
        StageError
            If the extractor or the SHA-256 of its weights differs.
        """
        if (name, digest) != (self.extractor, self.digest):
            raise StageError(
                f"The features come from {name} ({digest[:8]}), but the reference "
                f"from {self.extractor} ({self.digest[:8]}); run `noisesteps "
                "reference` again."
            )


def require_two(features: np.ndarray) -> None:
    """Refuse a set too small to have a covariance."""
    if len(features) < 2:
        raise StageError(
            f"A Fréchet distance needs 2 images or more, not {len(features)}; "
            "generate or keep more images."
        )
