"""Decoding one image: orientation, modes, transparency, resizing, hostile files."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noisesteps.config import Preprocess
from noisesteps.data import decode as decoder
from noisesteps.data.decode import BadImageError, decode

SMALL = Preprocess(image_size=16, background=[10, 200, 30])


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int) -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def colour(content: bytes, preprocess: Preprocess = SMALL) -> list[int]:
    """Return the colour of an image that has one only."""
    pixels = decode(content, preprocess).pixels
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8
    assert (pixels == pixels[:, :1, :1]).all()
    return pixels[:, 0, 0].tolist()


@pytest.mark.parametrize("size", [(40, 40), (50, 30), (16, 16), (9, 70)])
def test_resize_is_torchvisions(size):
    from torchvision.transforms import Resize

    image = noise(*size)
    decoded = decode(encoded(image), SMALL)
    expected = np.asarray(Resize((16, 16))(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.stretched == (size[0] != size[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = noise(16, 16)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, exif=exif), SMALL)
    np.testing.assert_array_equal(
        decoded.pixels, np.asarray(upright).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_the_background(mode):
    clear, solid = (Image.new(mode, (16, 16)) for _ in range(2))
    solid.paste((77, 77, 77, 255) if mode == "RGBA" else (77, 255), (0, 0, 16, 16))
    assert colour(encoded(clear)) == [10, 200, 30]
    assert colour(encoded(solid)) == [77, 77, 77]


def test_half_transparency_is_mixed():
    half = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 128)))
    expected = 128 / 255 * np.array([255, 0, 0]) + 127 / 255 * np.array([10, 200, 30])
    np.testing.assert_allclose(colour(half), expected, atol=1)


def test_transparent_colours_of_palettes_grey_and_rgb():
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 255, 255, 0])
    assert colour(encoded(palette)) == [255, 255, 0]
    assert colour(encoded(palette, transparency=1)) == [10, 200, 30]
    assert colour(encoded(palette, "GIF", transparency=1)) == [10, 200, 30]
    assert colour(encoded(Image.new("L", (16, 16), 9), transparency=9)) == [10, 200, 30]
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    assert colour(encoded(red, transparency=(255, 0, 0))) == [10, 200, 30]


def test_background_does_not_bleed_from_hidden_colours():
    """Red under full transparency must not appear at the edge when resized."""
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 33, 64))
    white = Preprocess(image_size=16)
    red, green, blue = decode(encoded(image), white).pixels
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)


def test_cmyk_grey_and_bilevel():
    cyan = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)
    np.testing.assert_allclose(colour(cyan), [0, 255, 255], atol=3)
    assert colour(encoded(Image.new("L", (16, 16), 90))) == [90] * 3
    assert colour(encoded(Image.new("1", (16, 16), 1))) == [255] * 3


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (32896, 128), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind, value, expected):
    image = Image.fromarray(np.full((16, 16), value, np.uint16))
    assert colour(encoded(image, kind)) == [expected] * 3


def refused(content: bytes, preprocess: Preprocess = SMALL) -> str:
    with pytest.raises(BadImageError) as error:
        decode(content, preprocess)
    return str(error.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused(kind):
    content = encoded(noise(64, 64), kind)
    assert refused(content[: len(content) // 2])
    assert decode(content, SMALL).pixels.any()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"<html></html>", b"\x00" * 500, b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)
def test_what_is_no_image_is_refused(content):
    assert refused(content) == "not an image"


def test_what_another_program_would_draw_is_refused():
    """Pillow gives EPS to Ghostscript, which runs it."""
    assert refused(encoded(noise(16, 16), "EPS")) == "not an image"


def test_a_large_file_is_refused_before_it_is_opened(monkeypatch):
    content = encoded(noise(16, 16))
    monkeypatch.setattr(decoder, "MAXIMUM_BYTES", len(content) - 1)
    assert "larger than" in refused(content)


def test_small_images_are_refused_by_their_shorter_side():
    content = encoded(noise(40, 19))
    assert "19x40" in refused(content, Preprocess(image_size=16, minimum_size=20))
    decode(content, Preprocess(image_size=16, minimum_size=19))


def bomb(width: int, height: int) -> bytes:
    """Make a small PNG whose header promises a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 9_500, 60_000])
def test_bombs_are_refused_before_they_are_decoded(side):
    assert "pixels" in refused(bomb(side, side))


def test_float_pixels_are_refused():
    image = Image.fromarray(np.ones((16, 16), np.float32))
    assert "range is not known" in refused(encoded(image, "TIFF"))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_ends_in_an_image_or_a_reason(data):
    """Whatever bytes are changed or cut, nothing but BadImageError comes out."""
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF"]))
    content = bytearray(encoded(noise(20, 24), kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert decode(content, SMALL).pixels.shape == (3, 16, 16)
    except BadImageError as error:
        assert str(error) and "\n" not in str(error)
