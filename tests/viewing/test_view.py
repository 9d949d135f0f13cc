"""`sif view`: what it shows, and the page itself in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.data.features import PUBLISHED
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import file as record_file
from sifthinker.store.runs import runs
from sifthinker.viewing import rows
from sifthinker.viewing.rows import Filters
from tests.machine import free_port
from tests.small_part import part
from tests.ui.conftest import browsing

HOSTILE = "![x](http://example.org/seen.png) <b>bold</b>"


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two files: two rows of gqa, and one of cub whose question is Markdown and HTML."""
    made = [part(tmp_path / "a", (2,)), part(tmp_path / "b", (1,), dataset="cub", question=HOSTILE)]
    paths = [tmp_path / f"sif-{number:05}.parquet" for number in range(2)]
    for path, one in zip(paths, made, strict=True):
        tables.write(path, PUBLISHED, one.rows(), batch=1)  # a row group a row
    return paths


@pytest.mark.parametrize(
    ("by", "found"),
    [
        (Filters(), 3),
        (Filters(datasets=("cub",)), 1),
        (Filters(sources=("photos",), datasets=("cub", "gqa")), 3),
        (Filters(sources=("other",)), 0),
        (Filters(steps=(3, 9)), 0),
        (Filters(steps=(2, 2)), 3),
        (Filters(text="EXAMPLE.org"), 1),  # whatever the case
        (Filters(text="gqa/0.1"), 1),  # in the id
        (Filters(text="."), 3),  # no pattern
        (Filters(text="(["), 0),
        (Filters(depth_error=0.001), 0),  # not measured: nothing is known of them
    ],
)
def test_rows_are_filtered(parts: list[Path], by: Filters, found: int) -> None:
    assert len(rows.filtered(rows.index(parts), by)) == found


def test_an_index_leads_to_whole_rows(parts: list[Path]) -> None:
    index = rows.index(parts)
    for _, light in index.iterrows():
        assert rows.whole(parts, light["part"], light["row"])["id"] == light["id"]
    with pytest.raises(UserError, match="has no row 2"):
        rows.whole(parts, 0, 2)
    assert rows.index([]).empty


def test_the_depth_error_is_the_largest_difference_to_the_map(parts: list[Path]) -> None:
    row = rows.whole(parts, 0, 0)
    assert rows.depth_error(row) <= 0.0005  # three decimals
    said = f'"depth":{row["steps"][1][0]["depth"]}'
    assert said in row["chain"].replace(" ", "")
    wrong = row["chain"].replace(" ", "").replace(said, '"depth":0.9')
    expected = 0.9 - row["steps"][1][0]["depth"]
    assert rows.depth_error({**row, "chain": wrong}) == pytest.approx(expected, abs=0.0005)
    index = rows.measured(rows.index(parts), parts)
    assert index["depth_error"].max() <= 0.0005


def test_pictures_are_the_photograph_the_depth_and_a_panel_a_step(parts: list[Path]) -> None:
    photo, relief, panels = rows.pictures(rows.whole(parts, 0, 0))
    assert photo.size == relief.size == (480, 360)
    assert len(panels) == 2


def test_rejects_are_filtered() -> None:
    pandas = pytest.importorskip("pandas")
    every = pandas.DataFrame(
        [
            {"label": "ingest", "reason": "image-missing", "source": "a", "id": "", "file": "x.json", "detail": "no y.jpg"},
            {"label": "annotate", "reason": "answer", "source": "a", "id": "a/b/1", "file": "", "detail": "[]"},
        ]
    )  # fmt: skip
    assert len(rows.rejects(every, [], [], [], "")) == 2
    assert rows.rejects(every, ["annotate"], [], [], "")["id"].tolist() == ["a/b/1"]
    assert rows.rejects(every, [], ["image-missing"], ["a"], "Y.JPG")["file"].tolist() == ["x.json"]
    assert rows.rejects(every, [], [], ["b"], "").empty


