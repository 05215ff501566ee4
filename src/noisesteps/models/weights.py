"""Weights in safetensors: no code is ever loaded with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from noisesteps.errors import StageError
from noisesteps.files import atomic


def save_state(path: str | Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict atomically; any device and memory layout will do.

    Raises
    ------
    StageError
        If the file cannot be written, for example because the disk is full.
    """
    plain = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    with atomic(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def save_model(path: str | Path, network: nn.Module) -> None:
    """Write the weights of `network` atomically."""
    save_state(path, network.state_dict())


def load_model(path: str | Path, network: nn.Module) -> None:
    """Read weights into `network`, on the device where it is.

    Raises
    ------
    StageError
        If the file is missing, damaged, or of another network.
    """
    try:
        state = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise StageError(f"{path} does not exist; train the model first.") from None
    except SafetensorError as error:
        raise StageError(
            f"{path} is not a whole safetensors file ({error}); remove it and train "
            "the model again."
        ) from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StageError(
            f"{path} holds the weights of another network than the configuration's "
            "network.preset; restore that or train the model again."
        ) from error
