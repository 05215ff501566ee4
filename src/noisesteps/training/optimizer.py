"""Adam, and its moments as named tensors."""

from __future__ import annotations

import torch
from torch import nn

STATE = ("step", "exp_avg", "exp_avg_sq")


def make_optimizer(network: nn.Module) -> torch.optim.Adam:
    """Return Adam (Kingma & Ba 2015) as PyTorch has it, in its one-kernel form.

    The learning rate is set before each update.
    """
    return torch.optim.Adam(network.parameters(), lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next update use `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(
    optimizer: torch.optim.Optimizer, network: nn.Module
) -> dict[str, torch.Tensor]:
    """Return the optimiser's state by name; empty before the first update."""
    return {
        f"{field}.{name}": optimizer.state[parameter][field]
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
        for field in STATE
    }


def restore_moments(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    saved: dict[str, torch.Tensor],
) -> None:
    """Put back what `moments` returned, on the parameters' device and layout."""
    for name, parameter in network.named_parameters():
        if f"step.{name}" not in saved:
            continue
        state = {"step": saved[f"step.{name}"].to(parameter.device, copy=True)}
        for field in STATE[1:]:
            state[field] = torch.empty_like(parameter.detach())
            state[field].copy_(saved[f"{field}.{name}"])
        optimizer.state[parameter] = state
