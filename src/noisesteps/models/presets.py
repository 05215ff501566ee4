"""Named sizes of the U-Net."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """The shape of a U-Net; one entry a level, from the image size downwards.

    Attributes
    ----------
    block_out_channels
        Channels of each level; the resolution halves from one to the next.
    layers_per_block
        Residual blocks of a level on the way down; one more on the way up.
    attention
        Which levels have self-attention, down and up; the middle always has it.
    norm_num_groups
        Groups of every group normalisation.
    """

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    attention: tuple[bool, ...]
    norm_num_groups: int


PRESETS: dict[str, Architecture] = {
    # 113,673,219 parameters: the dissertation's network, for 128x128 images.
    "ddpm-113m": Architecture(
        (128, 128, 256, 256, 512, 512),
        2,
        (False, False, False, False, True, False),
        32,
    ),
    # 2,539,571 parameters, for 32x32 images on a CPU.
    "small-32": Architecture((16, 32, 64, 128), 1, (False, False, True, False), 8),
    # 205,027 parameters, for 16x16 images on a CPU.
    "toy-16": Architecture((16, 16, 32), 1, (False, False, True), 2),
    # 45,259 parameters, for tests at 8x8.
    "tiny": Architecture((8, 16), 1, (False, True), 4),
}
