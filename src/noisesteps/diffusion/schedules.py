"""Beta schedules: how much noise each of the T steps adds.

Each function returns beta_1 to beta_T of equation (3.1) of the dissertation (the
paragraph above equation (1) of Ho et al. 2020) as a float64 tensor of shape (T,).
Index 0 holds beta_1, so that `t` counts from 0 to T-1 as in diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from noisesteps.errors import ConfigError

BETA_START = 1e-4
BETA_END = 0.02
BETA_MAX = 0.999
REFERENCE_STEPS = 1000
COSINE_OFFSET = 0.008


def linear(steps: int) -> torch.Tensor:
    """Rise linearly from 1e-4 to 0.02, whatever `steps` is (Ho et al. 2020, section 4).

    The dissertation's choice. Its total noise grows with T: sqrt(alpha_bar) after
    the last step is 0.60 for T = 100, but 0.006 for T = 1000.
    """
    return torch.linspace(BETA_START, BETA_END, steps, dtype=torch.float64)


def linear_scaled(steps: int) -> torch.Tensor:
    """Rise linearly, times 1000/T, so that any T ends in about the same noise.

    Both end points are scaled as in Nichol & Dhariwal 2021; below T = 21 the largest
    betas would reach 1 and are clipped to 0.999.
    """
    return (linear(steps) * (REFERENCE_STEPS / steps)).clamp(max=BETA_MAX)


def cosine(steps: int) -> torch.Tensor:
    """Let alpha_bar fall as a squared cosine (Nichol & Dhariwal 2021, equation 17)."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    angle = (time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (math.pi / 2)
    alpha_bar = torch.cos(angle).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=BETA_MAX)


SCHEDULES: dict[str, Callable[[int], torch.Tensor]] = {
    "linear": linear,
    "linear_scaled": linear_scaled,
    "cosine": cosine,
}


def schedule_betas(schedule: str, steps: int) -> torch.Tensor:
    """Return the betas of the schedule called `schedule`.

    Parameters
    ----------
    schedule
        `linear`, `linear_scaled` or `cosine`.
    steps
        The number of noise steps T, at least 1.

    Returns
    -------
    torch.Tensor
        Shape (T,), float64, each in (0, 0.999].

    Raises
    ------
    ConfigError
        If the schedule is unknown or T is not a positive integer.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"diffusion.schedules: there is no schedule {schedule!r}; "
            f"choose one of {', '.join(SCHEDULES)}."
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(
            f"diffusion.steps: {steps!r} is not a number of noise steps; "
            "give an integer of at least 1."
        )
    return SCHEDULES[schedule](steps)
