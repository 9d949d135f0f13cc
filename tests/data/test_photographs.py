"""Photographs as they are: each kind of file that people have, through ingest, normalised or rejected by name."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, TiffTags

from sifthinker.config import Ingest, Source
from sifthinker.core import images
from sifthinker.core.records import Reject, Sample
from tests.ingested import ingest
from tests.odd_pictures import HEIGHT, MODES, ORIENTED, WIDTH, Pixels, oriented, saved, stored

PICTURE = Image.fromarray(stored())


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def avif(**options: object) -> bytes:
    return saved(PICTURE, "AVIF", quality=90, **options)


def of_phone(extra: bytes) -> bytes:
    """A JPEG with something behind its end: the video of a motion photo, a gain map."""
    return saved(PICTURE, "JPEG", quality=90) + extra


def raw_tiff(tags: dict[int, object]) -> bytes:
    return saved(PICTURE, "TIFF", tiffinfo=tags)


def iso_media(brand: bytes) -> bytes:
    return struct.pack(">I4s4sI4s", 24, b"ftyp", brand, 0, b"mif1") + bytes(200)


JPEG = saved(PICTURE, "JPEG", quality=90)
CMYK = saved(PICTURE.convert("CMYK"), "JPEG", quality=95)
MOVING = saved(
    PICTURE, "AVIF", quality=90, save_all=True, append_images=[Image.fromarray(stored()[::-1].copy())]
)
# What is read as a picture, with the pixels that everyone sees: of a moving picture, of pages and of a phone's several
# pictures those of the first.
READ: dict[str, tuple[bytes, Pixels]] = {
    **MODES,
    **{f"{kind}, orientation {turn}": oriented(kind, turn) for kind in ORIENTED for turn in (3, 6, 8)},
    "AVIF": (avif(), decoded(avif())),
    "AVIF, moving": (MOVING, decoded(MOVING)),
    "CMYK JPEG, as Photoshop writes it": (CMYK, decoded(CMYK)),
    "JPEG with a video behind it": (of_phone(iso_media(b"mp42")), decoded(JPEG)),
    "JPEG with a second picture behind it": (of_phone(JPEG), decoded(JPEG)),
    "progressive JPEG": (
        saved(PICTURE, "JPEG", progressive=True),
        decoded(saved(PICTURE, "JPEG", progressive=True)),
    ),
    "interlaced PNG, named as a JPEG": (saved(PICTURE), stored()),
}
# What is none, with words of the reject that say what it is or what to do.
NOT_READ: dict[str, tuple[bytes, str, str]] = {
    "HEIC": (iso_media(b"heic"), "image-format", "HEIC, as phones save photographs; convert it to JPEG"),
    "HEIF": (iso_media(b"mif1"), "image-format", "have the phone save JPEG"),
    "a video": (iso_media(b"qt  "), "image-format", "a video"),
    "Canon raw": (iso_media(b"crx "), "image-format", "camera's raw file"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "image-format", "JPEG XL; convert it"),
    "JPEG 2000": (saved(PICTURE, "JPEG2000"), "image-format", "JPEG 2000; convert it"),
    "DNG": (raw_tiff({50706: b"\1\4\0\0"}), "image-format", "camera's raw file, of which only a preview"),
    "NEF": (raw_tiff({254: 1}), "image-format", "camera's raw file, of which only a preview"),
    "Photoshop": (b"8BPS\0\1" + bytes(60), "image-format", "a Photoshop document"),
    "PDF": (b"%PDF-1.7\n" + bytes(60), "image-format", "a PDF"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image-format", "a drawing (SVG)"),
    "a web page": (b"\n<!DOCTYPE html><title>404</title>", "image-format", "a web page and no picture"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "image-format", "git lfs pull"),
    "an archive": (b"PK\x03\x04" + bytes(60), "image-format", "a ZIP archive"),
    "nothing": (b"", "image-format", "empty; fetch it again"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "image-broken", "fetch the file again"),
    "floats beyond 0..1": (saved(Image.new("F", (9, 9), 7.5), "TIFF"), "image-mode", "save it as 8-bit RGB"),
    "32-bit numbers": (saved(Image.new("I", (9, 9)), "TIFF"), "image-mode", "save it as 8-bit RGB"),
    "too many pixels": (saved(Image.new("L", (900, 900))), "image-too-large", "size it down"),
}  # fmt: skip


def taken(folder: Path, data: bytes) -> Sample | Reject:
    (folder / "photo.jpg").write_bytes(data)  # whatever it is: only its bytes count
    row = {"question": "What is it?", "answer": "A", "image": "photo.jpg", "bboxs": [[1, 1, 8, 8]]}
    (folder / "rows.json").write_text(json.dumps([row]))
    source = Source(name="photos", format="tallyqa", path=folder / "rows.json", images=folder)
    (found,) = ingest([source], Ingest(max_pixels=500_000))
    return found


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TiffTags.ASCII, "abc"),
        (TiffTags.ASCII, ""),
        (TiffTags.BYTE, b"ab"),
        (TiffTags.UNDEFINED, b"a"),
        (TiffTags.RATIONAL, 0.5),
        (TiffTags.DOUBLE, float("nan")),
        (TiffTags.LONG, (2, 3)),
    ],
)
def test_a_tag_of_a_damaged_file_that_is_no_number_is_no_error(
    tmp_path: Path, kind: int, value: object
) -> None:
    """Of the tag that says whether a picture is a preview: a text, bytes, a fraction, several numbers."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[254] = kind
    tags[254] = value
    found = taken(tmp_path, saved(PICTURE, "TIFF", tiffinfo=tags))
    assert isinstance(found, Sample), found


@pytest.mark.parametrize("kind", READ)
def test_a_picture_of_each_kind_is_upright_8_bit_rgb_for_everyone(tmp_path: Path, kind: str) -> None:
    data, pixels = READ[kind]
    found = taken(tmp_path, data)
    assert isinstance(found, Sample), found
    assert (found.height, found.width) == pixels.shape[:2]
    assert {found.height, found.width} == {HEIGHT, WIDTH}
    shown = Image.open(io.BytesIO(images.ImageLibrary({"photos": tmp_path}, 500_000).of(found).data))
    assert shown.mode == "RGB"
    assert np.array_equal(np.asarray(shown), pixels)


@pytest.mark.parametrize("kind", NOT_READ)
def test_a_file_of_each_other_kind_is_a_reject_that_says_what_it_is_and_what_to_do(
    tmp_path: Path, kind: str
) -> None:
    data, reason, said = NOT_READ[kind]
    found = taken(tmp_path, data)
    assert isinstance(found, Reject)
    assert (found.reason, found.field) == (reason, "image")
    assert said in found.detail and "photo.jpg" in found.detail
