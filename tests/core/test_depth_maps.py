"""Depth maps: the release's own means, lossless files, the palette and its inverse."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sifthinker.core import depth_maps
from sifthinker.core.errors import UserError
from sifthinker.core.records import WHOLE, Region
from tests import odd_pictures


def noise(height: int = 37, width: int = 53, seed: int = 0) -> depth_maps.Map:
    return np.random.default_rng(seed).random((height, width)).astype(np.float32)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def test_box_means_agree_with_every_release_vector(shared: Path) -> None:
    maps: dict[str, depth_maps.Map] = {}
    for line in (shared / "vectors" / "depth_mean.jsonl").read_text().splitlines():
        case = json.loads(line)
        name = case["png"]
        if name not in maps:
            maps[name] = depth_maps.decode_bytes((shared / "vectors" / name).read_bytes())
        assert depth_maps.box_depth(maps[name], case["box"]) == pytest.approx(case["mean_depth"], abs=1e-6)
        assert depth_maps.SummedArea(maps[name]).mean(case["box"]) == pytest.approx(
            case["mean_depth"], abs=1e-6
        )


def test_a_16_bit_file_keeps_a_map_to_half_a_step() -> None:
    made = noise()
    data = depth_maps.encode(made)
    read = depth_maps.decode_bytes(data)
    assert read.dtype == np.float32 and read.shape == made.shape
    assert np.abs(read - made).max() <= 0.5 / 65535 + 1e-7
    assert depth_maps.encode(read) == data


def test_every_16_bit_value_comes_back_exactly() -> None:
    values = (np.arange(65536, dtype=np.uint16)).reshape(256, 256)
    read = depth_maps.decode_bytes(file_of(values))
    assert np.array_equal(np.rint(read.astype(np.float64) * 65535), values)
    assert read[0, 0] == 0 and read[-1, -1] == 1


def test_the_palette_is_matplotlib_s() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    theirs = (matplotlib.colormaps["Spectral_r"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    assert np.array_equal(depth_maps.palette(), theirs)
    assert len(np.unique(depth_maps.palette(), axis=0)) == 256


def test_near_is_red_and_far_is_violet() -> None:
    pixels = np.asarray(depth_maps.render(np.array([[0.0, 1.0]], dtype=np.float32)))
    assert pixels.tolist() == [[[158, 1, 66], [94, 79, 162]]]


def test_a_picture_decodes_to_the_same_256_levels_exactly() -> None:
    levels = (1 - np.arange(256) / 255).astype(np.float32).reshape(16, 16)
    assert np.array_equal(depth_maps.decode_bytes(depth_maps.picture(levels)), levels)
    made = noise()
    assert np.abs(depth_maps.decode_bytes(depth_maps.picture(made)) - made).max() <= 0.5 / 255 + 1e-6


def test_foreign_colours_are_refused_by_name_and_taken_as_nearest_on_request() -> None:
    pixels = np.asarray(depth_maps.render(noise())).copy()
    pixels[3, 4] = (0, 255, 0)
    odd = file_of(pixels)
    with pytest.raises(UserError, match=r"odd\.png: 1 of 1961 pixels .* JPEG"):
        depth_maps.decode_bytes(odd, name="odd.png")
    read = depth_maps.decode_bytes(odd, nearest=True)
    distances = ((depth_maps.palette().astype(int) - np.array([0, 255, 0])) ** 2).sum(axis=1)
    assert read[3, 4] == np.float32(1 - distances.argmin() / 255)
    pixels[3, 4] = depth_maps.palette()[0]
    known = depth_maps.decode_bytes(file_of(pixels))
    assert np.array_equal(np.delete(read.ravel(), 3 * 53 + 4), np.delete(known.ravel(), 3 * 53 + 4))


def test_a_jpeg_of_a_coloured_map_is_refused_but_nearly_readable() -> None:
    smooth = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    data = file_of(np.asarray(depth_maps.render(smooth)), "JPEG")
    with pytest.raises(UserError, match="not Spectral_r's"):
        depth_maps.decode_bytes(data)
    assert np.abs(depth_maps.decode_bytes(data, nearest=True) - smooth).mean() < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_maps_have_the_polarity_they_are_said_to_have(channels: int) -> None:
    grey = np.array([[0, 51, 255]], dtype=np.uint8)
    data = file_of(grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2))
    assert depth_maps.decode_bytes(data, "near_dark")[0].tolist() == pytest.approx([0, 0.2, 1])
    assert depth_maps.decode_bytes(data, "near_bright")[0].tolist() == pytest.approx([1, 0.8, 0])


@pytest.mark.parametrize("data", [depth_maps.encode(noise())[:200], b"no picture"])
def test_unreadable_pictures_are_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"broken\.png: not a readable picture"):
        depth_maps.decode_bytes(data, name="broken.png")


def hostile() -> dict[str, bytes]:
    """Files that make Pillow raise something of its own, start a program, or give values that are no depth."""
    return {
        **odd_pictures.hostile(),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "floats": file_of(np.full((4, 4), 1.5, np.float32), "TIFF"),
        "long": file_of(np.full((4, 4), -5, np.int32), "TIFF"),
        "nothing": b"",
    }


@pytest.mark.parametrize("kind", sorted(hostile()))
def test_a_hostile_file_is_a_user_s_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a program"))
    with pytest.raises(UserError, match=r"^map\.png: not a readable picture"):
        depth_maps.decode_bytes(hostile()[kind], name="map.png")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_depth_is_not_written(value: float) -> None:
    made = noise()
    made[0, 0] = value
    with pytest.raises(ValueError, match="values outside"):
        depth_maps.encode(made)
    with pytest.raises(ValueError, match="values outside"):
        depth_maps.render(made)


def test_normalising_turns_inverse_depth_around() -> None:
    assert depth_maps.normalise(np.array([[2.0, 4.0], [6.0, 10.0]])).tolist() == [[1.0, 0.75], [0.5, 0.0]]
    assert depth_maps.normalise(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="not finite"):
        depth_maps.normalise(np.array([[1.0, np.inf]]))


def test_a_box_takes_in_every_pixel_it_touches() -> None:
    made = np.arange(12, dtype=np.float32).reshape(3, 4) / 11
    # Columns floor(0.3 * 4) = 1 to ceil(0.6 * 4) = 3, rows floor(0.4 * 3) = 1 to ceil(0.5 * 3) = 2.
    assert depth_maps.box_depth(made, (0.3, 0.4, 0.6, 0.5)) == pytest.approx((5 + 6) / 2 / 11)
    assert depth_maps.box_depth(made, WHOLE) == pytest.approx(0.5)
    assert depth_maps.box_depth(made, (0.01, 0.01, 0.02, 0.02)) == 0
    for mean in (depth_maps.SummedArea(made).mean, lambda box: depth_maps.box_depth(made, box)):
        with pytest.raises(ValueError, match="holds no pixel"):
            mean((0.5, 0.5, 0.5, 0.6))


fraction = st.floats(0, 1)


@settings(deadline=None)  # a busy machine is no failure
@given(st.tuples(fraction, fraction), st.tuples(fraction, fraction), st.integers(1, 80), st.integers(1, 80))
def test_the_summed_area_agrees_with_the_plain_mean(
    x: tuple[float, float], y: tuple[float, float], height: int, width: int
) -> None:
    box = (min(x), min(y), max(x), max(y))
    made = noise(height, width)
    try:
        plain = depth_maps.box_depth(made, box)
    except ValueError:
        with pytest.raises(ValueError):
            depth_maps.SummedArea(made).mean(box)
        return
    assert depth_maps.SummedArea(made).mean(box) == pytest.approx(plain, abs=1e-6)


def test_the_summed_area_stays_exact_on_a_large_map() -> None:
    made = noise(1500, 2000)
    table = depth_maps.SummedArea(made)
    for box in (WHOLE, (0.7, 0.9, 0.701, 0.901), (0.99, 0.0, 1.0, 1.0)):
        assert table.mean(box) == pytest.approx(depth_maps.box_depth(made, box), abs=1e-6)


def test_regions_carry_three_decimals() -> None:
    made = np.array([[0.0, 1.0, 1.0]], dtype=np.float32)
    assert depth_maps.regions([[WHOLE], [(0.0, 0.0, 0.3, 1.0)]], made) == (
        (Region(WHOLE, 0.667),),
        (Region((0.0, 0.0, 0.3, 1.0), 0.0),),
    )


def test_rendering_does_not_import_matplotlib() -> None:
    code = "import sys, sifthinker.core.depth_maps as d; d.palette(); sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_normalised_map_is_float32_and_is_computed_in_float64() -> None:
    assert depth_maps.normalise(np.full((2, 2), 7.0)).dtype == np.float32
    coarse = depth_maps.normalise(np.array([[0, 1, 3]], dtype=np.float16))
    assert coarse.dtype == np.float32
    assert coarse[0].tolist() == np.array([1, 2 / 3, 0], dtype=np.float32).tolist()


def test_a_rendered_map_is_an_rgb_picture_of_the_maps_size() -> None:
    image = depth_maps.render(noise(3, 5))
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_bytes_without_a_file_are_named_depth_map() -> None:
    with pytest.raises(UserError, match=r"^depth map: not a readable picture, PNG or JPEG \(.*, 3 bytes\)"):
        depth_maps.decode_bytes(b"abc")
