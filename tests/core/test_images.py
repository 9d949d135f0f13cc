"""images: confined to the folder, limited in size, decoded once."""

import errno
import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sifthinker.core import images
from tests import odd_pictures


def picture(path: Path, size: tuple[int, int] = (8, 6), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 60)).save(path, **options)
    return path


def test_read_gives_the_bytes_the_size_and_the_digest_of_the_bytes(tmp_path: Path) -> None:
    path = picture(tmp_path / "a" / "b.png")
    found = images.read(tmp_path, "a/b.png", 48)
    assert (found.data, found.width, found.height) == (path.read_bytes(), 8, 6)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def bad_files(root: Path) -> None:
    picture(root.parent / "outside.png")
    whole = picture(root / "good.png", (64, 64)).read_bytes()
    picture(root / "many_pixels.png", (200, 200))
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "text.jpg").write_text("no image")
    (root / "empty.jpg").write_bytes(b"")
    (root / "long.tif").write_bytes(odd_pictures.saved(Image.new("I", (9, 9)), "TIFF"))
    (root / "lab.tif").write_bytes(odd_pictures.saved(Image.new("LAB", (9, 9)), "TIFF"))
    for name, value in (("bright", 1.5), ("below", -0.1), ("none", float("nan"))):
        (root / f"{name}.tif").write_bytes(odd_pictures.saved(Image.new("F", (9, 9), value), "TIFF"))
    for name, data in odd_pictures.hostile().items():
        (root / f"{name}.png").write_bytes(data)
    (root / "phone.heic").write_bytes(bytes(3) + b"\x18ftypheic" + bytes(20))
    (root / "old.wmf").write_bytes(b"\xd7\xcd\xc6\x9a" + bytes(40))
    (root / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (root / "folder.png").mkdir()
    (root / "link.png").symlink_to(root.parent / "outside.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "long.png").write_bytes(bytes(8 * 10_000 + 2**24 + 1))


@pytest.mark.parametrize(
    ("relative", "reason"),
    [
        ("../outside.png", "path-outside"),
        ("a/../../outside.png", "path-outside"),
        ("/etc/hostname", "path-outside"),
        ("", "path-outside"),
        ("a\0.png", "path-outside"),
        ("link.png", "path-outside"),  # a link that leaves the folder
        ("loop.png", "image-missing"),  # a link to itself
        ("none.png", "image-missing"),
        ("good.png/x.png", "image-missing"),  # a file taken for a folder
        ("folder.png", "image-missing"),
        ("x" * 300 + ".png", "image-missing"),  # longer than a file name can be
        ("cut.png", "image-broken"),
        ("text.jpg", "image-format"),
        ("empty.jpg", "image-format"),
        ("page.eps", "image-format"),  # Pillow would start Ghostscript
        ("old.wmf", "image-format"),
        ("phone.heic", "image-format"),
        ("long.tif", "image-mode"),  # 32-bit numbers: nothing says what is white
        ("lab.tif", "image-mode"),
        ("bright.tif", "image-mode"),
        ("below.tif", "image-mode"),
        ("none.tif", "image-mode"),
        ("bomb.png", "image-too-large"),
        ("text bomb.png", "image-broken"),
        ("broken chunk.png", "image-broken"),
        ("many_pixels.png", "image-too-large"),
        ("long.png", "image-too-large"),  # bytes no image within the limit needs
    ],
)
def test_a_bad_image_has_a_reason(tmp_path: Path, relative: str, reason: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    bad_files(root)
    with pytest.raises(images.BadImage) as error:
        images.read(root, relative, 10_000)
    assert error.value.reason == reason
    assert error.value.detail


def test_an_image_over_the_limit_is_refused_before_a_pixel_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", (20, 20))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(images.BadImage, match="20x20"):
        images.read(tmp_path, "a.png", 399)


def test_the_image_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    picture(tmp_path / "disk" / "a.png")
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    assert images.find(tmp_path / "images", "a.png") == (tmp_path / "disk" / "a.png").resolve()


def test_a_snapshot_of_the_hub_s_cache_may_be_the_image_folder(tmp_path: Path) -> None:
    """Its files are links to the blobs of the same repository, and to nothing else."""
    hub = tmp_path / "hub" / "datasets--a--vstar"
    data = picture(hub / "blobs" / "d1.png").read_bytes()
    other = picture(tmp_path / "hub" / "datasets--b--other" / "blobs" / "d2.png")
    folder = hub / "snapshots" / "0f" / "direct_attributes"
    folder.mkdir(parents=True)
    (folder / "a.png").symlink_to("../../../blobs/d1.png")
    (folder / "b.png").symlink_to(other)
    (folder / "c.png").symlink_to(hub / "refs")
    (hub / "refs").write_bytes(data)
    for root, inside in ((folder.parent, "direct_attributes/"), (folder, "")):
        assert images.read(root, f"{inside}a.png", 48).data == data
        for name in ("b.png", "c.png"):
            with pytest.raises(images.BadImage, match="path-outside"):
                images.read(root, f"{inside}{name}", 48)
    plain = tmp_path / "hub" / "mine"  # no snapshot: its neighbours are none of its files
    plain.mkdir()
    (plain / "a.png").symlink_to(hub / "blobs" / "d1.png")
    with pytest.raises(images.BadImage, match="path-outside"):
        images.read(plain, "a.png", 48)


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_exif_that_cannot_be_read_says_nothing_and_is_not_sent_on(exif: bytes) -> None:
    data = odd_pictures.saved(Image.fromarray(odd_pictures.stored()), "JPEG", exif=exif)
    found = images.photo(data, 10_000)
    assert (found.orientation, found.width, found.height) == (1, odd_pictures.WIDTH, odd_pictures.HEIGHT)
    with Image.open(io.BytesIO(data)) as plain, Image.open(io.BytesIO(found.data)) as sent:
        assert plain.tobytes() == sent.tobytes()
        assert not sent.getexif()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    data, pixels = odd_pictures.oriented("JPEG", 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = odd_pictures.saved(Image.fromarray(odd_pictures.stored()), "JPEG", quality=90, exif=exif)
    found = images.photo(data, 10_000)
    assert found.orientation == 1
    assert images.rgb(data).tobytes() == pixels.tobytes()


def test_an_error_of_the_machine_is_raised_so_that_no_row_is_lost_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        images.read(tmp_path, "a.png", 48)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_are_read_or_refused_but_never_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((12, 9)).convert("RGB").save(buffer, kind)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    root = tmp_path_factory.mktemp("damaged")
    (root / "a").write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        images.read(root, "a", 10_000)
    except images.BadImage as error:
        assert error.reason in ("image-broken", "image-format", "image-too-large", "image-mode")


@pytest.mark.parametrize("orientation", sorted(odd_pictures.UPRIGHT))
@pytest.mark.parametrize(
    "mode", ["L", "1", "P with a clear colour", "LA", "RGBA", "I;16 with a clear value", "F"]
)
def test_a_mode_and_an_orientation_together(mode: str, orientation: int) -> None:
    file, pixels = odd_pictures.MODES[mode]
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(io.BytesIO(file)) as image:
        turn = {"tiffinfo": {0x0112: orientation}} if image.format == "TIFF" else {"exif": exif}
        clear = {name: image.info[name] for name in ("transparency",) if name in image.info}
        data = odd_pictures.saved(image, str(image.format), **turn, **clear)
    found = images.photo(data, 10_000)
    upright = odd_pictures.UPRIGHT[orientation](pixels)
    assert (found.orientation, found.height, found.width) == (orientation, *upright.shape[:2])
    with Image.open(io.BytesIO(found.data)) as sent:
        assert sent.mode == "RGB"
        assert sent.tobytes() == upright.tobytes()
