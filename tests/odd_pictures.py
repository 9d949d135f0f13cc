"""Picture files of every kind that users have, with the pixels that everyone should see of them (numpy's, not Pillow's)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 34, 22

# The upright picture of an EXIF orientation, from the pixels as they are stored (EXIF 2.3, tag 274).
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
ORIENTED = ("JPEG", "PNG", "WEBP", "TIFF", "TIFF-lzw", "XMP")


def stored() -> Pixels:
    """Colours without any symmetry."""
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(values).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))


def grey() -> Pixels:
    return stored()[..., 0]


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(kind: str, orientation: int, pixels: Pixels | None = None) -> tuple[bytes, Pixels]:
    """A file with an orientation, and its upright pixels."""
    image = Image.fromarray(stored() if pixels is None else pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "JPEG":
        data = saved(image, kind, quality=90, exif=exif)
    elif kind == "XMP":  # of which Pillow, and so transformers' server, reads an orientation, too
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="{orientation}"/></x:xmpmeta>'
        data = saved(image, "JPEG", quality=90, xmp=xmp.encode())
    elif kind.startswith("TIFF"):
        compression = kind.partition("-")[2]
        options = {"compression": f"tiff_{compression}"} if compression else {}
        data = saved(image, "TIFF", tiffinfo={274: orientation}, **options)
    else:
        data = saved(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    lossy = kind in ("JPEG", "XMP")
    as_stored = np.asarray(Image.open(io.BytesIO(saved(image, "JPEG", quality=90)))) if lossy else image
    return data, UPRIGHT[orientation](np.asarray(as_stored))


def _png16(channels: NDArray[np.uint16]) -> bytes:
    """A PNG with 16 bits a channel; Pillow writes none in colour."""
    height, width, count = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[count], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def hostile() -> dict[str, bytes]:
    """PNG files that take all memory, or make Pillow raise something of its own."""
    header, rest = _SIGNATURE, saved(Image.new("L", (9, 9)))[33:]
    small, large = (struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0) for side in (9, 60_000))
    text = b"k\0\0" + zlib.compress(bytes(2**24))
    return {
        "bomb": header + _chunk(b"IHDR", large) + rest,
        "text bomb": header + _chunk(b"IHDR", small) + _chunk(b"zTXt", text) + rest,
        "broken chunk": header + _chunk(b"IHDR", small) + _chunk(b"IDAT", rest[8:12]) + bytes(3) + b"\1" * 9,
    }


def modes() -> dict[str, tuple[bytes, Pixels]]:
    """Files that are not 8-bit RGB, or hold more than one picture, with the pixels that everyone should see."""
    colour, shade = stored(), grey()
    three = np.repeat(shade[..., None], 3, axis=2)
    picture, level = Image.fromarray(colour), Image.fromarray(shade)
    other = Image.fromarray(colour[::-1].copy())
    black = np.where(shade > 127, 255, 0).astype(np.uint8)
    clear = np.zeros((HEIGHT, WIDTH), bool)
    clear[5:9, 3:20] = True
    alpha = Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    on_white = np.where(clear[..., None], 255, colour).astype(np.uint8)
    high = (shade.astype(np.uint16) << 8) + 200  # of which the upper 8 bits are `shade`
    inverted = saved(
        Image.fromarray(np.uint16(65535) - high), "TIFF"
    ).replace(  # photometric 1 -> 0: white is 0
        struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0)
    )
    with_alpha, level_alpha = picture.copy(), level.copy()
    with_alpha.putalpha(alpha)
    level_alpha.putalpha(alpha)
    palette = picture.quantize(64)
    flat = np.asarray(palette.convert("RGB"))
    key = tuple(int(value) for value in colour[0, 0])
    keyed = np.where((colour == key).all(axis=2)[..., None], 255, colour).astype(np.uint8)
    shade_keyed = np.where(three == shade[0, 0], 255, three).astype(np.uint8)
    cmyk = picture.convert("CMYK")
    jpeg = np.asarray(Image.open(io.BytesIO(saved(picture, "JPEG", quality=90))))
    grey_jpeg = np.asarray(Image.open(io.BytesIO(saved(level, "JPEG", quality=90))))
    deep = (colour.astype(np.uint16) << 8) + 255
    return {
        "L": (saved(level), three),
        "L JPEG": (saved(level, "JPEG", quality=90), np.repeat(grey_jpeg[..., None], 3, axis=2)),
        "1": (saved(Image.fromarray(black).convert("1")), np.repeat(black[..., None], 3, axis=2)),
        "P": (saved(palette), flat),
        "P with a clear colour": (
            saved(palette, transparency=palette.getpixel((0, 0))),
            np.where((np.asarray(palette) == palette.getpixel((0, 0)))[..., None], 255, flat).astype(
                np.uint8
            ),
        ),
        "RGBA": (saved(with_alpha), on_white),
        "LA": (saved(level_alpha), np.where(clear[..., None], 255, three).astype(np.uint8)),
        "RGB with a clear colour": (saved(picture, transparency=key), keyed),
        "CMYK": (saved(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB"))),
        "I;16": (saved(Image.fromarray(high)), three),
        "I;16 with a clear value": (saved(Image.fromarray(high), transparency=int(high[0, 0])), shade_keyed),
        "I;16 TIFF": (saved(Image.fromarray(high), "TIFF"), three),
        "I;16 TIFF, white is 0": (inverted, three),
        "I": (b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + high.astype(">u2").tobytes(), three),
        "F": (saved(Image.fromarray(shade.astype(np.float32) / 255), "TIFF"), three),
        "RGB, 16 bits": (_png16(deep), colour),
        "RGBA, 16 bits": (
            _png16(np.dstack([deep, np.where(clear, 0, 65535).astype(np.uint16)])),
            on_white,
        ),
        "BMP": (saved(picture, "BMP"), colour),
        "PPM": (saved(picture, "PPM"), colour),
        "GIF": (saved(palette, "GIF", save_all=True, append_images=[other.quantize(64)]), flat),
        "APNG": (saved(picture, save_all=True, append_images=[other]), colour),
        "WEBP, moving": (saved(picture, "WEBP", save_all=True, append_images=[other], lossless=True), colour),
        "TIFF, two pages": (saved(picture, "TIFF", save_all=True, append_images=[other]), colour),
        "MPO": (saved(picture, "MPO", save_all=True, append_images=[other], quality=90), jpeg),
    }


MODES = modes()
