"""Adam, and its moments as named tensors."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.adam import adam

STATE = ("step", "exp_avg", "exp_avg_sq")
CLIP_EPS = 1e-6  # what PyTorch adds to the norm when it clips


class Adam:
    """Adam (Kingma & Ba 2015): PyTorch's fused kernel, and as little as that needs.

    `torch.optim.Adam` computes the same bits, but imports PyTorch's compiler on its
    first use, which takes about as long as all of a small stage's other imports.

    Parameters
    ----------
    network
        Its parameters are updated in place.
    learning_rate
        The rate of the next update; it may be set before each.

    Attributes
    ----------
    state : dict
        For each parameter that was updated: `step` (a float32 scalar), and `exp_avg`
        and `exp_avg_sq`, float32 in the parameter's shape and layout.
    param_groups : list of dict
        The parameters, where `torch.amp.GradScaler` looks for them.
    """

    # GradScaler then sets `grad_scale` and `found_inf` for one step, and the kernel
    # unscales or skips the update without a wait for the device.
    _step_supports_amp_scaling = True

    def __init__(self, network: nn.Module, learning_rate: float = 0.0):
        self.learning_rate = learning_rate
        self.param_groups = [{"params": list(network.parameters())}]
        self.state: dict[nn.Parameter, dict[str, torch.Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def clip(self, most: float) -> None:
        """Scale the gradients, so that the norm of all together is at most so much.

        As PyTorch's `clip_grad_norm_`, to the same bits, but where the norm is known
        without a wait for the device, gradients that need no scaling are not touched.
        """
        parameters = self._with_gradients()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if norm.device.type == "cpu" and most / (norm + CLIP_EPS) >= 1:
            return
        nn.utils.clip_grads_with_norm_(parameters, most, norm)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        parameters = self._with_gradients()
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = _initial_state(parameter)
        steps, averages, squares = (
            [_in_order(self.state[parameter][field]) for parameter in parameters]
            for field in STATE
        )
        adam(
            [_in_order(parameter) for parameter in parameters],
            [_in_order(parameter.grad) for parameter in parameters],
            averages,
            squares,
            [],
            steps,
            fused=True,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def _with_gradients(self) -> list[nn.Parameter]:
        return [p for p in self.param_groups[0]["params"] if p.grad is not None]

    def moments(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Return the state by the network's names; empty before the first update."""
        return {
            f"{field}.{name}": self.state[parameter][field]
            for name, parameter in network.named_parameters()
            if parameter in self.state
            for field in STATE
        }

    def restore(self, network: nn.Module, saved: dict[str, torch.Tensor]) -> None:
        """Put back what `moments` returned, on the parameters' device and layout."""
        for name, parameter in network.named_parameters():
            if f"step.{name}" in saved:
                self.state[parameter] = _initial_state(parameter)
                for field, tensor in self.state[parameter].items():
                    tensor.copy_(saved[f"{field}.{name}"])


def _initial_state(parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter.detach()),
        "exp_avg_sq": torch.zeros_like(parameter.detach()),
    }


def _in_order(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor in the order of memory: the kernel copies others on a CPU."""
    is_plain = tensor.dim() != 4 or tensor.is_contiguous()
    return tensor if is_plain else tensor.permute(0, 2, 3, 1)
