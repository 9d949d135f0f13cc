"""Chains in figures, the page that shows them, and the command: what was taken beside what was bought."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.annotation import chain_figures
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.reporting import chains_page
from sifthinker.store.artifacts import Store
from tasks.operations.chains import compared
from tests.small_part import part


def published(folder: Path) -> list[Path]:
    """Two bought chains, a taken one that is 0.2 off at one of two depths, and one with another answer."""
    rows = [dict(row) for row in part(folder / "photos", (2, 1, 1)).rows()]  # type: ignore[call-overload]
    taken = {"source": "sif", "model": "published"}
    rows[2] |= taken | {"chain": rows[2]["chain"].replace('"depth": 0.372', '"depth": 0.572')}
    rows[3] |= taken | {"answer": "3", "chain": rows[3]["chain"].replace("A cat", "2 cats")}
    tables.write(folder / "sif.parquet", tables.SIF, rows)
    return [folder / "sif.parquet"]


def test_a_chain_is_measured_against_the_map_and_the_boxes_of_its_row(tmp_path: Path) -> None:
    found = chain_figures.chains(published(tmp_path), "mine")
    assert list(found["taken"]) == [False, False, True, True]
    assert list(found["steps"]) == [2] * 4 and list(found["words"]) == [2] * 4
    assert found["begins"].all() and found["overlap"].eq(1).all()
    assert list(found["depth_off"]) == pytest.approx([0, 0, 0.1, 0])
    assert list(found["depths_right"]) == [1, 1, 0.5, 1]
    assert list(found["answer"]) == ["right", "right", "right", "wrong"]


def test_the_figures_are_means_by_source(tmp_path: Path) -> None:
    figures = chain_figures.by_source(chain_figures.chains(published(tmp_path), "mine")).set_index("source")
    assert list(figures.index) == ["photos", "sif"]
    assert list(figures["chains"]) == [2, 2] and list(figures["taken"]) == [False, True]
    assert list(figures["depths_right"]) == [1, 0.75]
    assert list(figures["answer_right"]) == [1, 0.5]


def test_the_page_and_the_table_show_every_source_and_every_reason(tmp_path: Path) -> None:
    found = chain_figures.chains(published(tmp_path), "<mine>")
    figures = chain_figures.by_source(found)
    rows = [chains_page.Rows("<mine>", "sif", 2, {"boxes": 1, "image-missing": 4})]
    for out in (tmp_path / "a" / "page.html", tmp_path / "b.html"):
        chains_page.write(out, found, figures, rows, ["Off by <b>0.1</b>."])
    text = out.read_text("utf-8")
    assert text == (tmp_path / "a" / "page.html").read_text("utf-8")  # equal figures, equal bytes
    assert "&lt;mine&gt;" in text and "<mine>" not in text and "&lt;b&gt;" in text  # names and notes are text
    assert "image-missing" in text and "75.0%" in text and "<script" not in text
    assert ">7<" in text  # rows of the file = kept + rejected
    table = chains_page.markdown(figures)
    assert "| depths right (within 0.1) | 100.0% | 75.0% |" in table


def test_a_store_without_a_data_set_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run with a published data set; `sif run --stop-after publish`"):
        compared(Store(tmp_path / "store"), [])
