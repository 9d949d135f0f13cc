"""The one door for pictures: whatever opens one gets it upright, in 8-bit RGB, with the same pixels.

The user's files are confined to their folder, limited in size, and decoded once to prove them whole. What a picture
is then, for ingest, depth, annotator, trainers, servers, judges and the readers of the Parquet:

* Upright: an orientation (EXIF, PNG's eXIf, TIFF's tag 274, XMP) is applied. Width and height are of the upright
  picture. EXIF that cannot be read says nothing, as for browsers: the stored pixels count.
* 8-bit RGB. Of more than 8 bits the highest 8 count, grey as well as colour; of floats 0 is black and 1 is white.
  What is transparent lies on white. Palettes, grey, two colours and CMYK are what Pillow makes of them.
* One: of an animation, of the pages of a TIFF and of a phone's several pictures (MPO) the first.

A JPEG, PNG or WEBP that is all this already stays as it is, byte for byte. Everything else is re-written as a PNG
without loss; of its metadata only the colour profile of an RGB picture is kept. A file's digest is always of the
user's bytes, so that it does not depend on who writes PNGs.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sifthinker.core.errors import UserError
from sifthinker.core.records import Sample

# What the data sets and cameras hold. Pillow knows more, some of which start other programs (EPS) or have no
# pixels (WMF). A JPEG may be an MPO. HEIC needs a plug-in that is not installed.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF")
_KEPT = ("JPEG", "PNG", "WEBP")  # what every server, judge and reader opens
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")  # Pillow converts them rightly
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0
_PNG_DEPTH = 24  # where a PNG has its bits per channel
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
# What is wrong with this one file. Any other error (EIO, ESTALE, ...) is the machine's, not the row's: it is
# raised, so that the stage is retried instead of losing rows to a file server's bad minute.
_REASONS = {
    errno.ENOENT: "image-missing",
    errno.ENOTDIR: "image-missing",
    errno.ELOOP: "image-missing",
    errno.ENAMETOOLONG: "image-missing",
    errno.EACCES: "image-unreadable",
}


class BadImage(ValueError):
    """An image that cannot be used: `reason` is short and countable, `detail` is for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        """The message is both."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture of the user's, decoded and found whole."""

    width: int  # pixels, upright
    height: int
    orientation: int  # EXIF, 1 to 8: how the stored pixels had to be turned; 1 = not at all
    file: bytes  # the user's
    made: Image.Image | None  # the picture, where `file` holds it in another form

    @property
    def sha256(self) -> str:
        """Of the user's file (computed anew)."""
        return hashlib.sha256(self.file).hexdigest()

    @property
    def data(self) -> bytes:
        """A file that holds the picture and nothing to be interpreted: the user's own, else a PNG (made anew)."""
        return self.file if self.made is None else _png(self.made)


def photo(data: bytes, max_pixels: int, name: str = "the picture") -> Photo:
    """The picture of a file's bytes; `name` stands for it in errors.

    Raises:
        BadImage: "image-format" (no format of `FORMATS`), "image-too-large", "image-broken" or "image-mode" (pixels
            that are no colours before somebody decides what is white).
    """
    image, orientation, as_it_is = _opened(data, max_pixels, name)
    return Photo(image.width, image.height, orientation, data, None if as_it_is else image)


def rgb(data: bytes, name: str = "the picture", max_pixels: int | None = None) -> Image.Image:
    """The pixels of a file's bytes, upright and in RGB.

    Raises:
        BadImage: as `photo`; without `max_pixels` the limit is Pillow's.
    """
    return _opened(data, max_pixels, name)[0]


def size(data: bytes, max_pixels: int, name: str = "the picture") -> tuple[int, int]:
    """Width and height as they are stored, from the header alone: no pixel is decoded, no orientation applied.

    Raises:
        BadImage: "image-format", "image-too-large" or "image-broken".
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels, name)
            turns = (
                image.format == "TIFF" and (_orientation(image) or 1) >= 5
            )  # Pillow's size is upright then
            return (image.height, image.width) if turns else image.size
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise all sorts on broken bytes
        raise _undecodable(data, error, name) from error


def media_type(data: bytes) -> str:
    """The media type of a `Photo.data`, or of a picture that we made."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    raise ValueError(f"neither JPEG nor PNG nor WEBP: {data[:8]!r}")


