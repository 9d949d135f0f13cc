"""Reading the users' image files: confined to their folder, limited in size, decoded once to prove them whole.

Width and height are of the stored pixels. An EXIF orientation is not applied: VisCoT and TallyQA annotate
the pixels as they are stored (their sizes are those of the files' headers), and so do we everywhere after.
Nothing is converted here; who needs RGB converts the bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from sifthinker.config import UserError
from sifthinker.sample import Sample

# What the data sets hold. Pillow knows more, some of which start other programs (EPS) or have no pixels (WMF).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
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
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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


def find(root: Path, relative: str) -> Path:
    """The file that `relative` names in the image folder `root`, links resolved.

    Raises:
        BadImage: "path-outside", "image-missing" or "image-unreadable".
    """
    folder = os.path.realpath(root)
    path = Path(os.path.realpath(f"{folder}/{confined(relative)}"))
    if not path.is_relative_to(folder):
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


def read(root: Path, relative: str, max_pixels: int) -> tuple[bytes, int, int, str]:
    """The file's bytes, its width and height in pixels, and the SHA-256 of the bytes (hex).

    The size is taken from the header and compared with `max_pixels` before a pixel is decoded; then the whole
    picture is decoded once, so that whoever gets the bytes can rely on them.

    Raises:
        BadImage: "path-outside", "image-missing", "image-unreadable", "image-too-large" or "image-broken".
    """
    path = find(root, relative)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > 8 * max_pixels + 2**24:  # more than 16-bit RGBA without compression, and metadata
                raise BadImage(
                    "image-too-large", f"{relative} has {size} bytes, more than {max_pixels} pixels need"
                )
            data = file.read()
    except OSError as error:
        raise _unusable(relative, error) from error
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(
                    "image-too-large",
                    f"{relative} has {width}x{height} pixels, more than ingest.max_pixels = {max_pixels}; "
                    "size it down or raise the limit",
                )
            image.load()
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("image-too-large", f"{relative}: {error}") from error
    except Exception as error:  # Pillow's decoders raise all sorts on broken bytes
        raise BadImage(
            "image-broken",  # without Pillow's own words, which hold a memory address: rejects are compared by digest
            f"{relative} ({len(data)} bytes) cannot be decoded: {type(error).__name__}; fetch the file again",
        ) from error
    return data, width, height, hashlib.sha256(data).hexdigest()


def of(sample: Sample, folders: Mapping[str, Path], max_pixels: int) -> bytes:
    """The bytes of a sample's image file, which must be those that were ingested; `folders` by source name.

    Raises:
        UserError: the source has no image folder, or the file changed since ingest.
    """
    if sample.source not in folders:
        raise UserError(f"sources.{sample.source}.images: {sample.id} needs its image; give the image folder")
    hint = "restore the file, or run again with refresh: ingest"
    try:
        data, _, _, sha256 = read(folders[sample.source], sample.image, max_pixels)
    except BadImage as error:
        raise UserError(
            f"image {sample.image} of {sample.id} changed since ingest: {error}; {hint}"
        ) from error
    if sha256 != sample.image_sha256:
        was, now = sample.image_sha256[:12], sha256[:12]
        raise UserError(
            f"image {sample.image} of {sample.id} changed since ingest: sha256 {was}, now {now}; {hint}"
        )
    return data


def distinct(
    samples: Iterable[Sample], folders: Mapping[str, Path], max_pixels: int
) -> Iterator[tuple[str, bytes]]:
    """SHA-256 and bytes of the samples' images, each image once, in the order of its first sample.

    Raises:
        UserError: as `of`.
    """
    seen: set[str] = set()
    for sample in samples:
        if sample.image_sha256 not in seen:
            seen.add(sample.image_sha256)
            yield sample.image_sha256, of(sample, folders, max_pixels)


def _unusable(relative: str, error: OSError) -> BadImage:
    if error.errno not in _REASONS:
        raise error
    return BadImage(
        _REASONS[error.errno], f"{relative[:200]}: {error.strerror}; check the source's `images` folder"
    )
