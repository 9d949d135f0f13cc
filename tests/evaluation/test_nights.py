"""Nights held one after another: what passes, what warns, what regresses, and what could not run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sifthinker import config
from sifthinker.evaluation import history
from sifthinker.evaluation.nights import compare, trends
from sifthinker.evaluation.nights.compare import Outcome
from sifthinker.evaluation.nights.records import Night
from sifthinker.store import aliases
from sifthinker.store.artifacts import Store
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
    return compare.hold(store, night(store, number, **settings), [made], {})


def outcomes(store: Store) -> list[str]:
    return list({r["night"]: r["outcome"] for r in history.read(store.root / "history")}.values())


def compared(outcome: Any) -> list[tuple[str, ...]]:
    """Benchmark, against what, before and after, of each comparison in an outcome's table."""
    head = "| benchmark | | before | after | lost / won | p (Holm) | against |"
    lines = outcome.table.splitlines()
    begin = lines.index(head) + 2
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines[begin : lines.index("", begin)]
    ]
    return [(row[0], row[6], row[2], row[3]) for row in rows]


def test_the_first_night_passes_and_the_same_replies_pass_again(store: Store) -> None:
    assert hold(store, 0, {"vstar": RIGHT}).message == "nothing to compare with yet"
    again = hold(store, 1, {"vstar": RIGHT})
    assert again.outcome == history.PASSED
    assert compared(again) == [("vstar", "last good night", "70.0", "70.0")]


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


LATER = datetime(2100, 1, 1, tzinfo=UTC)  # after any pin that a test makes


def pinned(store: Store) -> None:
    with store.making("merge", "aa", {}) as draft:
        (draft.out / "model").write_text("x")
    found = store.find("merge", "aa")
    assert found
    aliases.pin(store, "baseline", found.ref, "ada", "first good one")


@pytest.mark.e2e
def test_a_quick_look_at_a_model_that_answers_nothing_is_inconclusive_with_warnings(store: Store) -> None:
    """As it happened: 20 questions about ten pictures, four benchmarks, two references. The model writes no chains;
    17, 17, 11 and 7 right answers are lost and none is won. The least p that ten pictures can give is (1/2)^10; times
    4 comparisons (the two references say the same) that is 0.004, and the level is 0.001."""
    pinned(store)
    right = {"sif": 17, "refcoco": 17, "spatialbench": 11, "vstar": 7}
    good: nights.Verdicts = {
        name: [1.0] * n + [0.0] * (20 - n) + [1.0, 0.0] * 20 for name, n in right.items()
    }
    silent: nights.Verdicts = {name: [None] * 60 for name in right}
    baseline = nights.evaluated(store, "base", good, "baseline", per_image=2)
    quick = nights.config(store.root, evaluate={"limit": 20})

    def hold_on(day: int, key: str, verdicts: nights.Verdicts, of: config.Config) -> Outcome:
        made = nights.evaluated(store, key, verdicts, per_image=2)
        return compare.hold(store, Night(key, LATER + timedelta(days=day), of), [made], {}, baseline)

    full = nights.config(store.root)
    assert hold_on(0, "n0", good, full).outcome == history.PASSED
    look = hold_on(1, "n1", {name: of[:20] for name, of in silent.items()}, quick)
    assert look.outcome == history.INCONCLUSIVE
    for name, n in right.items():
        fall = f"{name} fell from {5 * n}.0 to 0.0 against the last good night and the baseline"
        assert f"{fall} (beyond its margin, not significant)" in look.message
        assert (
            f"100 % of the replies to {name} are unparsable, 0 % in the last good night and the baseline (no box"
            in look.message
        )
    assert "4 of 4 comparisons could not have failed, whatever was answered" in look.message
    assert "none worse" not in look.message
    assert look.table.count("| fell, could not have failed |") == 4
    assert look.table.count("| 1.0 | none |") == 4  # margin, finds
    page = look.report.read_text()
    assert "Inconclusive" in page and '<b class="bad">0</b><span>of 4 comparisons could have failed' in page
    # The next full night is held against the good night, not against the quick look.
    night = hold_on(2, "n2", silent, full)
    assert night.outcome == history.REGRESSED
    assert "vstar fell from 45.0 to 0.0 against the last good night and the baseline" in night.message
    assert outcomes(store) == ["passed", "inconclusive", "regressed"]


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [
        (0, history.PASSED),
        (1, history.PASSED),  # exactly the margin of a point
        (5, history.WARNED),  # p = 1/32
        (9, history.WARNED),  # p = 1/512, and the level is 1/1000
        (10, history.REGRESSED),  # p = 1/1024
    ],
)
def test_a_fall_beyond_the_margin_warns_until_it_is_significant(
    store: Store, lost: int, outcome: str
) -> None:
    hold(store, 0, {"vstar": RIGHT})
    fallen = [0.0] * lost + RIGHT[lost:]
    tonight = hold(store, 1, {"vstar": fallen})
    assert tonight.outcome == outcome
    if outcome != history.PASSED:
        assert f"vstar fell from 70.0 to {70 - lost}.0 against the last good night" in tonight.message
    # Only a night that passed is what the next one is held against.
    passed = outcome == history.PASSED
    [(_, against, before, _)] = compared(hold(store, 2, {"vstar": fallen}))
    assert (against, before) == ("last good night", f"{70 - lost if passed else 70}.0")


