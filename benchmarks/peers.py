"""The peers' side, as their own examples train and sample.

diffusers: `examples/unconditional_image_generation/train_unconditional.py` and
`DDPMPipeline`. denoising-diffusion-pytorch: its `Trainer` and `p_sample`. What only
costs them time is left out: progress bars, logging, moving averages (off in ours too),
and decoding, since their images wait in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.settings import (
    GRADIENT_CLIP,
    LEARNING_RATE,
    SEED,
    STEPS,
    Settings,
)
from benchmarks.timing import Work
from noisesteps.devices import DTYPES

# Else it says at every cast to bf16 that no module is exempt from it.
diffusers_logging.set_verbosity_error()
UPDATES = 100_000  # that the learning rate's schedule is stretched over


class Pictures(Dataset):
    """PIL images in memory, through the transforms of the examples."""

    def __init__(self, settings: Settings, *last: Callable):
        self.images = [
            Image.fromarray(image.transpose(1, 2, 0)) for image in settings.images()
        ]
        size = settings.image_size
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.CenterCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                *last,
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.images[index])


def _forever(settings: Settings, *last: Callable) -> Iterator[torch.Tensor]:
    """Yield batches of the images, epoch after epoch."""
    loader = DataLoader(
        Pictures(settings, *last), settings.batch, shuffle=True, drop_last=True
    )
    while True:
        for batch in loader:
            yield batch.to(settings.on)


class Descent:
    """Backward pass, clipped gradients and a step; loss scaling where it is fp16."""

    def __init__(
        self,
        settings: Settings,
        precision: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
    ):
        self.network, self.optimizer = network, optimizer
        kind, dtype = settings.on.type, DTYPES[precision]
        self.autocast = torch.autocast(kind, dtype, enabled=precision != "fp32")
        self.scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")

    def __call__(self, loss: torch.Tensor) -> float:
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.item()


def diffusers_network(settings: Settings) -> UNet2DModel:
    return UNet2DModel(**settings.network().diffusers_config()).to(settings.on)


def diffusers_training_step(settings: Settings, precision: str) -> Work:
    """One update of the unconditional example, on the same network as ours."""
    torch.manual_seed(SEED)
    network = diffusers_network(settings).train()
    scheduler = DDPMScheduler(num_train_timesteps=STEPS)
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, betas=(0.95, 0.999), weight_decay=1e-6
    )
    rate = get_scheduler(
        "cosine", optimizer, num_warmup_steps=500, num_training_steps=UPDATES
    )
    batches = _forever(settings, transforms.Normalize([0.5], [0.5]))
    descend = Descent(settings, precision, network, optimizer)

    def step() -> None:
        clean = next(batches)
        noise = torch.randn(clean.shape, device=clean.device)
        times = torch.randint(0, STEPS, (len(clean),), device=clean.device)
        noisy = scheduler.add_noise(clean, noise, times)
        with descend.autocast:
            predicted = network(noisy, times).sample
        descend(F.mse_loss(predicted.float(), noise))
        rate.step()

    return Work(step, device=settings.on)


def diffusers_sampling_steps(
    settings: Settings, precision: str, batch: int, steps: int
) -> Work:
    """Sample with `DDPMPipeline`, whose weights are of the precision."""
    torch.manual_seed(SEED)
    network = diffusers_network(settings).to(DTYPES[precision]).eval()
    pipeline = DDPMPipeline(network, DDPMScheduler(num_train_timesteps=STEPS))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(settings.on).manual_seed(SEED)

    def sample() -> None:
        # Not "np": NumPy has no bfloat16.
        images = pipeline(batch, generator, steps, output_type="pt").images
        images.float().cpu().numpy()

    return Work(sample, steps, device=settings.on)


def lucidrains_network(settings: Settings, device: str | None = None) -> Unet:
    """Return the U-Net, of widths 1:2:4:8, whose parameter count is nearest to ours."""
    wanted = settings.network().parameter_count

    def distance(width: int) -> int:
        with torch.device("meta"):
            network = Unet(width)
        return abs(sum(weight.numel() for weight in network.parameters()) - wanted)

    width = min(range(8, 168, 8), key=distance)
    with torch.device(device or settings.device):
        return Unet(width)


def _lucidrains(settings: Settings) -> GaussianDiffusion:
    torch.manual_seed(SEED)
    return GaussianDiffusion(
        lucidrains_network(settings),
        image_size=settings.image_size,
        timesteps=STEPS,
        objective="pred_noise",
        beta_schedule="linear",
    ).to(settings.on)


def lucidrains_training_step(settings: Settings, precision: str) -> Work:
    """One update of denoising-diffusion-pytorch's `Trainer`."""
    process = _lucidrains(settings).train()
    optimizer = torch.optim.Adam(process.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    batches = _forever(settings)
    descend = Descent(settings, precision, process, optimizer)

    def step() -> None:
        with descend.autocast:
            loss = process(next(batches))
        descend(loss)

    return Work(step, device=settings.on)


def lucidrains_sampling_steps(
    settings: Settings, precision: str, batch: int, steps: int
) -> Work:
    """Take `steps` steps of `p_sample`, spread over T, under autocast."""
    process = _lucidrains(settings).eval()
    dtype = DTYPES[precision]
    shape = (batch, 3, settings.image_size, settings.image_size)
    times = [STEPS * step // steps for step in reversed(range(steps))]

    def sample() -> None:
        x = torch.randn(shape, device=settings.on)
        with torch.autocast(settings.on.type, dtype, enabled=precision != "fp32"):
            for t in times:
                x, _ = process.p_sample(x, t)
        process.unnormalize(x).cpu().numpy()

    return Work(sample, steps, device=settings.on)
