"""The Gaussian diffusion process of DDPM and its samplers, one step at a time.

Equations are those of chapter 3 of the dissertation, of Ho et al. 2020 ("DDPM",
arXiv 2006.11239) and of Song et al. 2021 ("DDIM", arXiv 2010.02502). The papers count
t from 1 to T; here, as in diffusers, t counts from 0 to T-1.
"""

from __future__ import annotations

import math

import torch

from noisesteps.diffusion.schedules import schedule_betas
from noisesteps.errors import ConfigError

# Below this, sqrt(alpha_bar) is no normal float32 number and x_0 cannot be recovered.
SMALLEST_ALPHA_BAR = 1e-75


class Diffusion:
    """T steps from an image to noise, and each step back.

    All tables are float64 and stay on the CPU; the methods compute in the dtype and
    on the device of the images they are given.

    Parameters
    ----------
    steps
        The number of noise steps T, at least 1.
    schedule
        `linear`, `linear_scaled` or `cosine`.

    Attributes
    ----------
    steps : int
        T; after `respaced`, the number of steps that were kept.
    betas, alpha_bar : torch.Tensor
        Shape (T,), float64: beta_t of equation (3.1) and alpha_bar_t of (3.6).
    timesteps : torch.Tensor
        Shape (T,), int64, ascending: the `t` that the network was trained with, for
        each of this process's steps; 0 to T-1 unless respaced.

    Raises
    ------
    ConfigError
        If the schedule is unknown, T is not a positive integer, or T is so large that
        alpha_bar leaves the range of floating-point numbers.
    """

    def __init__(self, steps: int, schedule: str = "linear"):
        betas = schedule_betas(schedule, steps)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        if alpha_bar[-1] < SMALLEST_ALPHA_BAR:
            raise ConfigError(
                f"diffusion.steps: {steps} steps of schedule {schedule} leave no "
                "signal that a float32 can hold; lower T or use linear_scaled."
            )
        self.schedule = schedule
        self._set_process(betas, alpha_bar, torch.arange(steps))

    def _set_process(
        self, betas: torch.Tensor, alpha_bar: torch.Tensor, timesteps: torch.Tensor
    ) -> None:
        self.steps = len(betas)
        self.betas, self.alpha_bar, self.timesteps = betas, alpha_bar, timesteps
        self._tables = _coefficients(alpha_bar)
        self._moved: dict[tuple, torch.Tensor] = {}

    @property
    def terminal_signal(self) -> float:
        """sqrt(alpha_bar) after the last step: the share of x_0 left in x_T.

        Sampling starts from pure noise, as if this were 0; the larger it is, the
        larger the mismatch between training and sampling.
        """
        return math.sqrt(self.alpha_bar[-1].item())

    @property
    def terminal_snr(self) -> float:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) after the last step."""
        alpha_bar = self.alpha_bar[-1].item()
        return alpha_bar / (1 - alpha_bar)

    def prior_divergence(self, mean_square: float) -> float:
        r"""KL(q(x_T | x_0) ‖ N(0, I)) averaged over the data, in nats a dimension.

        .. math::
            \tfrac12 \big(\bar\alpha_T E[x_0^2] - \bar\alpha_T
                          - \ln(1 - \bar\alpha_T)\big)

        It is L_T of Ho et al. 2020, equation (5), and by convexity no less than
        KL(q(x_T) ‖ N(0, I)), the divergence between what the last step of training
        looks like and the noise that sampling starts from.

        Parameters
        ----------
        mean_square
            E[x_0²]: the mean over all values, in [-1, 1], of all training images.
        """
        alpha_bar = self.alpha_bar[-1].item()
        return 0.5 * (alpha_bar * (mean_square - 1) - math.log1p(-alpha_bar))

    def respaced(self, sampling_steps: int) -> Diffusion:
        """Return the process that visits only `sampling_steps` of the T steps.

        The kept steps are evenly spaced, always start at T-1 and end in x_0 ("trailing"
        spacing, Lin et al. 2024, table 2). Their alpha_bar stay and the betas follow
        from them (Nichol & Dhariwal 2021, section 4): beta = 1 - alpha_bar_k /
        alpha_bar_{k-1}. With `sampling_steps` equal to T, the process is unchanged.

        Raises
        ------
        ConfigError
            If `sampling_steps` is not between 1 and T.
        """
        if not 1 <= sampling_steps <= self.steps:
            raise ConfigError(
                f"sampling.sampling_steps: {sampling_steps} is not between 1 and the "
                f"{self.steps} steps the model was trained with; lower it or leave "
                "it out."
            )
        if sampling_steps == self.steps:
            return self
        kept = _trailing(self.steps, sampling_steps)
        alpha_bar = self.alpha_bar[kept]
        spaced = object.__new__(Diffusion)
        spaced.schedule = self.schedule
        spaced._set_process(
            1 - alpha_bar / _previous(alpha_bar), alpha_bar, self.timesteps[kept]
        )
        return spaced

    def add_noise(
        self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor | int
    ) -> torch.Tensor:
        """Draw from q(x_t | x_0): equation (3.6), Ho et al. 2020 (4).

        Parameters
        ----------
        x0
            Images (N,C,H,W) in [-1, 1].
        noise
            Standard normal, shaped as `x0`.
        t
            Step of each image, 0 to T-1: shape (N,), or one number for all.

        Returns
        -------
        torch.Tensor
            x_t, shape and dtype of `x0`.
        """
        signal = self._at("signal", t, x0)
        return signal * x0 + self._at("noise", t, x0) * noise

    def predict_x0(
        self, model_output: torch.Tensor, t: torch.Tensor | int, x_t: torch.Tensor
    ) -> torch.Tensor:
        """Solve (3.6) for x_0 given the predicted noise, clipped to [-1, 1].

        Ho et al. 2020, equation (15). Shapes as in `step`.
        """
        noise = self._at("noise", t, x_t) * model_output.to(x_t.dtype)
        return ((x_t - noise) / self._at("signal", t, x_t)).clamp(-1, 1)

    def step(
        self,
        model_output: torch.Tensor,
        t: torch.Tensor | int,
        x_t: torch.Tensor,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw x_{t-1} from p(x_{t-1} | x_t): one step of ancestral sampling.

        Equation (3.7) with the posterior mean and variance of Ho et al. 2020, (6) and
        (7), at the clipped x_0; that is diffusers' DDPMScheduler as it comes
        (`fixed_small`, `clip_sample`). At t = 0 the result is x_0, without noise.

        Parameters
        ----------
        model_output
            Predicted noise (N,C,H,W); lower precision is converted to that of `x_t`.
        t
            Step of this process, 0 to T-1: one number, or shape (N,).
        x_t
            Noisy images (N,C,H,W).
        noise
            Standard normal, shaped as `x_t`; may be left out for t = 0 only.

        Returns
        -------
        torch.Tensor
            x_{t-1}, shape and dtype of `x_t`.
        """
        x0 = self.predict_x0(model_output, t, x_t)
        mean = self._at("mean_x0", t, x_t) * x0 + self._at("mean_xt", t, x_t) * x_t
        if _is_zero(t):
            return mean
        if noise is None:
            raise ValueError("step needs noise for every t above 0")
        return mean + self._at("deviation", t, x_t) * noise

    def ddim_step(
        self, model_output: torch.Tensor, t: torch.Tensor | int, x_t: torch.Tensor
    ) -> torch.Tensor:
        """Compute x_{t-1} without noise: DDIM, equation (12) with eta = 0.

        As diffusers' DDIMScheduler as it comes: x_0 is clipped, the predicted noise is
        not corrected for it. Shapes as in `step`; at t = 0 the result is x_0.
        """
        x0 = self.predict_x0(model_output, t, x_t)
        direction = self._at("previous_noise", t, x_t) * model_output.to(x_t.dtype)
        return self._at("previous_signal", t, x_t) * x0 + direction

    def _at(
        self, name: str, t: torch.Tensor | int, images: torch.Tensor
    ) -> torch.Tensor | float:
        """Look up a coefficient at `t`, in a form that multiplies `images`.

        One number for all stays a Python float: no transfer to the device, no wait.
        """
        if not isinstance(t, torch.Tensor) or t.ndim == 0:
            if not 0 <= int(t) < self.steps:
                raise ValueError(f"t = {int(t)} is not between 0 and {self.steps - 1}")
            return self._tables[name][int(t)].item()
        where = (name, images.dtype, t.device)
        if where not in self._moved:
            self._moved[where] = self._tables[name].to(images.dtype).to(t.device)
        values = self._moved[where][t].to(images.device)
        return values.view(-1, *[1] * (images.ndim - 1))


