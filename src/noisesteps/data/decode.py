"""From the bytes of an image file to an RGB square of one size."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from noisesteps.config import Preprocess

RESIZE = (
    "stretched to the square, bilinear with antialiasing on 8-bit pixels "
    "(Pillow; equal to torchvision.transforms.Resize((size, size)) on a PIL image)"
)
MAXIMUM_BYTES = 64 << 20  # of an encoded file
MAXIMUM_PIXELS = 64_000_000  # of a decoded file, below Pillow's own warning
# Formats that Pillow decodes itself; EPS, for one, would run another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


class BadImageError(Exception):
    """A file that cannot become an image of the set; the text is the reason."""


@dataclass(frozen=True)
class Decoded:
    """One image of the set.

    Attributes
    ----------
    pixels
        uint8 (3, image_size, image_size), RGB.
    sha256
        Digest of the encoded file, in hexadecimal.
    stretched
        Whether the file's aspect ratio was not 1.
    """

    pixels: np.ndarray
    sha256: str
    stretched: bool


def decode(content: bytes, preprocess: Preprocess) -> Decoded:
    """Decode, orient, flatten and resize one encoded image.

    The EXIF orientation is applied, transparency is composited on
    `preprocess.background`, and everything becomes 8-bit RGB before it is resized as
    `RESIZE` says. Colour profiles are not applied. JPEGs are decoded in full: a
    reduced-scale (draft) decode would be faster but gives other pixels.

    Raises
    ------
    BadImageError
        If the bytes are not a whole, sane image of at least `minimum_size` pixels.
    """
    if len(content) > MAXIMUM_BYTES:
        raise BadImageError(f"larger than {MAXIMUM_BYTES >> 20} MiB")
    try:
        image = _open(content, preprocess.minimum_size)
        size = image.size
        flat = _flatten(image, tuple(preprocess.background))
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("not an image") from error
    except Exception as error:  # decoders fail in too many ways on damaged files
        raise BadImageError(f"damaged ({_brief(error)})") from error
    side = preprocess.image_size
    square = flat.resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
    return Decoded(pixels, hashlib.sha256(content).hexdigest(), size[0] != size[1])


def _open(content: bytes, minimum_size: int) -> Image.Image:
    """Decode the file, having checked the size that its header states."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"more than {MAXIMUM_PIXELS:,} pixels") from error
    width, height = image.size
    if width * height > MAXIMUM_PIXELS:
        raise BadImageError(f"{width}x{height}: more than {MAXIMUM_PIXELS:,} pixels")
    if min(width, height) < minimum_size:
        raise BadImageError(
            f"{width}x{height}: a side is below minimum_size {minimum_size}"
        )
    image.load()
    return ImageOps.exif_transpose(image)


def _flatten(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """Convert any mode to RGB, transparent pixels showing the background."""
    if image.mode.startswith("I"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose range is not known")
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