def _store(root: Path, parts: list[Path]) -> Store:
    """A run whose publish rejected one sample, and whose ingest rejected a row."""
    store = Store(root)
    samples = part(root / "photos", (1,), question="Was it lost?").samples
    stages: dict[str, Any] = {}
    for label in ("ingest", "publish"):
        made = {"label": label, "name": "mine", "identity": {}, "inputs": {}, "versions": {}}
        with store.making(label, "a" * 20, made) as draft:
            draft.rows = {"in": 4, "kept": 3, "rejected": {"image-missing": 1}}
            if label == "publish":
                draft.rows = {"in": 4, "kept": 3, "rejected": {"depth-missing": 1}}
                (draft.out / "data").mkdir()
                for path in parts:
                    (draft.out / "data" / path.name).write_bytes(path.read_bytes())
            lost = Reject("ingest", "image-missing", f"no file {HOSTILE}", "", "photos", "mine.json", 7)
            unmapped = Reject("publish", "depth-missing", "no map", samples[0].id, "photos")
            tables.write(
                draft.out / "rejects.parquet", tables.REJECTS, [lost if label == "ingest" else unmapped]
            )
            if label == "ingest":
                tables.write(draft.out / "samples-00000.parquet", tables.SAMPLES, samples)
        [ref] = store.manifests(label)
        stages[label] = {name: ref[name] for name in ("stage", "key", "digest")}
    config = {"sources": [{"name": "photos", "images": str(root / "photos")}]}
    run = {
        "id": "r1",
        "name": "mine",
        "started": 1.0,
        "state": "Completed",
        "config": config,
        "stages": stages,
    }
    store.record(record_file(store, "r1"), run)
    return store


def test_a_rejected_sample_is_shown_with_its_photograph(tmp_path: Path, parts: list[Path]) -> None:
    store = _store(tmp_path / "store", parts)
    [record] = runs(store)
    [sample] = rows.samples(store, record).values()
    library = rows.library(store, record)
    assert rows.boxed(sample, library).size == (480, 360)
    (library.folders["photos"] / sample.image).unlink()
    with pytest.raises(UserError, match="changed since ingest"):
        rows.boxed(sample, library)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_page_shows_rows_and_rejects_and_asks_nobody_else(tmp_path: Path, parts: list[Path]) -> None:
    pytest.importorskip("streamlit")
    store = _store(tmp_path / "store", parts)
    port = free_port()
    command = [sys.executable, "-m", "flows", "view", "--store", str(store.root), "--port", str(port)]
    pictures = Path(os.environ.get("SIF_PICTURES", tmp_path))
    with (tmp_path / "view.log").open("wb") as log:
        served = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while True:
            assert served.poll() is None and time.monotonic() < deadline, (tmp_path / "view.log").read_text()
            try:
                httpx.get(url, timeout=30)
                break
            except httpx.HTTPError:
                time.sleep(1)
        asked: list[str] = []
        with browsing() as page:
            page.set_default_timeout(240_000)
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            page.get_by_text("3 rows", exact=True).wait_for()
            page.get_by_text(HOSTILE).first.wait_for()  # as text
            page.locator("img").nth(11).wait_for()  # three rows: photograph, depth and two steps each
            page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            page.screenshot(path=pictures / "view-rows.png", full_page=True)
            search = page.get_by_label("text in id, question, answer or chain")
            search.fill("example.org")
            search.press("Enter")
            page.get_by_text("1 rows", exact=True).wait_for()
            page.get_by_text("rejects", exact=True).click()
            page.get_by_text("2 rejects", exact=True).wait_for()
            page.get_by_text("mine.json, row 7").first.wait_for()
            page.get_by_text("Was it lost?").wait_for()
            page.locator("img").first.wait_for()
            page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            page.screenshot(path=pictures / "view-rejects.png", full_page=True)
        assert {httpx.URL(each).host for each in asked if not each.startswith(("data:", "blob:"))} == {
            "127.0.0.1"
        }
        os.killpg(served.pid, signal.SIGINT)
        assert served.wait(60) == 0
    finally:
        if served.poll() is None:
            os.killpg(served.pid, signal.SIGKILL)
