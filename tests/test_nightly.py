"""Nights held one after another: what passes, what regresses, what could not run, and what the page shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sifthinker import aliases, config, flips, history, night_report, nightly
from sifthinker.night import Night
from sifthinker.nightly import Outcome
from sifthinker.store import Store
from tests import nights

RIGHT = [1.0] * 70 + [0.0] * 30
WRONG = [0.0] * 12 + [1.0] * 58 + [0.0] * 30  # twelve of the right ones
START = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def night(store: Store, number: int, **settings: Any) -> Night:
    of = nights.config(store.root, nightly=settings)
    return Night(f"night-{number}", START + timedelta(days=number), of)


def hold(
    store: Store,
    number: int,
    verdicts: nights.Verdicts,
    missing: dict[str, str] | None = None,
    **settings: Any,
) -> Outcome:
    made = nights.evaluated(store, f"{number:04}", verdicts, missing=missing)
    return nightly.hold(store, night(store, number, **settings), [made], {})


def outcomes(store: Store) -> list[str]:
    return list({r["night"]: r["outcome"] for r in history.read(store.root / "history")}.values())


def test_the_first_night_passes_and_the_same_replies_pass_again(store: Store) -> None:
    assert hold(store, 0, {"vstar": RIGHT}).message == "nothing to compare with yet"
    again = hold(store, 1, {"vstar": RIGHT})
    assert again.outcome == history.PASSED
    assert "| vstar | last good night | 70.0 | 70.0 | +0.0 |" in again.table


def test_a_fall_regresses_until_it_is_mended_because_bad_nights_are_no_reference(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT, "pope": RIGHT})
    for number in (1, 2):
        fallen = hold(store, number, {"vstar": WRONG, "pope": RIGHT})
        assert fallen.outcome == history.REGRESSED
        assert fallen.message == "vstar fell from 70.0 to 58.0 against the last good night"
    assert hold(store, 3, {"vstar": RIGHT, "pope": RIGHT}).outcome == history.PASSED
    assert outcomes(store) == ["passed", "regressed", "regressed", "passed"]
    rows = history.read(store.root / "history")
    assert {(r["night"], r["benchmark"]) for r in rows if r["regressed"]} == {
        ("night-1", "vstar"),
        ("night-2", "vstar"),
    }


def test_a_known_flaky_benchmark_has_a_margin_in_the_configuration(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT, "pope": RIGHT})
    flaky = hold(store, 1, {"vstar": WRONG, "pope": WRONG}, margins={"vstar": 0.15})
    assert flaky.message == "pope fell from 70.0 to 58.0 against the last good night"


def test_missing_files_are_no_regression_and_no_reference(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    lost = hold(store, 1, {"pope": RIGHT}, missing={"vstar": "vstar: wants test_questions.jsonl"})
    assert lost.outcome == history.NOT_RUN
    assert lost.message == "vstar could not run: vstar: wants test_questions.jsonl"
    assert hold(store, 2, {"vstar": WRONG}).outcome == history.REGRESSED  # against night 0


def test_a_regression_outranks_what_could_not_run(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    both = hold(store, 1, {"vstar": WRONG}, missing={"pope": "no files"})
    assert both.outcome == history.REGRESSED
    assert "pope could not run" in both.message


def test_a_checkpoint_that_could_not_be_evaluated_leaves_a_row(store: Store) -> None:
    tonight = night(store, 0)
    outcome = nightly.hold(store, tonight, [], {"promoted": "the server is down"})
    assert outcome.outcome == history.NOT_RUN
    [row] = history.read(store.root / "history")
    assert (row["missing"], row["strict"], row["outcome"]) == ("the server is down", None, "not-run")
    assert "the server is down" in outcome.report.read_text()


def test_the_baseline_is_compared_with_and_its_pin_is_the_persons_acceptance(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    with store.making("merge", "aa", {}) as draft:
        (draft.out / "model").write_text("x")
    found = store.find("merge", "aa")
    assert found
    aliases.pin(store, "baseline", found.ref, "ada", "the fall on vstar is wanted")  # long after these nights
    baseline = nights.evaluated(store, "base", {"vstar": WRONG}, "baseline")
    made = nights.evaluated(store, "0001", {"vstar": WRONG})
    outcome = nightly.hold(store, night(store, 1), [made], {}, baseline)
    assert outcome.outcome == history.PASSED
    assert "last good night" not in outcome.table
    assert "| vstar | baseline | 58.0 | 58.0 |" in outcome.table
    assert "pinned by ada: the fall on vstar is wanted" in outcome.report.read_text()


def test_an_evaluation_that_is_gone_from_the_store_is_said_and_the_one_before_taken(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    hold(store, 1, {"vstar": RIGHT})
    store.discard("evaluate", "0001")
    outcome = hold(store, 2, {"vstar": WRONG})
    assert outcome.outcome == history.REGRESSED
    assert "The good night of 2026-11-02 cannot be compared with: evaluate/0001 is gone." in outcome.table


@pytest.mark.e2e
def test_five_percent_made_wrong_of_a_thousand_are_caught_and_fifty_equal_nights_are_not_raised(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_report, "trends", lambda *_: None)  # pictures take time and are not the point
    scores = [float((i * 7919) % 1000 < 600) for i in range(1000)]
    hold(store, 0, {"vstar": scores})
    made = nights.evaluated(store, "0001", {"vstar": scores})  # deterministic decoding: identical replies
    for number in range(1, 51):
        assert nightly.hold(store, night(store, number), [made], {}).outcome == history.PASSED
    injured = [0.0 if i % 20 == 0 else score for i, score in enumerate(scores)]
    outcome = hold(store, 51, {"vstar": injured})
    assert outcome.outcome == history.REGRESSED
    assert outcomes(store) == ["passed"] * 51 + ["regressed"]


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


def test_a_quick_look_is_marked_in_the_message_the_table_the_page_and_for_programs(store: Store) -> None:
    made = nights.evaluated(store, "0000", {"vstar": RIGHT})
    config = nights.config(store.root, evaluate={"limit": 100})
    outcome = nightly.hold(store, Night("night-0", START, config), [made], {})
    mark = "a quick look: at most 100 questions of each benchmark, a seeded sample"
    assert outcome.message == f"nothing to compare with yet ({mark})"
    assert outcome.table.startswith(f"**This is {mark}.**")
    assert "A quick look." in outcome.report.read_text()
    assert json.loads(outcome.report.with_name("outcome.json").read_text())["limit"] == 100


def test_flips_come_lost_first_with_where_both_replies_looked(store: Store, tmp_path: Path) -> None:
    """Pictures are drawn from the benchmark's own files, as long as they are those that were asked about."""
    before = nights.evaluated(store, "0000", {"vstar": [0.0, 1.0, 1.0]})
    after = nights.evaluated(store, "0001", {"vstar": [1.0, 1.0, 0.0]})
    found = flips.find(before.predictions, after.predictions)
    assert [(flip.after["id"], flip.lost) for flip in found] == [("q/2", True), ("q/0", False)]
    assert flips.steps(found[0].after) == [((0.1, 0.1, 0.5, 0.6),)]
    absent = config.Benchmark(name="vstar", path=tmp_path / "nothing", images=tmp_path / "nothing")
    [shown] = flips.shown(found, 1, [absent])
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
    flip = flips.Flip(row, {**row, "strict": 0.0})
    source = config.Benchmark(name="vstar", path=folder, images=folder)
    [shown] = flips.shown([flip], 5, [source])
    assert len(shown.pictures) == 2
    assert all(picture.startswith(b"\xff\xd8") for picture in shown.pictures)
    changed = flips.Flip(row, {**row, "strict": 0.0, "image_sha256": "0" * 64})  # another file by that name
    assert flips.shown([changed], 5, [source])[0].pictures == ()
