"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.system.files import read_json, whole, write_json


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    for text in ("first", "second"):
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            assert not path.exists() or path.read_text(encoding="utf-8") == "first"
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_could_not_be_written_leaves_the_one_before_it_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("first", encoding="utf-8")
    with pytest.raises(OSError, match="full"), whole(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise OSError("full")
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ["first"]


def test_json_reads_as_it_was_written_and_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    assert read_json(path) == {}
    write_json(path, {"state": "training", "place": "Zürich"})
    assert read_json(path) == {"state": "training", "place": "Zürich"}
