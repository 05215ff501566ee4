"""Archives that attack who reads them, made in a second whatever they unpack to.

Written by hand where the libraries would not write them: sizes that lie, 10 GB of zeros
as one block of deflate again and again, a million members.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

from PIL import Image

STORED, DEFLATED = 0, 8
TEN_GB = 10 * 10**9
BLOCK = 16 << 20


def picture(value: int, kind: str = "PNG") -> bytes:
    """Encode a grey square of 16 pixels a side; each value gives other bytes."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value,) * 3).save(file, kind)
    return file.getvalue()


def deflated_zeros(size: int) -> bytes:
    """Return a raw deflate stream of at least `size` zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(bytes(BLOCK))
    packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * -(-size // BLOCK) + packer.flush()


def gzipped(start: bytes, zeros: int) -> bytes:
    """Return a gzip file of `start` and then at least so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return header + head + deflated_zeros(zeros) + bytes(8)


def write_zip(
    path: Path,
    members: list[tuple[str, int, int, bytes]],
    *,
    copies: int = 1,
    stated: int | None = None,
) -> None:
    """Write a zip of (name, method, stated size, packed bytes).

    Parameters
    ----------
    path
        The archive.
    members
        Its members; the checksum of packed ones is 0.
    copies
        How often the listing names them.
    stated
        How many members its end states; None: as many as there are.
    """
    body, listing = bytearray(), bytearray()
    for name, method, size, packed in members:
        crc = zlib.crc32(packed) if method == STORED else 0
        fields = (method, 0, 0, crc, len(packed), size, len(name.encode()), 0)
        start = len(body)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, *fields)
        body += name.encode() + packed
        listing += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", 20, 20, 0, *fields, 0, 0, 0, 0, start),
        )
        listing += name.encode()
    listing *= copies
    count = len(members) * copies if stated is None else stated
    record = struct.pack(
        "<4sQ2H2L4Q",
        *(b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(listing), len(body)),
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(listing), 1)
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0
    )
    path.write_bytes(bytes(body) + bytes(listing) + record + locator + end)


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a member whose content does not follow."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def many_members(count: int) -> bytes:
    """Return a gzipped tar of so many empty folders."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    thousand = tar_header("jpg/", 0, tarfile.DIRTYPE) * 1000
    packer.compress(thousand)
    packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(thousand) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * (count // 1000) + packer.flush()


def huge(kind: str, side: int = 60_000) -> bytes:
    """Return a small image file whose header states `side` x `side` pixels."""
    content = bytearray(picture(7, kind))
    match kind:
        case "PNG":
            content[16:24] = struct.pack(">2L", side, side)
            content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
        case "JPEG":
            start = content.index(b"\xff\xc0") + 5
            content[start : start + 4] = struct.pack(">2H", side, side)
        case "GIF":
            content[6:10] = struct.pack("<2H", side, side)
        case "BMP":
            content[18:26] = struct.pack("<2l", side, side)
        case "PPM":
            content = bytearray(f"P6 {side} {side} 255\n".encode())
        case "TIFF":
            for tag in (256, 257):  # width and length, as one long each
                start = content.index(struct.pack("<2HL", tag, 4, 1))
                content[start + 8 : start + 12] = struct.pack("<L", side)
        case "JPEG2000":
            start = content.index(b"ihdr") + 4
            content[start : start + 8] = struct.pack(">2L", side, side)
            start = content.index(b"\xff\x51") + 6
            content[start : start + 8] = struct.pack(">2L", side, side)
    return bytes(content)
