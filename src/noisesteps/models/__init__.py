"""The U-Net that predicts the noise, and its files."""

from noisesteps.models.presets import PRESETS, Architecture
from noisesteps.models.unet import UNet
from noisesteps.models.weights import load_model, save_model, save_state

__all__ = [
    "PRESETS",
    "Architecture",
    "UNet",
    "load_model",
    "save_model",
    "save_state",
]