def _is_zero(t: torch.Tensor | int) -> bool:
    return not (isinstance(t, torch.Tensor) and t.ndim) and int(t) == 0


def _previous(alpha_bar: torch.Tensor) -> torch.Tensor:
    """Shift by one step: alpha_bar before the first step is 1."""
    return torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])


def _trailing(steps: int, kept: int) -> torch.Tensor:
    """Choose `kept` of the steps 0 to T-1, ascending, the last of them T-1."""
    return torch.tensor([round(steps * (i + 1) / kept) - 1 for i in range(kept)])


def _coefficients(alpha_bar: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tabulate what the methods of `Diffusion` multiply with, each of shape (T,)."""
    previous = _previous(alpha_bar)
    # Not 1 - beta: at t = 0 the weight of x_0 has to be 1 to the last bit.
    alpha = alpha_bar / previous
    beta = 1 - alpha
    variance = beta * (1 - previous) / (1 - alpha_bar)  # Ho et al. 2020, (7)
    return {
        "signal": alpha_bar.sqrt(),
        "noise": (1 - alpha_bar).sqrt(),
        "previous_signal": previous.sqrt(),
        "previous_noise": (1 - previous).sqrt(),
        "mean_x0": previous.sqrt() * beta / (1 - alpha_bar),
        "mean_xt": alpha.sqrt() * (1 - previous) / (1 - alpha_bar),
        "deviation": variance.sqrt(),
    }
