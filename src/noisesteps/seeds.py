"""Every random number comes from the study's seed by a stable derivation.

A key such as `(seed, "noise", dataset, schedule, steps, index)` is hashed to 64
bits. Python's own `hash` differs between processes once a string is in the tuple,
so SHA-256 is used.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

Key = int | str


def derive(*key: Key) -> int:
    """Hash a key to an integer in [0, 2**63).

    Parameters
    ----------
    *key
        Integers and strings; `1` and `"1"` are different keys.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(*key: Key, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a `torch.Generator` on `device`, seeded by `derive(*key)`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(*key))


def numpy_generator(*key: Key) -> np.random.Generator:
    """Return a `numpy.random.Generator` (PCG64), seeded by `derive(*key)`."""
    import numpy as np

    return np.random.default_rng(derive(*key))
