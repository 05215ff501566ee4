"""A run as a pipeline folder of diffusers, written without diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from noisesteps.diffusion import Diffusion
from noisesteps.export.folder import new_folder
from noisesteps.files import write_json, write_text
from noisesteps.models import UNet, save_model
from noisesteps.seeds import derive

CARD = "card.md.j2"
# How many of the run's images the card's example makes again.
EXAMPLES = 4
SCHEDULERS = {"ancestral": "DDPMScheduler", "ddim": "DDIMScheduler"}


def write_pipeline(
    output: str | Path,
    network: UNet,
    diffusion: Diffusion,
    *,
    model: dict,
    sample: dict,
    provenance: dict,
) -> None:
    """Write a run as a folder that `DDPMPipeline.from_pretrained` loads.

    Given the run's noise, the pipeline makes the run's images. `README.md` is the
    model card, with an example that does so; `provenance.json` holds the records.

    Parameters
    ----------
    output
        A folder that does not exist or is empty.
    network
        The trained U-Net.
    diffusion
        The process that it was trained with.
    model, sample
        The run's `model.json` and `sample.json`.
    provenance
        The record of this export.

    Raises
    ------
    StageError
        If something is in `output`.
    """
    scheduler = scheduler_config(diffusion, sample["method"])
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    unet = {"_class_name": "UNet2DModel", **network.diffusers_config()}
    with new_folder(output) as folder:
        write_json(folder / "model_index.json", index)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        write_json(folder / "unet" / "config.json", unet)
        save_model(folder / "unet" / "diffusion_pytorch_model.safetensors", network)
        write_text(folder / "README.md", model_card(model, sample))
        record = {"model": model, "sample": sample, "provenance": provenance}
        write_json(folder / "provenance.json", record)


def scheduler_config(diffusion: Diffusion, method: str) -> dict[str, Any]:
    """Return the arguments that make diffusers' scheduler this process.

    The betas are written out, since diffusers has no name for `linear_scaled`, and its
    names say nothing of T. "trailing" spacing visits every step when asked for T, and
    the steps of `Diffusion.respaced` when asked for a divisor of T.

    Parameters
    ----------
    diffusion
        The process that the network was trained with, not respaced.
    method
        `ancestral` or `ddim`.
    """
    own = {
        "ancestral": {"variance_type": "fixed_small"},
        "ddim": {"set_alpha_to_one": True},
    }
    return {
        "_class_name": SCHEDULERS[method],
        "num_train_timesteps": diffusion.steps,
        "trained_betas": diffusion.betas.tolist(),
        "prediction_type": "epsilon",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",
        **own[method],
    }


def model_card(model: dict, sample: dict) -> str:
    """Describe a run in Markdown, from its records alone."""
    run = (sample["dataset"], sample["schedule"], sample["steps"])
    key = (sample["provenance"]["settings"]["seed"], "sample", *run)
    count = min(EXAMPLES, sample["images"])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(CARD).render(
        model=model,
        sample=sample,
        seeds=[derive(*key, index) for index in range(count)],
        # Else diffusers may round to other steps than `Diffusion.respaced`.
        same_steps=sample["steps"] % sample["sampling_steps"] == 0,
    )