def data_url(data: bytes, mime: str = "image/jpeg") -> str:
    """A picture as a data URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def from_data_url(url: str) -> bytes:
    """The bytes of a data URL, or of its base64 alone.

    Raises:
        BadImage: "image-url" where it is none. An address and a path are none: no server of ours opens any.
    """
    head, comma, body = url.partition(",")
    if comma and not (head.startswith("data:") and head.endswith(";base64")):
        raise BadImage("image-url", f"{url[:80]!r} is no data URL (data:image/...;base64,...)")
    try:
        return base64.b64decode("".join((body if comma else url).split()), validate=True)
    except ValueError as error:  # binascii.Error is one
        detail = f"{url[:80]!r} is no base64; send the picture itself, as a data URL"
        raise BadImage("image-url", detail) from error


def confined(relative: str) -> str:
    """The path, if it does not leave the folder it is relative to by its own words; links are `find`'s matter.

    Raises:
        BadImage: "path-outside".
    """
    if not relative or "\0" in relative or relative.startswith("/") or ".." in relative.split("/"):
        raise BadImage(
            "path-outside",
            f"image path {relative[:200]!r} is not inside the image folder; make it relative to it",
        )
    return relative


def tidy(path: str) -> str:
    """The path without its empty places and those that stay where they are: `a//b/./c` is `a/b/c`.

    A leading `/` stays, for `confined` to refuse.
    """
    root = "/" if path.startswith("/") else ""
    return root + "/".join(part for part in path.split("/") if part not in ("", "."))


def find(root: Path, relative: str) -> Path:
    """The file that `relative` names in the image folder `root`, links resolved.

    A link may lead anywhere inside the folder and, from a snapshot of the Hugging Face cache, to the blobs of the
    same repository, which is where all files of a snapshot are.

    Raises:
        BadImage: "path-outside", "image-missing" or "image-unreadable".
    """
    folder = os.path.realpath(root)
    path = Path(os.path.realpath(f"{folder}/{confined(relative)}"))
    if not path.is_relative_to(folder) and not _in_blobs(path, Path(folder)):
        raise BadImage(
            "path-outside",
            f"{relative} is a link that leaves the image folder; put or mount the files inside the folder",
        )
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unusable(relative, error) from error
    if not stat.S_ISREG(mode):
        raise BadImage("image-missing", f"{relative} is not a file in the image folder")
    return path


def read(root: Path, relative: str, max_pixels: int) -> Photo:
    """The picture in a file of the image folder `root`.

    The size is taken from the header and compared with `max_pixels` before a pixel is decoded; then the whole
    picture is decoded once, so that whoever gets the bytes can rely on them.

    Raises:
        BadImage: "path-outside", "image-missing", "image-unreadable", or as `photo`.
    """
    path = find(root, relative)
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length > 8 * max_pixels + 2**24:  # more than 16-bit RGBA without compression, and metadata
                raise BadImage(
                    "image-too-large", f"{relative} has {length} bytes, more than {max_pixels} pixels need"
                )
            data = file.read()
    except OSError as error:
        raise _unusable(relative, error) from error
    return photo(data, max_pixels, relative)


@dataclass(frozen=True, slots=True)
class ImageLibrary:
    """The users' image folders by the name of their source, and the most pixels that an image may have."""

    folders: Mapping[str, Path]
    max_pixels: int

    def of(self, sample: Sample) -> Photo:
        """A sample's picture, whose file must be the one that was ingested.

        Raises:
            UserError: the source has no image folder, or the file changed since ingest.
        """
        if sample.source not in self.folders:
            raise UserError(
                f"sources.{sample.source}.images: {sample.id} needs its image; give the image folder"
            )
        hint = "restore the file, or run again with refresh: ingest"
        try:
            found = read(self.folders[sample.source], sample.image, self.max_pixels)
        except BadImage as error:
            raise UserError(
                f"image {sample.image} of {sample.id} changed since ingest: {error}; {hint}"
            ) from error
        if (digest := found.sha256) != sample.image_sha256:
            was, now = sample.image_sha256[:12], digest[:12]
            raise UserError(
                f"image {sample.image} of {sample.id} changed since ingest: sha256 {was}, now {now}; {hint}"
            )
        return found

    def distinct(self, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """SHA-256 and bytes of the samples' images, each image once, in the order of its first sample.

        Raises:
            UserError: as `of`.
        """
        seen: set[str] = set()
        for sample in samples:
            if sample.image_sha256 not in seen:
                seen.add(sample.image_sha256)
                yield sample.image_sha256, self.of(sample).data


def _opened(data: bytes, max_pixels: int | None, name: str) -> tuple[Image.Image, int, bool]:
    """The picture, its orientation, and whether the bytes hold just that for everyone who decodes them."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels, name)
            if image.format != "TIFF":  # which applies its orientation when it is decoded, and forgets it
                image.load()
            tag = _orientation(image)
            image.load()
            as_it_is = (
                image.format in _KEPT
                and image.mode == "RGB"
                and tag == 1
                and not image.has_transparency_data
                and getattr(image, "n_frames", 1) == 1
                and not (image.format == "PNG" and data[_PNG_DEPTH] == 16)
            )
            if as_it_is:
                return image, 1, True
            profile = image.info.get("icc_profile") if image.mode.startswith("RGB") else None
            upright = image if tag in (None, 1) else ImageOps.exif_transpose(image)
            made = _eight_bit(upright, image, name)
            made.info = {"icc_profile": profile} if profile else {}
            return made, tag or 1, False
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise all sorts on broken bytes
        raise _undecodable(data, error, name) from error


def _check_size(image: Image.Image, max_pixels: int | None, name: str) -> None:
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise BadImage(
            "image-too-large",
            f"{name} has {image.width}x{image.height} pixels, more than ingest.max_pixels = {max_pixels}; "
            "size it down or raise the limit",
        )


def _undecodable(data: bytes, error: Exception, name: str) -> BadImage:
    """What Pillow's error means, without its own words: they hold a memory address, and rejects have digests."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return BadImage("image-too-large", f"{name}: {error}")
    if isinstance(error, UnidentifiedImageError):
        return BadImage(
            "image-format",
            f"{name} ({len(data)} bytes) is none of {', '.join(FORMATS)}; convert it, or fetch it again if it was one",
        )
    what = type(error).__name__
    return BadImage(
        "image-broken", f"{name} ({len(data)} bytes) cannot be decoded: {what}; fetch the file again"
    )


def _orientation(image: Image.Image) -> int | None:
    """1 to 8; None where the metadata cannot be read (other programs may stumble over them, too)."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's reader of EXIF raises all sorts, too
        return None
    return found if found in range(1, 9) else 1


def _eight_bit(upright: Image.Image, image: Image.Image, name: str) -> Image.Image:
    """The picture in RGB; `image` is the file it was in."""
    if upright.mode in _SIXTEEN or (upright.mode == "I" and image.format == "PPM"):
        tags = getattr(image, "tag_v2", {})
        bits = tags[_BITS_PER_SAMPLE][0] if _BITS_PER_SAMPLE in tags else 16
        values = np.asarray(upright).astype(np.uint32)
        clear = values == upright.info["transparency"] if "transparency" in upright.info else None
        grey = (values >> (bits - 8)).astype(np.uint8)
        grey = 255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey
        return Image.fromarray(grey if clear is None else np.where(clear, np.uint8(255), grey)).convert("RGB")
    if upright.mode == "F":
        floats = np.asarray(upright)
        low, high = float(floats.min()), float(floats.max())
        if not (low >= 0 and high <= 1):
            raise BadImage(
                "image-mode",
                f"{name} has floats from {low:.6g} to {high:.6g}, not 0..1; save it as 8-bit RGB",
            )
        return Image.fromarray(np.rint(floats * 255).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        clear_of = upright.convert("RGBA")
        page = Image.new("RGBA", clear_of.size, "white")
        page.alpha_composite(clear_of)
        return page.convert("RGB")
    if upright.mode not in _PLAIN:
        raise BadImage(
            "image-mode",
            f"{name} has pixels of the kind {upright.mode}, of which nothing says what is white; save it as 8-bit RGB",
        )
    return upright.convert("RGB")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)  # 6 takes twice the time and saves a few parts in a hundred
    return buffer.getvalue()


def _in_blobs(path: Path, folder: Path) -> bool:
    """Whether `folder` is in a snapshot of the Hugging Face cache, and `path` where such a snapshot's files are."""
    for place in (folder, *folder.parents):  # <hub>/datasets--<owner>--<name>/snapshots/<revision>
        if place.parent.name == "snapshots" and "--" in place.parent.parent.name:
            return path.is_relative_to(place.parent.parent / "blobs")
    return False


def _unusable(relative: str, error: OSError) -> BadImage:
    if error.errno not in _REASONS:
        raise error
    return BadImage(
        _REASONS[error.errno], f"{relative[:200]}: {error.strerror}; check the source's `images` folder"
    )