def test_replies_that_become_unparsable_warn_though_no_score_falls(store: Store) -> None:
    silent: list[float | None] = [1.0] * 70 + [None] * 10 + [0.0] * 20  # ten wrong answers are no answers now
    hold(store, 0, {"vstar": RIGHT})
    tonight = hold(store, 1, {"vstar": silent})
    assert tonight.outcome == history.WARNED
    assert tonight.message == (
        "10 % of the replies to vstar are unparsable, 0 % in the last good night (no box 0 % to 10 %)"
    )
    assert "10 % of the replies to vstar are unparsable" in tonight.report.read_text()
    assert hold(store, 2, {"vstar": silent}, unparsable=0.1).outcome == history.PASSED
    assert hold(store, 3, {"vstar": silent}).outcome == history.PASSED  # no jump from the night before


def test_replies_that_fail_in_another_way_warn_though_every_score_holds(store: Store) -> None:
    """Chains without a valid box, whose answers are read as before."""
    hold(store, 0, {"vstar": RIGHT})
    made = nights.evaluated(store, "0001", {"vstar": RIGHT}, boxless=8)
    tonight = compare.hold(store, night(store, 1), [made], {})
    assert tonight.outcome == history.WARNED
    assert tonight.message == "8 % of the replies to vstar have no box, 0 % in the last good night"
    page = tonight.report.read_text()
    assert "Kinds of failure" in page and '<span class="bad">drifted</span>' in page
    written = json.loads(tonight.report.with_name("outcome.json").read_text())["targets"]["promoted"]
    assert [(one["kind"], one["after"], one["drifted"]) for one in written["failures"]] == [
        ("no box", 0.08, True)
    ]


def test_scores_by_other_rules_are_not_set_beside_tonights(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    made = nights.evaluated(store, "0001", {"vstar": WRONG}, rules=2)
    page = compare.hold(store, night(store, 1), [made], {}).report.read_text()
    scores = page.partition('<section id="scores1">')[2].partition("</section>")[0]
    assert ">58.0<" in scores and "70.0" not in scores  # of the last good night
    assert trends._rule_changes([{"rules": None}, {"rules": 1}, {"rules": 2}, {"rules": 2}]) == [2]


def test_a_first_night_whose_replies_are_unparsable_warns_and_is_no_reference(store: Store) -> None:
    first = hold(store, 0, {"vstar": [None] * 100})
    assert (first.outcome, first.message) == (
        history.WARNED,
        "100 % of the replies to vstar are unparsable",
    )
    assert hold(store, 1, {"vstar": RIGHT}).message == "nothing to compare with yet"


def test_a_score_that_cannot_fall_is_inconclusive_and_not_passed(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT, "pope": [0.0] * 100})
    again = hold(store, 1, {"vstar": RIGHT, "pope": [0.0] * 100})
    assert again.outcome == history.INCONCLUSIVE
    assert again.message == (
        "1 of 2 comparisons could not have failed, because the score before was not above the margin (pope)"
    )


