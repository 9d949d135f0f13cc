"""Depth maps by Depth Anything V2 (PAPER.md F4.1).

Input, as in the authors' code: RGB, the shorter side resized to at least `size` with the aspect kept, both sides
multiples of 14, bicubic (Pillow's), ImageNet mean and deviation. transformers' own processor departs from that for
images smaller than `size`, whose longer side it makes `size`. Output: inverse depth, brought back to the image's
size bilinearly with align_corners=True (the authors' `infer_image`; transformers' post-processing is bicubic).

An image's map does not depend on what else is estimated, in which order, or with how many workers. The last bits
of an inverse depth do depend on the shape of a forward pass and on the threads that share it, and maps are compared
by digest. Hence:

* On the CPU an image is a pass of its own on one thread, and the workers make passes side by side: the same bits
  for every `batch` and `workers`. Costs nothing; a batch of 8 was measured slower than 8 passes.
* On a GPU passes hold images of one size and are filled up to `batch` with copies: the same bits for every order,
  at the cost of the copies; another `batch`, or another GPU, may change the last bit of a 16-bit value.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sifthinker.config import Depth
from sifthinker.core import depth_maps
from sifthinker.core.errors import UserError
from sifthinker.core.images import BadImage
from sifthinker.core.images import rgb as pixels_of
from sifthinker.core.records import DepthMap, Reject

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_PATCH = 14  # pixels
_LONGEST = 8  # times the shorter side; a pass over more would not fit in memory
_WINDOW = 16  # passes that a GPU's images are sorted by size in

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image as the model takes it."""

    sha256: str
    width: int  # pixels, of the image itself
    height: int
    pixels: NDArray[np.float32]  # (3, h, w), normalised


def estimate(
    images: Iterable[tuple[str, bytes]], weights: Path, config: Depth
) -> Iterator[DepthMap | Reject]:
    """The depth map of every image, in their order.

    Args:
        images: SHA-256 and bytes of image files.
        weights: folder of a Depth Anything V2 model.
        config: the input size, and how many images are worked on at a time.

    Raises:
        UserError: the input size is no multiple of 14.
    """
    if config.size % _PATCH:
        raise UserError(f"depth.size: {config.size} is no multiple of {_PATCH}, the model's patch")
    import torch

    from sifthinker.models import loading

    model = loading.load_depth(weights)
    # Threads of ours, each with one thread inside torch: see above.
    with ThreadPoolExecutor(config.workers, "depth", torch.set_num_threads, (1,)) as pool:
        if torch.cuda.is_available():
            yield from _in_batches(images, model.to("cuda"), config, pool)
        else:
            yield from _one_by_one(images, model, config, pool)


def pictures(
    images: Iterable[tuple[str, bytes]], weights: Path, config: Depth
) -> Iterator[tuple[str, bytes]]:
    """SHA-256 and coloured depth picture (PNG) of every image; an image without a map is logged and left out."""
    for outcome in estimate(images, weights, config):
        if isinstance(outcome, Reject):
            logger.warning("no depth picture: %s: %s", outcome.reason, outcome.detail)
        else:
            yield outcome.image_sha256, depth_maps.picture(depth_maps.decode_bytes(outcome.png))


def estimator(weights: Path, config: Depth) -> Callable[[bytes], DepthMap]:
    """What estimates one image after the other with a model that stays loaded, as `estimate` does up to a GPU's last bits.

    The returned function takes the bytes of an image file, and raises `BadImage` where there is no map of it.
    """
    import torch

    from sifthinker.models import loading

    gpu = torch.cuda.is_available()
    model = loading.load_depth(weights).to("cuda" if gpu else "cpu")

    def one(image: bytes) -> DepthMap:
        made: DepthMap | Reject | _Prepared = _prepare(
            (hashlib.sha256(image).hexdigest(), image), config.size
        )
        if isinstance(made, _Prepared):
            made = _finish(made, _forward(model, [made], config.batch if gpu else 1)[0])
        if isinstance(made, Reject):
            raise BadImage(made.reason, made.detail)
        return made

    return one


