"""Depth pictures of a folder: whole, resumed, rejects named, and the same as those of a stage."""

import os
from pathlib import Path

import pytest
from PIL import Image

from sifthinker.config import Depth
from sifthinker.core import depth_maps, images, tables
from sifthinker.core.errors import UserError
from sifthinker.core.images import BadImage
from sifthinker.data import depth_estimation, depth_folder
from sifthinker.models import miniature

WEIGHTS = miniature.folder("depth")
CONFIG = Depth(size=42)
PIXELS = 1_000_000


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((60, 45)).rotate(shade).convert("RGB").save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "in/a.jpg")
    picture(tmp_path / "in/b/c.png", 90)
    (tmp_path / "in/broken.jpg").write_bytes(b"no picture")
    (tmp_path / "in/notes.txt").write_text("not asked for")
    return tmp_path / "in"


def test_every_picture_is_made_or_rejected_by_its_name(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    out = tmp_path / "out"
    counts, rejects = depth_folder.write(
        folder, out, WEIGHTS, CONFIG, PIXELS, lambda counts: told.append(counts.done)
    )
    assert (counts.total, counts.made, counts.there, counts.rejected) == (3, 2, 0, 1)
    assert told == [1, 2, 3]
    assert [(reject.file, reject.reason) for reject in rejects] == [("broken.jpg", "image-format")]
    assert [row["file"] for row in tables.read(out / "rejects.parquet")] == ["broken.jpg"]
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert names == ["a.jpg.png", "b/c.png.png"]
    data = images.read(folder, "a.jpg", PIXELS).data
    [(_, stage)] = depth_estimation.pictures([("x", data)], WEIGHTS, CONFIG)
    assert (out / "a.jpg.png").read_bytes() == stage


def test_a_picture_whose_name_is_no_utf_8_is_made_or_rejected_like_any_other(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    good, broken = os.fsdecode(b"good\xe9.png"), os.fsdecode(b"caf\xe9.jpg")
    picture(folder / good)
    (folder / broken).write_bytes(b"no picture")
    counts, rejects = depth_folder.write(folder, out, WEIGHTS, CONFIG, PIXELS)
    assert (counts.made, counts.rejected) == (1, 1)
    assert (out / f"{good}.png").exists()
    [reject] = rejects
    assert reject.file == "caf\\xe9.jpg"
    reject.detail.encode()  # a terminal takes it
    assert [row["file"] for row in tables.read(out / "rejects.parquet")] == ["caf\\xe9.jpg"]


def test_a_second_run_makes_what_is_missing_or_older_than_its_picture(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    depth_folder.write(folder, out, WEIGHTS, CONFIG, PIXELS)
    again, _ = depth_folder.write(folder, out, WEIGHTS, CONFIG, PIXELS)
    assert (again.made, again.there, again.rejected) == (0, 2, 1)
    (out / "b/c.png.png").unlink()
    newer = (out / "a.jpg.png").stat().st_mtime + 10
    os.utime(folder / "a.jpg", (newer, newer))
    again, _ = depth_folder.write(folder, out, WEIGHTS, CONFIG, PIXELS)
    assert (again.made, again.there) == (2, 0)


def test_a_killed_run_leaves_no_half_picture(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stops)
    monkeypatch.setattr(depth_folder, "_same_model", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        depth_folder.write(folder, out, WEIGHTS, CONFIG, PIXELS)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_the_depth_pictures_may_lie_in_the_folder_itself(folder: Path) -> None:
    for _ in range(2):
        counts, _ = depth_folder.write(folder, folder / "depth", WEIGHTS, CONFIG, PIXELS)
        assert counts.total == 3


def test_a_record_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "depth.json").write_text("{")
    with pytest.raises(UserError, match=r"depth\.json cannot be read: .* --out"):
        depth_folder.write(folder, tmp_path / "out", WEIGHTS, CONFIG, PIXELS)


def test_a_folder_of_another_model_or_size_is_refused(folder: Path, tmp_path: Path) -> None:
    depth_folder.write(folder, tmp_path / "out", WEIGHTS, CONFIG, PIXELS)
    with pytest.raises(UserError, match=r"another model or size .* --out"):
        depth_folder.write(folder, tmp_path / "out", WEIGHTS, Depth(size=56), PIXELS)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        depth_folder.write(tmp_path / "none", tmp_path / "out", WEIGHTS, CONFIG, PIXELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        depth_folder.write(tmp_path / "empty", tmp_path / "out", WEIGHTS, CONFIG, PIXELS)


def test_a_model_that_stays_loaded_gives_the_same_maps(folder: Path) -> None:
    one = depth_estimation.estimator(WEIGHTS, CONFIG)
    for name in ("a.jpg", "b/c.png"):
        data = images.read(folder, name, PIXELS).data
        [same] = depth_estimation.estimate([("x", data)], WEIGHTS, CONFIG)
        assert one(data).png == same.png  # type: ignore[union-attr]
        assert depth_maps.decode_bytes(one(data).png).shape == (45, 60)
    with pytest.raises(BadImage, match="image-format"):
        one(b"no picture")
