"""The rolling checkpoint: one file that is whole, checked and of this very run.

A safetensors file: its tensors, and in its metadata a JSON record and the SHA-256 of
both. No rule of the workflow declares the file, because Snakemake deletes declared
outputs before it runs a job again; the record therefore says what it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from noisesteps.files import atomic, sweep

logger = logging.getLogger("noisesteps.training")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors by name, and values that JSON can hold."""

    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]


def save(
    path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]
) -> None:
    """Write a checkpoint; the previous one is replaced once the new one is whole.

    Raises
    ------
    StageError
        If it cannot be written, for example because the disk is full.
    """
    plain = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(record, allow_nan=False)
    metadata = {"record": text, "sha256": _digest(plain, text)}
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def find(
    path: Path, origin: Mapping[str, Any], work: str = "training"
) -> Checkpoint | None:
    """Return the checkpoint at `path` if this run can go on from it.

    A checkpoint that is damaged, or of another origin, is left alone until the next
    one replaces it; a warning says why it is not used. What a process that was killed
    left half written is removed.

    Parameters
    ----------
    path
        The rolling checkpoint.
    origin
        What the checkpoint's record has to say under `origin`.
    work
        What starts anew otherwise, for the warning.
    """
    sweep(path)
    if not path.exists():
        return None
    try:
        checkpoint = _read(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        logger.warning(
            "The checkpoint %s is damaged (%s); %s starts anew.", path, error, work
        )
        return None
    if differences := _differences(origin, checkpoint.record.get("origin", {})):
        logger.warning(
            "The checkpoint %s is of another run, which differs in %s; %s starts anew.",
            path,
            ", ".join(differences),
            work,
        )
        return None
    return checkpoint


def _differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Name what differs between two JSON values, down to the keys of mappings."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return [] if one == other else [name]
    missing = object()
    return [
        difference
        for key in sorted({*one, *other})
        for difference in _differences(
            one.get(key, missing), other.get(key, missing), f"{name}.{key}".lstrip(".")
        )
    ]


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _digest(tensors, metadata["record"]) != metadata["sha256"]:
        raise ValueError("its SHA-256 does not match")
    return Checkpoint(tensors, json.loads(metadata["record"]))


def _digest(tensors: Mapping[str, torch.Tensor], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
