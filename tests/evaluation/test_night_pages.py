"""What a night leaves to read, here and on another machine: its message, its table, its page, and its file for programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sifthinker import config
from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.evaluation.nights import changed_replies, compare, trends
from sifthinker.evaluation.nights.records import Night
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
from tests import nights
from tests.evaluation.test_nights import RIGHT, START, WRONG, hold, night, outcomes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_trend_marks_the_nights_that_regressed_warned_or_were_inconclusive(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT, "pope": RIGHT})
    hold(store, 1, {"vstar": [0.0] * 5 + RIGHT[5:], "pope": RIGHT})  # warned
    hold(store, 2, {"vstar": WRONG, "pope": RIGHT})  # regressed, by vstar alone
    hold(store, 3, {"vstar": RIGHT, "pope": RIGHT}, level=1e-30)  # inconclusive
    rows = history.read(store.root / "history")
    marks = {
        name: [
            next(mark for mark, of in trends._marked([row]).items() if of)
            for row in rows
            if row["benchmark"] == name
        ]
        for name in ("vstar", "pope")
    }
    assert marks["vstar"] == ["passed", "warned", "regressed", "inconclusive"]
    assert marks["pope"] == ["passed", "warned", "passed", "inconclusive"]
    drawn = trends.trends(rows, [])
    assert drawn
    plain = trends.trends([{**row, "outcome": "passed", "regressed": False} for row in rows], [])
    assert plain and plain[0] != drawn[0]


def test_changed_replies_are_shown_against_the_reference_from_which_they_fell(store: Store) -> None:
    """The last good night had the same wrong replies; only the baseline tells the fall."""
    hold(store, 0, {"vstar": WRONG, "pope": [*RIGHT[:99], 0.0]})
    baseline = nights.evaluated(store, "base", {"vstar": RIGHT, "pope": RIGHT}, "baseline")
    made = nights.evaluated(store, "0001", {"vstar": WRONG, "pope": [*RIGHT[:99], 1.0]})
    outcome = compare.hold(store, night(store, 1, flips=5), [made], {}, baseline)
    assert outcome.message == "vstar fell from 70.0 to 58.0 against the baseline"
    page = outcome.report.read_text()
    assert "against the baseline: 12 lost, 0 won; 7 of them are not shown" in page
    assert "against the last good night and the baseline: 0 lost, 1 won" in page  # pope fell from neither
    assert "<b>12</b><span>replies right before, wrong or worse now" in page
    assert "<b>1</b><span>replies wrong before, right or better now" in page
    assert "12 lost, 1 won." in page


def test_the_smallest_fall_that_is_found_is_in_the_message_the_table_the_page_and_for_programs(
    store: Store,
) -> None:
    hold(store, 0, {"vstar": RIGHT})
    tonight = hold(store, 1, {"vstar": RIGHT})
    [comparison] = json.loads(tonight.report.with_name("outcome.json").read_text())["targets"]["promoted"][
        "comparisons"
    ]
    finds = f"{100 * comparison['detectable']:.1f}"
    # Ten of 70 must be lost; they are in 80 % of the nights with 12.2 lost on average.
    assert finds == "12.2"
    assert f"a fall of {finds} points would have been found in any of them" in tonight.message
    assert f"| {finds} |" in tonight.table
    assert f">{finds}</td>" in tonight.report.read_text()


def test_data_is_escaped_and_the_page_asks_the_network_for_nothing(store: Store) -> None:
    hostile = '<script>alert("x")</script>'
    hold(store, 0, {"vstar": RIGHT})
    page = hold(store, 1, {"vstar": WRONG}, missing={"pope": hostile}).report.read_text()
    assert hostile not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http" not in page.split("</style>")[1].replace("http-equiv", "")


def test_the_outcome_is_there_for_programs(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    outcome = hold(store, 1, {"vstar": WRONG})
    written = json.loads(outcome.report.with_name("outcome.json").read_text())
    [comparison] = written["targets"]["promoted"]["comparisons"]
    assert (written["outcome"], comparison["lost"], comparison["won"]) == ("regressed", 12, 0)


def test_a_night_of_a_machine_that_is_gone_is_read_on_another(bucket: str, tmp_path: Path) -> None:
    """As on Kubernetes, where the store of a run's pod goes with it."""
    pod = Store(tmp_path / "pod", bucket)
    made = hold(pod, 0, {"vstar": RIGHT})
    page = made.report.read_text()
    shutil.rmtree(pod.root)
    elsewhere = Store(tmp_path / "elsewhere", bucket)
    elsewhere.pull(pages=True)
    folder = elsewhere.root / "nights" / "night-0"
    assert (folder / "report.html").read_text() == page
    assert json.loads((folder / "outcome.json").read_text())["outcome"] == history.PASSED
    assert outcomes(elsewhere) == [history.PASSED]


