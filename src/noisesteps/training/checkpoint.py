"""The rolling checkpoint: one file that is whole, checked and of this very run.

A safetensors file: its tensors, and in its metadata a JSON record and the SHA-256 of
both. No rule of the workflow declares the file, because Snakemake deletes declared
outputs before it runs a job again; the fingerprint therefore says what it belongs to.
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

from noisesteps.errors import StageError
from noisesteps.files import atomic

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
    try:
        with atomic(path) as temporary:
            save_file(plain, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise StageError(
            f"The checkpoint {path} cannot be written ({error}); free space or mend "
            "the folder's permissions and run the stage again."
        ) from error


def find(path: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint at `path` if this run can go on from it.

    A checkpoint that is damaged, or of a run with another fingerprint, is left alone
    and named in a warning. What a process that was killed left half written is
    removed.
    """
    for leftover in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
        leftover.unlink(missing_ok=True)
    if not path.exists():
        return None
    try:
        checkpoint = _read(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        logger.warning(
            "The checkpoint %s is damaged (%s); training starts anew.", path, error
        )
        return None
    if checkpoint.record.get("fingerprint") != fingerprint:
        logger.warning(
            "The checkpoint %s was made with another configuration, other images or "
            "other code; training starts anew.",
            path,
        )
        return None
    return checkpoint


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
