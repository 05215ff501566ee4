"""The forward process q, its posterior, and one step back along it."""

from noisesteps.diffusion.process import Diffusion
from noisesteps.diffusion.schedules import SCHEDULES, schedule_betas

__all__ = ["SCHEDULES", "Diffusion", "schedule_betas"]