def input_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of the model's input for an image: the authors' `lower_bound`, in pixels."""
    scale = max(size / width, size / height)
    return round(scale * width / _PATCH) * _PATCH, round(scale * height / _PATCH) * _PATCH


def _one_by_one(
    images: Iterable[tuple[str, bytes]], model: Any, config: Depth, pool: ThreadPoolExecutor
) -> Iterator[DepthMap | Reject]:
    def whole(image: tuple[str, bytes]) -> DepthMap | Reject:
        prepared = _prepare(image, config.size)
        if isinstance(prepared, Reject):
            return prepared
        (disparity,) = _forward(model, [prepared], 1)
        return _finish(prepared, disparity)

    return _ahead(pool, whole, images, 2 * config.workers)


def _in_batches(
    images: Iterable[tuple[str, bytes]], model: Any, config: Depth, pool: ThreadPoolExecutor
) -> Iterator[DepthMap | Reject]:
    """On a GPU: the same convolution algorithm every time, in full fp32."""
    from torch.backends import cudnn

    ahead = 2 * config.batch + config.workers
    prepared = _ahead(pool, lambda image: _prepare(image, config.size), images, ahead)
    while window := list(itertools.islice(prepared, _WINDOW * config.batch)):
        rejects = {place: item for place, item in enumerate(window) if isinstance(item, Reject)}
        by_size: dict[tuple[int, ...], list[tuple[int, _Prepared]]] = defaultdict(list)
        for place, item in enumerate(window):
            if isinstance(item, _Prepared):
                by_size[item.pixels.shape].append((place, item))
        finished: dict[int, Future[DepthMap | Reject]] = {}
        for same in by_size.values():
            for start in range(0, len(same), config.batch):
                batch = same[start : start + config.batch]
                with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                    disparities = _forward(model, [item for _, item in batch], config.batch)
                for (place, item), disparity in zip(batch, disparities, strict=True):
                    finished[place] = pool.submit(_finish, item, disparity)
        for place in range(len(window)):
            yield rejects[place] if place in rejects else finished[place].result()


def _prepare(image: tuple[str, bytes], size: int) -> _Prepared | Reject:
    sha256, data = image
    try:
        rgb = pixels_of(data, f"image {sha256}")
    except BadImage as error:
        return Reject("depth", error.reason, error.detail)
    if max(rgb.size) > _LONGEST * min(rgb.size):
        detail = f"image {sha256} has {rgb.width}x{rgb.height} pixels, one side more than {_LONGEST} times the other"
        return Reject("depth", "image-too-long", detail)
    resized = rgb.resize(input_size(rgb.width, rgb.height, size), Image.Resampling.BICUBIC)
    pixels = (np.asarray(resized, dtype=np.float32) / 255 - _MEAN) / _DEVIATION
    return _Prepared(sha256, rgb.width, rgb.height, np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _forward(model: Any, images: list[_Prepared], size: int) -> list[NDArray[np.float32]]:
    """The inverse depths of images of one input size, each (H, W) of its own image, by one pass of `size` images."""
    import torch

    filled = images + images[-1:] * (size - len(images))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([image.pixels for image in filled])).to(model.device)
        outputs: torch.Tensor = model(pixel_values=pixels).predicted_depth
        return [
            torch.nn.functional.interpolate(
                output[None, None], (image.height, image.width), mode="bilinear", align_corners=True
            )[0, 0]
            .cpu()
            .numpy()
            for image, output in zip(images, outputs, strict=False)
        ]


def _finish(image: _Prepared, disparity: NDArray[np.float32]) -> DepthMap | Reject:
    if not np.isfinite(disparity).all():
        detail = f"image {image.sha256}: the model's output is not finite; are the weights damaged?"
        return Reject("depth", "depth-not-finite", detail)
    return DepthMap(
        image.sha256, image.width, image.height, depth_maps.encode(depth_maps.normalise(disparity))
    )


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[_In], _Out], items: Iterable[_In], most: int
) -> Iterator[_Out]:
    """`map` with the pool, in order, at most `most` items ahead of what was asked for."""
    pending: deque[Future[_Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # asked for no more, or an error: do not work off the rest first
        for future in pending:
            future.cancel()
