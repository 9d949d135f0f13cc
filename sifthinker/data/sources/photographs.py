"""Files that cameras, phones and downloads leave in a folder of images and that are none: what they are, and what to do.

`core.images` opens what it knows. Two things are left for where users' files come in: telling what an unknown file is,
and raw files, of which a reader of TIFF sees a preview only.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from sifthinker.core import images
from sifthinker.core.images import BadImage, Photo

_HEAD = 64  # bytes that tell a format
_TIFF = (b"II*\0", b"MM\0*")
_REDUCED, _DNG_VERSION = (
    254,
    50706,
)  # tags of TIFF: NewSubfileType, whose lowest bit is "of reduced size"; DNGVersion
_TO_JPEG = "convert it to JPEG or PNG"
_RAW = f"a camera's raw file, of which only a preview can be opened; develop it and {_TO_JPEG}"
_BRANDS = {  # of an ISO media file, behind "ftyp"
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        f"HEIC, as phones save photographs; {_TO_JPEG} (`heif-convert`, `sips`), or have the phone save JPEG",
    ),
    b"crx ": _RAW,
}
_KINDS = (  # the beginning of a file, and what it is
    (b"\0\0\0\x0cJXL ", f"JPEG XL; {_TO_JPEG}"),
    (b"\xff\x0a", f"JPEG XL; {_TO_JPEG}"),
    (b"\0\0\0\x0cjP  ", f"JPEG 2000; {_TO_JPEG}"),
    (b"8BPS", f"a Photoshop document; {_TO_JPEG}"),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIU\0", _RAW),
    (b"%PDF", f"a PDF; {_TO_JPEG}"),
    (b"<svg", f"a drawing (SVG); {_TO_JPEG}"),
    (b"<?xml", f"XML, maybe a drawing (SVG); {_TO_JPEG}"),
    (b"<!doctype html", "a web page and no picture; fetch the picture itself again"),
    (b"<html", "a web page and no picture; fetch the picture itself again"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and no picture; run `git lfs pull` where it came from",
    ),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
)


def explained(error: BadImage, root: Path, relative: str) -> BadImage:
    """The error, saying what the file is where it is of no format that can be opened.

    Args:
        error: from `images.read` of the same file.
        root: the folder of images.
        relative: the file's path in it.
    """
    if error.reason != "image-format":
        return error
    with images.find(root, relative).open("rb") as file:
        said = _kind(file.read(_HEAD))
    return BadImage("image-format", f"{relative} is {said}") if said else error


def check(photo: Photo, name: str) -> None:
    """Refuses a raw file, which a reader of TIFF takes for its preview.

    Raises:
        BadImage: "image-format".
    """
    if not photo.file.startswith(_TIFF):
        return
    with Image.open(io.BytesIO(photo.file), formats=["TIFF"]) as image:
        tags = getattr(image, "tag_v2", {})
        reduced = tags.get(_REDUCED, 0)
        preview = isinstance(reduced, int) and reduced & 1  # in a damaged file it may be a text or a fraction
        raw = _DNG_VERSION in tags or preview or photo.file[8:10] == b"CR"
    if raw:
        raise BadImage("image-format", f"{name} is {_RAW}")


def _kind(head: bytes) -> str:
    """What a file of no known format is; "" where that is not known."""
    if not head:
        return "empty; fetch it again"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video, or a picture in a video's form; take a picture of it")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((said for magic, said in _KINDS if head.startswith(magic) or text.startswith(magic)), "")