def test_a_night_that_cannot_be_shared_keeps_its_verdict_and_is_shared_later(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = Store(tmp_path / "here", bucket), Store(tmp_path / "there", bucket)
    made = nights.evaluated(here, "0000", {"vstar": RIGHT})
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", lambda *_: (_ for _ in ()).throw(UserError("the server is away")))
        assert compare.hold(here, night(here, 0), [made], {}).outcome == history.PASSED
    assert "nights/night-0/report.html" in caplog.text and "the server is away" in caplog.text
    assert len(here.push_pending()) == 3
    there.pull(pages=True)
    assert outcomes(there) == [history.PASSED] and (there.root / "nights/night-0/report.html").exists()


def test_a_quick_look_is_marked_in_the_message_the_table_the_page_and_for_programs(store: Store) -> None:
    made = nights.evaluated(store, "0000", {"vstar": RIGHT})
    config = nights.config(store.root, evaluate={"limit": 100})
    outcome = compare.hold(store, Night("night-0", START, config), [made], {})
    mark = "a quick look: at most 100 questions of each benchmark, a seeded sample"
    assert outcome.message == f"nothing to compare with yet ({mark})"
    assert outcome.table.startswith(f"**This is {mark}.**")
    assert "A quick look." in outcome.report.read_text()
    assert json.loads(outcome.report.with_name("outcome.json").read_text())["limit"] == 100


def test_flips_come_lost_first_with_where_both_replies_looked(store: Store, tmp_path: Path) -> None:
    """Pictures are drawn from the benchmark's own files, as long as they are those that were asked about."""
    before = nights.evaluated(store, "0000", {"vstar": [0.0, 1.0, 1.0]})
    after = nights.evaluated(store, "0001", {"vstar": [1.0, 1.0, 0.0]})
    found = changed_replies.find(before.predictions, after.predictions)
    assert [(flip.after["id"], flip.lost) for flip in found] == [("q/2", True), ("q/0", False)]
    assert changed_replies.steps(found[0].after) == [((0.1, 0.1, 0.5, 0.6),)]
    absent = config.Benchmark(name="vstar", path=tmp_path / "nothing", images=tmp_path / "nothing")
    [shown] = changed_replies.shown(found, 1, [absent])
    assert shown.lost
    assert shown.pictures == ()


def test_flips_show_the_photograph_of_the_question(tmp_path: Path) -> None:
    import hashlib

    folder = tmp_path / "vstar"
    folder.mkdir()
    photo = nights.picture(7)
    (folder / "7.png").write_bytes(photo)
    question = {
        "image": "7.png",
        "text": "Which? (A) left (B) right",
        "category": "q",
        "label": "B",
        "question_id": 7,
    }
    (folder / "test_questions.jsonl").write_text(json.dumps(question) + "\n")
    row = {**nights.row("vstar", 7, 1.0), "image_sha256": hashlib.sha256(photo).hexdigest()}
    flip = changed_replies.Flip(row, {**row, "strict": 0.0})
    source = config.Benchmark(name="vstar", path=folder, images=folder)
    [shown] = changed_replies.shown([flip], 5, [source])
    assert len(shown.pictures) == 2
    assert all(picture.startswith(b"\xff\xd8") for picture in shown.pictures)
    changed = changed_replies.Flip(
        row, {**row, "strict": 0.0, "image_sha256": "0" * 64}
    )  # another file by that name
    assert changed_replies.shown([changed], 5, [source])[0].pictures == ()
