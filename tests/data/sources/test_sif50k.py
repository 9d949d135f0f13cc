"""sources.sif50k: the authors' rows and our export's, their paths, their ids, and what their boxes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker import config
from sifthinker.core import boxes
from sifthinker.core.errors import UserError
from sifthinker.data import rl_file
from sifthinker.data.sources import sif50k
from tests import published_rows as made
from tests.published_rows import Row, changed, ingested, numbered
from tests.small_part import BOX


def test_what_export_writes_is_read_back(tmp_path: Path) -> None:
    rows, out, _ = numbered(tmp_path, 7)
    samples, given, rejects = ingested(rows, out)
    assert not rejects
    assert {row.question for row in samples} == {row["problem"] for row in rows}
    for sample in samples:
        assert (sample.answer, sample.boxes, sample.dataset, sample.split) == (
            "A cat",
            (BOX,),
            "gqa",
            "train",
        )
        assert (sample.width, sample.height) == (64, 48)
    chains = {row["problem"]: row["messages"][1]["content"] for row in rows}
    assert {row.question: given[row.id].chain for row in samples} == chains
    assert {(one.file, one.frame, one.turn) for one in given.values()} == {("rows.json", "fractions", 1)}
    assert {rows[one.row]["problem"] for one in given.values()} == set(chains)


def test_a_row_that_is_there_twice_is_found(tmp_path: Path) -> None:
    rows, out, _ = numbered(tmp_path, 3)
    samples, _, (reject,) = ingested([*rows, rows[1]], out)
    assert len(samples) == 3
    assert (reject.reason, reject.row) == ("duplicate-id", 3)


@pytest.mark.parametrize(
    "path",
    [
        *("../data/{}", "./{}", "/home/x/SIF/{}", "C:/Users/x/{}", "data/SIF-50K/{}", "{}"),
        *("../data//{}", "/home//x///{}", "data/./{}", "data/.//{}"),  # places that are none
    ],
)
def test_an_image_is_found_without_the_folders_of_another_machine(tmp_path: Path, path: str) -> None:
    (row,), out, _ = numbered(tmp_path, 1)
    samples, _, rejects = ingested([changed("image", path.format(row["image"]))(row)], out)
    assert [sample.image for sample in samples] == [row["image"]] and not rejects


@pytest.mark.parametrize("path", ["a/../../secret.jpg", "../..", "a/.."])
def test_no_path_leaves_the_folder(tmp_path: Path, path: str) -> None:
    (row,), out, _ = numbered(tmp_path, 1)
    (tmp_path / "secret.jpg").write_bytes((out / row["image"]).read_bytes())
    samples, _, (reject,) = ingested([changed("image", path)(row)], out)
    assert not samples
    assert reject.reason in ("path-outside", "image-missing")


def canvas_rows(folder: Path, count: int, box: Any = BOX, dataset: str = "gqa") -> tuple[list[Row], Path]:
    """Rows whose boxes are on the padded square, as the authors' of VisCoT are."""
    rows, out, _ = numbered(folder, count)
    on_canvas = [round(value, 3) for value in boxes.to_padded(box, 64, 48)]
    return [
        changed("dataset", dataset)(changed("normalized_solution_round.bbox_3d", [on_canvas])(row))
        for row in rows
    ], out


def test_boxes_on_the_padded_square_are_brought_to_the_image(tmp_path: Path) -> None:
    rows, out = canvas_rows(tmp_path, 3)
    samples, given, rejects = ingested(rows, out, frame="padded")
    assert not rejects
    assert {one.frame for one in given.values()} == {"canvas"}
    for sample in samples:
        assert sample.boxes[0] == pytest.approx(BOX, abs=0.002)
    (sample, *_), _, _ = ingested(rows, out, frame="release")  # as the authors' code reads them
    assert sample.boxes[0] == pytest.approx(boxes.to_padded(BOX, 64, 48), abs=0.001)


