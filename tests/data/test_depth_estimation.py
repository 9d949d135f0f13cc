"""Depth estimation with a tiny Depth Anything V2."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sifthinker.config import Depth
from sifthinker.core import depth_maps
from sifthinker.core.errors import UserError
from sifthinker.core.records import DepthMap, Reject
from sifthinker.data import depth_estimation
from sifthinker.models import loading

SIZE = 112  # pixels, shorter side of the model's input


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    loading.build_tiny_depth(0, folder)
    return folder


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> tuple[str, bytes]:
    """SHA-256 and PNG bytes of smooth noise."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="TIFF" if mode == "CMYK" else "PNG")
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


def maps(images: list[tuple[str, bytes]], weights: Path, batch: int = 8, workers: int = 2) -> list[DepthMap]:
    outcomes = list(
        depth_estimation.estimate(images, weights, Depth(size=SIZE, batch=batch, workers=workers))
    )
    assert all(isinstance(outcome, DepthMap) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, DepthMap)]


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, (924, 518)),  # the example of PAPER.md F4.1
        (518, 518, (518, 518)),
        (640, 480, (686, 518)),  # 690.7 -> 49.3 patches -> 49
        (480, 640, (518, 686)),
        (200, 100, (1036, 518)),  # smaller than the input: transformers would make it 518 x 252
    ],
)
def test_the_shorter_side_becomes_the_size_and_both_are_whole_patches(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    assert depth_estimation.input_size(width, height, 518) == expected


def test_the_map_is_that_of_a_hand_made_call_of_transformers(weights: Path) -> None:
    sha256, data = picture(224, 168)
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(weights, size={"height": SIZE, "width": SIZE})
    inputs = processor(Image.open(io.BytesIO(data)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 112, 154)
    with torch.inference_mode():
        disparity = loading.load_depth(weights)(**inputs).predicted_depth
        full = torch.nn.functional.interpolate(
            disparity[None], (168, 224), mode="bilinear", align_corners=True
        )
    values = full[0, 0].numpy()
    by_hand = 1 - (values - values.min()) / (values.max() - values.min())

    (found,) = maps([(sha256, data)], weights)
    assert (found.image_sha256, found.width, found.height) == (sha256, 224, 168)
    assert np.abs(depth_maps.decode_bytes(found.png) - by_hand).max() < 1e-4


@pytest.mark.e2e
def test_a_map_depends_neither_on_batch_nor_workers_nor_company(weights: Path) -> None:
    images = [
        picture(*size, seed=n) for n, size in enumerate([(224, 168), (168, 224), (224, 168), (90, 70)] * 2)
    ]
    alone = {sha256: maps([(sha256, data)], weights, 1, 1)[0] for sha256, data in images}
    for batch, workers in ((1, 1), (3, 2), (8, 4)):
        assert maps(images, weights, batch, workers) == [alone[sha256] for sha256, _ in images]
        assert maps(images[::-1], weights, batch, workers) == [alone[sha256] for sha256, _ in images[::-1]]


def test_a_gpu_s_batches_give_the_same_maps_whatever_the_order(weights: Path) -> None:
    images = [
        picture(*size, seed=n) for n, size in enumerate([(224, 168), (168, 224), (224, 168), (90, 70)] * 3)
    ]
    images.insert(2, ("broken", b"no picture"))
    config, model = (
        Depth(size=SIZE, batch=4),
        loading.load_depth(weights),
    )  # the batches of a GPU, run on the CPU

    def run(ordered: list[tuple[str, bytes]]) -> Iterator[DepthMap | Reject]:
        with ThreadPoolExecutor(2) as pool:
            yield from depth_estimation._in_batches(ordered, model, config, pool)

    forwards, backwards = list(run(images)), list(run(images[::-1]))
    assert forwards == backwards[::-1]
    assert isinstance(forwards[2], Reject)
    for found, alone in zip(forwards[:2], maps(images[:2], weights), strict=True):
        assert isinstance(found, DepthMap)
        assert np.abs(depth_maps.decode_bytes(found.png) - depth_maps.decode_bytes(alone.png)).max() < 1e-4


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_images_of_every_mode_have_a_map(weights: Path, mode: str) -> None:
    image = picture(60, 40, mode="L") if mode == "I;16" else picture(60, 40, mode=mode)
    if mode == "I;16":
        buffer = io.BytesIO()
        grey = np.asarray(Image.open(io.BytesIO(image[1])), dtype=np.uint16) * 257
        Image.fromarray(grey).save(buffer, format="PNG")
        image = ("sixteen", buffer.getvalue())
    (found,) = maps([image], weights)
    assert depth_maps.decode_bytes(found.png).shape == (40, 60)


def test_an_exif_orientation_is_applied(weights: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(60, 40)[1])).save(buffer, format="JPEG", exif=exif)
    (found,) = maps([("turned", buffer.getvalue())], weights)
    assert (found.width, found.height) == (40, 60)


def test_what_has_no_map_is_a_reject_with_the_reason(weights: Path) -> None:
    good, long = picture(60, 40), picture(400, 20)
    outcomes = list(
        depth_estimation.estimate([("cut", good[1][:200]), long, good], weights, Depth(size=SIZE, workers=1))
    )
    assert [getattr(outcome, "reason", "") for outcome in outcomes] == ["image-broken", "image-too-long", ""]


def test_an_output_that_is_not_finite_is_a_reject(weights: Path) -> None:
    model = loading.load_depth(weights)
    with torch.no_grad():
        model.head.conv3.bias.fill_(float("inf"))
    with ThreadPoolExecutor(1) as pool:
        (outcome,) = depth_estimation._one_by_one([picture(60, 40)], model, Depth(size=SIZE), pool)
    assert isinstance(outcome, Reject)
    assert outcome.reason == "depth-not-finite"


def test_pictures_are_the_coloured_maps(weights: Path) -> None:
    image = picture(60, 40)
    ((sha256, data),) = depth_estimation.pictures([("broken", b""), image], weights, Depth(size=SIZE))
    assert sha256 == image[0]
    assert np.array_equal(
        depth_maps.decode_bytes(data),
        depth_maps.decode_bytes(depth_maps.picture(depth_maps.decode_bytes(maps([image], weights)[0].png))),
    )


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(weights: Path) -> None:
    with pytest.raises(UserError, match=r"depth\.size: 500 is no multiple of 14"):
        next(depth_estimation.estimate([picture(60, 40)], weights, Depth().model_copy(update={"size": 500})))
