"""Depth maps: files, pictures, and the mean depth of a box.

A map is `(H, W) float32`, 0 = nearest pixel of the image, 1 = farthest: 1 minus the min-max normalised inverse
depth of Depth Anything V2. It is kept losslessly as a 16-bit grey PNG (0 = nearest); the Spectral_r picture that
models are shown has 256 colours and is rendered from it (red = near, violet = far, as in the release).

The release read grey maps with the opposite sign of coloured ones (PAPER.md R4.2); here the polarity of a
grey map is an argument.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sifthinker.core.errors import UserError
from sifthinker.core.records import Box, Region

Map = NDArray[np.float32]
Polarity = Literal["near_dark", "near_bright"]

# ColorBrewer's Spectral, far to near, as matplotlib interpolates it to 256 colours. Written out because importing
# matplotlib costs more than decoding a map; a test holds it against matplotlib.
_SPECTRAL_R = (
    (94, 79, 162),
    (50, 136, 189),
    (102, 194, 165),
    (171, 221, 164),
    (230, 245, 152),
    (255, 255, 191),
    (254, 224, 139),
    (253, 174, 97),
    (244, 109, 67),
    (213, 62, 79),
    (158, 1, 66),
)


def decode_bytes(
    data: bytes, polarity: Polarity = "near_dark", nearest: bool = False, name: str = "depth map"
) -> Map:
    """The map of a picture: 16-bit grey, 8-bit grey (also as three equal channels) or Spectral_r coloured.

    Args:
        data: of a PNG or JPEG file.
        polarity: of a grey picture: "near_dark" (ours: 0 = nearest) or "near_bright" (a plain picture of inverse
            depth). Coloured ones need none: red is near.
        nearest: take the nearest of the 256 colours for pixels of other colours instead of refusing them.
        name: stands for the picture in errors.

    Returns:
        (H, W) float32, 0 = nearest, 1 = farthest.

    Raises:
        UserError: `data` is no picture, or has colours that are not Spectral_r's.
    """
    try:
        # Other formats start other programs (EPS) or hold values that are no depth (float TIFF).
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            plain = image.mode in ("I;16", "L", "RGB")
            pixels = np.asarray(image if plain else image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise all sorts on broken and hostile bytes
        what = type(error).__name__
        raise UserError(
            f"{name}: not a readable picture, PNG or JPEG ({what}, {len(data)} bytes); make the depth map again"
        ) from error
    if pixels.ndim == 2:
        largest = 255 if pixels.dtype == np.uint8 else 65535
        return _grey(pixels, largest, polarity)
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2]):
        return _grey(pixels[..., 0], 255, polarity)
    return _coloured(pixels, nearest, name)


def encode(depth: Map) -> bytes:
    """A map as a 16-bit grey PNG, 0 = nearest; `decode_bytes` reads it back to within 1 / 131,070.

    Args:
        depth: (H, W), 0 = nearest, 1 = farthest.

    Raises:
        ValueError: a value is outside 0..1 or not a number.
    """
    values = np.rint(_checked(depth).astype(np.float64) * 65535).astype(np.uint16)
    return _png(Image.fromarray(values), level=3)  # 6 takes twice the time and saves 3 parts in a hundred


def render(depth: Map) -> Image.Image:
    """A map as the Spectral_r picture that models are shown: RGB, H x W pixels, red = near.

    To the nearest of the 256 colours; the release truncates (PAPER.md R4.1).

    Args:
        depth: (H, W), 0 = nearest, 1 = farthest.

    Raises:
        ValueError: a value is outside 0..1 or not a number.
    """
    return _paletted(depth).convert("RGB")


def picture(depth: Map) -> bytes:
    """`render` as a PNG with a palette: the same colours in two thirds of the bytes and a fifth of the time.

    Raises:
        ValueError: a value is outside 0..1 or not a number.
    """
    return _png(_paletted(depth), level=6)


@cache
def palette() -> NDArray[np.uint8]:
    """Spectral_r, (256, 3) RGB: row 0 is the farthest depth, row 255 the nearest."""
    anchors = np.array(_SPECTRAL_R)
    place = np.arange(256) * (len(anchors) - 1)  # in 255ths of the way from one anchor to the next
    left = np.minimum(place // 255, len(anchors) - 2)
    way = (place - left * 255)[:, None]
    # In whole numbers, truncated: the release's uint8(255 * colour), without rounding errors to copy.
    table: NDArray[np.uint8] = (anchors[left] + (anchors[left + 1] - anchors[left]) * way // 255).astype(
        np.uint8
    )
    table.flags.writeable = False
    return table


def normalise(disparity: NDArray[np.floating]) -> Map:
    """The map of an inverse depth of any scale: 1 - (d - min) / (max - min) (PAPER.md F4.1 and R4.1).

    A constant inverse depth tells nothing: the whole map is 0.0.

    Args:
        disparity: (H, W), larger = nearer, in any unit.

    Returns:
        (H, W) float32, 0 = nearest pixel of this image, 1 = farthest.

    Raises:
        ValueError: a value is not finite.
    """
    values = np.asarray(disparity, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the inverse depth holds values that are not finite")
    if low == high:
        return np.zeros(values.shape, dtype=np.float32)
    return ((high - values) / (high - low)).astype(np.float32)


def box_depth(depth: Map, box: Sequence[float]) -> float:
    """Mean depth of a box, over rows floor(y1*H):ceil(y2*H) and columns floor(x1*W):ceil(x2*W) (PAPER.md R4.3).

    Args:
        depth: (H, W), 0 = nearest, 1 = farthest.
        box: (x1, y1, x2, y2) in 0..1 of the image; what lies outside is not counted.

    Returns:
        The mean, 0..1, not rounded.

    Raises:
        ValueError: the box holds no pixel.
    """
    top, bottom, left, right = _pixels(box, depth.shape[0], depth.shape[1])
    return float(depth[top:bottom, left:right].mean(dtype=np.float64))


def regions(steps: Sequence[Sequence[Box]], depth: Map) -> tuple[tuple[Region, ...], ...]:
    """The boxes of a chain with their mean depths.

    Args:
        steps: boxes of each area, in 0..1 of the image.
        depth: (H, W), 0 = nearest, 1 = farthest.

    Returns:
        The regions of each area; their depths have 3 decimals.

    Raises:
        ValueError: a box holds no pixel.
    """
    return tuple(tuple(Region(box, round(box_depth(depth, box), 3)) for box in step) for step in steps)


class SummedArea:
    """Sums of a map over all rectangles from its corner: many boxes of one map at four look-ups a box."""

    def __init__(self, depth: Map) -> None:
        """Sums up `depth`, (H, W), 0 = nearest, 1 = farthest, in O(H W)."""
        height, width = depth.shape
        self._sums = np.zeros((height + 1, width + 1), dtype=np.float64)
        inside = self._sums[1:, 1:]
        np.cumsum(depth, axis=1, dtype=np.float64, out=inside)
        for row in range(1, height):  # cumsum down the columns takes three times as long
            inside[row] += inside[row - 1]

    def mean(self, box: Sequence[float]) -> float:
        """`box_depth` of the map, to 1e-6.

        Args:
            box: (x1, y1, x2, y2) in 0..1 of the image.

        Raises:
            ValueError: the box holds no pixel.
        """
        height, width = self._sums.shape
        top, bottom, left, right = _pixels(box, height - 1, width - 1)
        sums = self._sums
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return float(inside) / ((bottom - top) * (right - left))


def _pixels(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """First and end row, first and end column of a box in 0..1."""
    top, bottom = max(0, math.floor(box[1] * height)), min(height, math.ceil(box[3] * height))
    left, right = max(0, math.floor(box[0] * width)), min(width, math.ceil(box[2] * width))
    if top >= bottom or left >= right:
        raise ValueError(f"box {list(box)} holds no pixel of a map of {width} x {height}")
    return top, bottom, left, right


def _checked(depth: Map) -> Map:
    if not bool(((depth >= 0) & (depth <= 1)).all()):
        raise ValueError("a depth map holds values outside 0..1 or not a number")
    return depth


def _grey(pixels: NDArray[np.generic], largest: int, polarity: Polarity) -> Map:
    values = pixels.astype(np.float32) / np.float32(largest)
    return values if polarity == "near_dark" else 1 - values


def _coloured(pixels: NDArray[np.uint8], nearest: bool, name: str) -> Map:
    """The map of Spectral_r colours, (H, W, 3)."""
    table = _packed(palette())
    order = np.argsort(table)
    packed = _packed(pixels)
    index = order[np.searchsorted(table, packed, sorter=order).clip(max=255)]
    foreign = table[index] != packed
    if foreign.any():
        if not nearest:
            raise UserError(
                f"{name}: {int(foreign.sum())} of {foreign.size} pixels have colours that are not Spectral_r's, "
                "so their depth is unknown; was it saved as JPEG, resized, or coloured with another palette?"
            )
        others, inverse = np.unique(pixels[foreign], axis=0, return_inverse=True)
        distances = ((others[:, None].astype(np.int64) - palette().astype(np.int64)) ** 2).sum(axis=2)
        index[foreign] = distances.argmin(axis=1)[inverse]
    depth: Map = (1 - index / 255).astype(np.float32)
    return depth


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """RGB in the last axis as one number each."""
    wide = colours.astype(np.int64)
    packed: NDArray[np.int64] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def _paletted(depth: Map) -> Image.Image:
    """The indices in `palette` that a map has, with that palette."""
    image = Image.fromarray(np.rint((1 - _checked(depth)) * 255).astype(np.uint8))
    image.putpalette(palette().tobytes())
    return image


def _png(image: Image.Image, level: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()
