"""Folders that appear when they are complete: what a killed process left is in nobody's way, what is being filled stays."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.data import card, export, publish, release
from sifthinker.system.new_folders import new_folder
from tests.small_part import part

KILLED = """
import os, signal, sys
from pathlib import Path
from sifthinker.system.new_folders import new_folder
with new_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("a file")
    os.kill(os.getpid(), signal.SIGKILL)
"""
FACTS = card.Facts({"sources": [], "name": "x"}, publish.statistics([]), [])
WRITERS: list[Callable[[list[Path], Path], object]] = [
    lambda parts, out: export.export(parts, None, out),
    lambda parts, out: release.write_folder(parts, None, FACTS, out),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert done.returncode < 0
    assert len(names(tmp_path)) == 1
    with new_folder(tmp_path / "out") as partial:
        assert names(tmp_path) == [partial.name]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_killed_try_of_an_earlier_version_does_not_block_the_next(
    tmp_path: Path, write: Callable[[list[Path], Path], object]
) -> None:
    """It named its folder by the number of its process, which ours may have by now."""
    file = part(tmp_path / "photos").write(tmp_path / "part.parquet")
    (tmp_path / "to").mkdir()
    for number in (os.getpid(), 2**30):  # no process has the second
        (tmp_path / "to" / f".out.{number}.partial").mkdir()
    write([file], tmp_path / "to" / "out")
    assert names(tmp_path / "to") == [f".out.{os.getpid()}.partial", "out"]


def test_a_folder_that_is_being_filled_stays_and_the_slower_one_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="exists already"), new_folder(out) as slow:
        with new_folder(out) as fast:
            assert slow.exists()
            (fast / "of").write_text("the fast one")
        (slow / "of").write_text("the slow one")
    assert names(tmp_path) == ["out"]
    assert (out / "of").read_text() == "the fast one"


def test_folders_of_other_names_stay(tmp_path: Path) -> None:
    others = [f".out.b.{uuid.uuid4().hex}.partial", f".outer.{uuid.uuid4().hex}.partial", ".out.mine.partial"]
    for name in others:
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == sorted([*others, "out"])


@pytest.mark.parametrize("path", ["out", "./out", "a/../out", "new/out", "empty"])
def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "empty"):
        (tmp_path / name).mkdir()
    with new_folder(Path(path)) as partial:
        (partial / "file").touch()
    assert (tmp_path / path / "file").exists()


@pytest.mark.parametrize("path", [".", "../here"])
@pytest.mark.parametrize("write", WRITERS)
def test_the_folder_that_one_is_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, write: Callable[[list[Path], Path], object]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="the folder that you are in"):
        write([], Path(path))
    assert names(tmp_path) == ["here"]