def test_a_quick_look_that_passes_is_no_reference_for_a_whole_night(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    made = nights.evaluated(store, "0001", {"vstar": RIGHT[:60]})
    quick = nights.config(store.root, evaluate={"limit": 60})
    assert compare.hold(store, Night("n1", START + timedelta(days=1), quick), [made], {}).outcome == (
        history.PASSED
    )
    assert "| 12 / 0 of 100 |" in hold(store, 2, {"vstar": WRONG}).table  # all hundred are paired


def test_a_night_scored_by_other_rules_is_not_compared_as_if_the_model_had_changed(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT})
    made = nights.evaluated(store, "0001", {"vstar": WRONG}, rules=2)
    outcome = compare.hold(store, night(store, 1), [made], {})
    assert outcome.outcome == history.INCONCLUSIVE
    assert "version 1 of the scoring rules, this night by version 2: not compared" in outcome.table
    baseline = nights.evaluated(store, "base", {"vstar": RIGHT}, "baseline", rules=2)
    again = nights.evaluated(store, "0002", {"vstar": WRONG}, rules=2)
    assert compare.hold(store, night(store, 2), [again], {}, baseline).outcome == history.REGRESSED


def test_a_benchmark_with_the_same_rules_is_compared_beside_one_with_other_rules(store: Store) -> None:
    before = nights.evaluated(store, "0000", {"vstar": RIGHT, "pope": RIGHT}, rules={"vstar": 5, "pope": 5})
    compare.hold(store, night(store, 0), [before], {})
    made = nights.evaluated(store, "0001", {"vstar": WRONG, "pope": WRONG}, rules={"vstar": 5, "pope": 6})
    outcome = compare.hold(store, night(store, 1), [made], {})
    assert outcome.outcome == history.REGRESSED
    assert "pope: the last good night was scored by version 5" in outcome.table
    assert "vstar: the last good night was scored" not in outcome.table
    held = json.loads((store.root / "nights" / "night-1" / "outcome.json").read_text())
    compared = held["targets"]["promoted"]["comparisons"]
    assert [one["benchmark"] for one in compared] == ["vstar"]


def test_a_last_good_night_that_says_what_the_baseline_says_is_compared_with_once(store: Store) -> None:
    """Ten lost of 70 are p = 1/1024 of one comparison: two of the same evaluation would double it beyond the level."""
    pinned(store)
    same = nights.evaluated(store, "0000", {"vstar": RIGHT})
    later = nights.config(store.root)
    first = compare.hold(store, Night("n0", LATER, later), [same], {}, same)
    assert first.outcome == history.PASSED
    made = nights.evaluated(store, "0001", {"vstar": [0.0] * 10 + RIGHT[10:]})
    night = Night("n1", LATER + timedelta(days=1), later)
    outcome = compare.hold(store, night, [made], {}, same)
    assert outcome.outcome == history.REGRESSED
    assert compared(outcome) == [("vstar", "last good night and the baseline", "70.0", "60.0")]
    assert outcome.message == "vstar fell from 70.0 to 60.0 against the last good night and the baseline"
    assert "against the last good night and the baseline: 10 lost, 0 won" in outcome.report.read_text()


def test_a_benchmark_whose_references_are_lost_leaves_the_night_open(store: Store) -> None:
    hold(store, 0, {"vstar": RIGHT, "pope": RIGHT})
    store.discard("evaluate", "0000")
    gone = hold(store, 1, {"vstar": WRONG, "pope": RIGHT})
    assert gone.outcome == history.INCONCLUSIVE
    assert "vstar was not compared: no reference is left that has its questions" in gone.message
    assert "The good night of 2026-11-01 cannot be compared with: evaluate/0000 is gone." in gone.table


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
    outcome = compare.hold(store, tonight, [], {"promoted": "the server is down"})
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
    outcome = compare.hold(store, night(store, 1), [made], {}, baseline)
    assert outcome.outcome == history.PASSED
    assert "last good night" not in outcome.table
    assert compared(outcome) == [("vstar", "baseline", "58.0", "58.0")]
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
    monkeypatch.setattr(trends, "trends", lambda *_: None)  # pictures take time and are not the point
    scores = [float((i * 7919) % 1000 < 600) for i in range(1000)]
    hold(store, 0, {"vstar": scores})
    made = nights.evaluated(store, "0001", {"vstar": scores})  # deterministic decoding: identical replies
    for number in range(1, 51):
        assert compare.hold(store, night(store, number), [made], {}).outcome == history.PASSED
    injured = [0.0 if i % 20 == 0 else score for i, score in enumerate(scores)]
    outcome = hold(store, 51, {"vstar": injured})
    assert outcome.outcome == history.REGRESSED
    assert outcomes(store) == ["passed"] * 51 + ["regressed"]