def test_tallyqas_boxes_are_of_the_image_in_the_authors_file_too(tmp_path: Path) -> None:
    rows, out, _ = numbered(tmp_path, 2)
    samples, given, _ = ingested([changed("dataset", "TallyQA")(row) for row in rows], out, frame="padded")
    assert [sample.boxes for sample in samples] == [(BOX,)] * 2
    assert {one.frame for one in given.values()} == {"fractions"}


def test_our_export_that_is_declared_as_the_authors_file_is_refused(tmp_path: Path) -> None:
    top = changed(
        "normalized_solution_round.bbox_3d", [[0.2, 0.0, 0.6, 0.3]]
    )  # where the square shows no image
    rows, out, _ = numbered(tmp_path, 30)
    with pytest.raises(UserError, match=r"sources\.sif: 30 of 30 rows .*frame to fractions"):
        ingested([top(row) for row in rows], out, frame="padded")


def test_a_file_that_may_be_the_authors_and_is_declared_as_our_export_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, out = canvas_rows(tmp_path, 20)
    assert len(ingested(rows, out, frame="fractions")[0]) == 20
    assert "all boxes of 20 rows lie where VisCoT's padded square shows the image" in caplog.text
    caplog.clear()
    rows[3] = changed("normalized_solution_round.bbox_3d", [[0.2, 0.0, 0.6, 0.3]])(rows[3])
    assert len(ingested(rows, out, frame="fractions")[0]) == 20
    assert "padded square" not in caplog.text


def test_a_file_of_rows_names_those_of_the_data_set(tmp_path: Path) -> None:
    from sifthinker.core import tables

    rows, _, _ = numbered(tmp_path, 5)
    ids = [sif50k.identity(row, "sif") for row in rows]
    blank = dict.fromkeys(tables.SIF.names) | {"boxes": [], "steps": []}
    tables.write(tmp_path / "sif.parquet", tables.SIF, [blank | {"id": id} for id in ids[:4]])
    chosen = [rows[3], rows[1], rows[4], rows[1], 7]
    (tmp_path / "rl.json").write_text(json.dumps(chosen))
    found = list(rl_file.rows(tmp_path / "rl.json", ["other", "sif"], [tmp_path / "sif.parquet"]))
    assert {row["id"] for row in found if isinstance(row, dict)} == {ids[3], ids[1]}
    assert {(row.row, row.reason) for row in found if not isinstance(row, dict)} == {
        (2, "not-in-data-set"),
        (3, "duplicate-id"),
        (4, "wrong-type"),
    }
    (tmp_path / "rl.json").write_text(json.dumps([rows[4]]))
    with pytest.raises(UserError, match="none of the 1 rows of"):
        list(rl_file.rows(tmp_path / "rl.json", ["sif"], [tmp_path / "sif.parquet"]))


def test_what_a_configuration_says_of_such_sources(tmp_path: Path) -> None:
    one = {"name": "sif", "format": "published", "path": "a.json", "images": "images"}
    other = {"name": "v", "format": "viscot", "path": "b.json", "images": "images"}
    alone, both = (config.parse({"sources": some}, "test") for some in ([one], [one, other]))
    assert (alone.taken, alone.annotates) == ({"sif"}, False)
    assert (both.taken, both.annotates) == ({"sif"}, True)
    with pytest.raises(UserError, match="boxes of sif are brought from the padded square"):
        config.parse({"sources": [one], "published": {"depths": "check"}}, "test")
    config.parse({"sources": [one | {"frame": "fractions"}], "published": {"depths": "check"}}, "test")
    with pytest.raises(UserError, match=r"publish\.rl_file is for sources of the format published"):
        config.parse({"sources": [other], "publish": {"rl_file": "a.json"}}, "test")


def test_there_are_more_than_twenty_ways_to_damage_a_row() -> None:
    assert sum(bool(way.reason) for way in made.WAYS) >= 20
    assert all(way.why for way in made.WAYS if not way.reason)
