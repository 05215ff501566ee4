"""Drawings of flowers and butterflies: data sets that need no download.

Shapes are bold and few, so that they are recognisable at 16x16 pixels and a small
network learns them in some hundred updates. Both sorts share their palettes, so that
telling them apart takes the shape and not the mean colour.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    Colour = tuple[int, int, int]
    Point = tuple[float, float]

SUPERSAMPLING = 4  # drawn this many times larger, then averaged
HUES = (0.0, 0.08, 0.62, 0.77, 0.9)  # red, orange, blue, violet, pink
BACKGROUND_HUES = (0.13, 0.28, 0.55)  # cream, leaf, sky
GREEN, BROWN = (58, 132, 52), (62, 42, 38)


class _Canvas:
    """A square to draw on, in units of its side; y points down."""

    def __init__(self, image_size: int, background: Colour):
        self.image_size = image_size
        self.side = image_size * SUPERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side), background)
        self.pen = ImageDraw.Draw(self.image)

    def ellipse(
        self, centre: Point, radii: Point, colour: Colour, angle: float = 0.0
    ) -> None:
        """Fill an ellipse whose first radius points along `angle` (radians)."""
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        local = np.stack([radii[0] * np.cos(turns), radii[1] * np.sin(turns)], axis=1)
        points = np.asarray(centre) + local @ _rotation(angle)
        self.pen.polygon(self._pixels(points), fill=colour)

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        points = self._pixels(np.array([start, end]))
        self.pen.line(points, fill=colour, width=max(1, round(width * self.side)))

    def _pixels(self, points: np.ndarray) -> list[Point]:
        return [tuple(point) for point in points * self.side]

    def pixels(self) -> np.ndarray:
        """Return uint8 (3, image_size, image_size), averaged over the finer grid."""
        return np.asarray(self.image.reduce(SUPERSAMPLING)).transpose(2, 0, 1)


def _rotation(angle: float) -> np.ndarray:
    """Return the matrix that turns row vectors by `angle`."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]])


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    channels = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
    return tuple(round(255 * channel) for channel in channels)


def _background(generator: np.random.Generator) -> Colour:
    hue = BACKGROUND_HUES[generator.integers(len(BACKGROUND_HUES))]
    return _colour(hue, generator.uniform(0.8, 0.96), 0.5)


def _two_colours(generator: np.random.Generator) -> tuple[Colour, Colour]:
    """Draw a strong main colour and a light one beside it."""
    hue = HUES[generator.integers(len(HUES))] + generator.uniform(-0.02, 0.02)
    main = _colour(hue, generator.uniform(0.46, 0.56), 0.85)
    return main, _colour(0.14, generator.uniform(0.55, 0.7), 0.95)


def draw_flower(generator: np.random.Generator, image_size: int) -> np.ndarray:
    """Draw petals around a disc, on a stem with one leaf.

    Returns
    -------
    numpy.ndarray
        uint8 (3, image_size, image_size), RGB.
    """
    canvas = _Canvas(image_size, _background(generator))
    petal_colour, disc_colour = _two_colours(generator)
    centre = np.array([0.5, 0.4]) + generator.uniform(-0.04, 0.04, size=2)
    reach = generator.uniform(0.32, 0.4)
    _draw_stem(canvas, generator, centre)
    petals = int(generator.choice([5, 6]))
    turn = generator.uniform(0, 2 * np.pi / petals)
    for angle in turn + np.arange(petals) * 2 * np.pi / petals:
        middle = centre + 0.6 * reach * np.array([np.cos(angle), np.sin(angle)])
        radii = (0.44 * reach, (1.62 / petals) * reach)
        canvas.ellipse(middle, radii, petal_colour, angle)
    canvas.ellipse(centre, (0.32 * reach, 0.32 * reach), disc_colour)
    return canvas.pixels()


def _draw_stem(
    canvas: _Canvas, generator: np.random.Generator, centre: np.ndarray
) -> None:
    foot = np.array([0.5 + generator.uniform(-0.06, 0.06), 1.02])
    canvas.line(centre, foot, 0.07, GREEN)
    side = generator.choice([-1, 1])
    leaf = centre + 0.72 * (foot - centre) + np.array([0.13 * side, -0.02])
    canvas.ellipse(leaf, (0.14, 0.06), GREEN, -0.5 * side)


def draw_butterfly(generator: np.random.Generator, image_size: int) -> np.ndarray:
    """Draw two symmetric pairs of wings, a body and antennae.

    Returns
    -------
    numpy.ndarray
        uint8 (3, image_size, image_size), RGB.
    """
    canvas = _Canvas(image_size, _background(generator))
    wing_colour, spot_colour = _two_colours(generator)
    centre = np.array([0.5, 0.52]) + generator.uniform(-0.03, 0.03, size=2)
    scale = generator.uniform(0.84, 1.02)
    tilt = generator.uniform(-0.22, 0.22)
    spread = generator.uniform(0.85, 1.08)

    def place(x: float, y: float) -> np.ndarray:
        return centre + scale * (np.array([x, y]) @ _rotation(tilt))

    def both_sides(
        x: float, y: float, radii: Point, angle: float, colour: Colour
    ) -> None:
        size = (scale * radii[0], scale * radii[1])
        for side in (-1, 1):
            canvas.ellipse(place(side * x, y), size, colour, side * angle + tilt)

    both_sides(0.18 * spread, 0.17, (0.19, 0.13), 0.75, wing_colour)
    both_sides(0.24 * spread, -0.14, (0.27, 0.15), -0.65, wing_colour)
    both_sides(0.29 * spread, -0.18, (0.08, 0.07), -0.65, spot_colour)
    for side in (-1, 1):
        canvas.line(place(0, -0.2), place(0.12 * side, -0.44), 0.025, BROWN)
    canvas.ellipse(place(0, 0.0), (scale * 0.05, scale * 0.29), BROWN, tilt)
    return canvas.pixels()


DRAWINGS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "toy_flowers": draw_flower,
    "toy_butterflies": draw_butterfly,
}
