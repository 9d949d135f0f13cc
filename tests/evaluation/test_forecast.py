"""What a night is foretold to find, against nights that are simulated and judged as nights are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sifthinker.config import Benchmark
from sifthinker.evaluation import gate, history, power
from sifthinker.evaluation.benchmarks import SAMPLED
from sifthinker.evaluation.benchmarks.question import rules
from sifthinker.evaluation.gate import Numbers, Paired
from sifthinker.evaluation.nights import compare, forecast, records
from sifthinker.evaluation.nights.records import Night
from sifthinker.store.artifacts import Store
from tests import nights

LEVEL, MARGIN, FAMILY = 0.001, 0.01, 8


@cache
def regressed(lost: int, won: int, n: int) -> bool:
    """The gate's own verdict, of one comparison in a family of eight; nothing else of the night falls."""
    return gate.mcnemar(lost, won) * FAMILY <= LEVEL and gate.beyond((lost - won) / n, MARGIN)


def rate(old: Numbers, fall: float, unsteady: float, nights: int, seed: int) -> float:
    """How many simulated nights regress: some questions fall to 0, and of all a share is answered anew by chance."""
    generator = np.random.default_rng(seed)
    n, right = len(old), old > 0
    found = 0
    for _ in range(nights):
        fallen = generator.random(n) < fall / float(old.mean())
        lost = right & (generator.random(n) < unsteady / right.sum() * n)
        won = ~right & (generator.random(n) < unsteady / (~right).sum() * n)
        tonight = np.where(fallen, False, (right & ~lost) | won)
        found += regressed(int((right & ~tonight).sum()), int((~right & tonight).sum()), n)
    return found / nights


@pytest.mark.parametrize("unsteady", [0.0, 0.02])
@pytest.mark.parametrize("questions", [200, 1000, 5000])
def test_falls_of_2_5_and_10_points_are_found_at_the_rate_that_was_foretold(
    questions: int, unsteady: float
) -> None:
    old = (np.arange(questions) * 7919 % questions < 0.6 * questions).astype(float)
    new = old.copy()
    changed = round(
        unsteady * questions
    )  # two earlier nights of the same weights differ in so many, both ways
    new[np.flatnonzero(old)[:changed]] = 0.0
    new[np.flatnonzero(old == 0)[:changed]] = 1.0
    paired = Paired(old, new, tuple(map(str, range(questions))))
    for fall in forecast.FALLS:
        foretold = power.chance(paired, fall, MARGIN, LEVEL / FAMILY)
        assert foretold is not None
        # 400 nights: 3.3 standard errors at a rate of a half are 8 points.
        assert rate(old, fall, unsteady, 400, questions) == pytest.approx(foretold, abs=0.08), fall


def test_fifty_nights_of_an_unsteady_model_that_did_not_change_raise_no_alarm_beyond_the_level() -> None:
    """Eight comparisons a night at a level of 5 %, ten times fifty nights: with a chance of 0.1 % more than 40 alarm."""
    generator = np.random.default_rng(3)
    alarms = 0
    for _ in range(500):
        made = []
        for n in (200, 200, 400, 400, 1000, 1000, 2000, 5000):
            lost, won = generator.binomial(n, 0.05, 2)
            p = gate.mcnemar(int(lost), int(won))
            made.append(
                gate.Comparison(
                    "b", "last", n, 0, 0.6, 0.6 + (won - lost) / n, 0, 0, int(lost), int(won), "", 0.0, p
                )
            )
        alarms += any(c.regressed for c in gate.judge(made, 0.05))
    assert 0 < alarms <= 40


def test_the_chance_of_questions_that_share_images_is_that_of_the_test_by_swaps() -> None:
    """Sixty images of two questions: all swaps are drawn by the gate itself."""
    generator = np.random.default_rng(1)
    old = (generator.random(120) < 0.8).astype(float)
    images = tuple(str(i // 2) for i in range(120))
    foretold = power.chance(Paired(old, old, images), 0.2, MARGIN, LEVEL)
    assert foretold is not None and 0.1 < foretold < 0.95
    found, share = 0, 0.2 / float(old.mean())
    for seed in range(60):
        down = np.repeat(np.random.default_rng([seed, 2]).random(60) < share, 2)
        new = np.where(down, 0.0, old)
        found += gate.swaps(new - old, images) <= LEVEL and gate.beyond(float((old - new).mean()), MARGIN)
    assert found / 60 == pytest.approx(foretold, abs=0.21)  # 3.3 standard errors of 60


def test_what_cannot_fall_so_far_has_no_chance_and_what_cannot_fail_has_none_either() -> None:
    few = np.array([1.0] * 5 + [0.0] * 95)
    paired = Paired(few, few, tuple(map(str, range(100))))
    assert power.chance(paired, 0.1, 0.0, 0.001) is None
    assert power.chance(paired, 0.05, 0.0, 0.001) == 0.0  # (1/2)^5 is the least p


START = datetime(2026, 11, 1, tzinfo=UTC)
RIGHT = [1.0] * 60 + [0.0] * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def lines(store: Store, baseline: Any = None, **sections: Any) -> list[forecast.Expected]:
    made = nights.config(store.root, **sections)
    rows = history.read(store.root / "history")
    good = forecast.good_nights(rows, "promoted", 0.0, lambda row: compare.evaluation_of(store, row))
    return forecast.expected(made, {"promoted": good}, baseline)


def benchmark(tmp_path: Path, questions: int = 0, name: str = "vstar") -> dict[str, Any]:
    folder = tmp_path / f"{name}{questions}"
    folder.mkdir(exist_ok=True)
    text = "Which? (A) left (B) right"
    rows = [
        f'{{"image": "{i}.png", "text": "{text}", "category": "q", "label": "B", "question_id": {i}}}\n'
        for i in range(questions)
    ]
    if questions:
        (folder / "test_questions.jsonl").write_text("".join(rows))
    return {"benchmarks": [{"name": name, "path": str(folder), "images": str(folder)}]}


def test_a_plan_says_what_the_night_then_finds(store: Store, tmp_path: Path) -> None:
    held = nights.evaluated(store, "0000", {"vstar": RIGHT}, rules=rules("vstar"))
    compare.hold(store, Night("n0", START, nights.config(store.root)), [held], {})
    base = nights.evaluated(
        store, "base", {"vstar": [0.0, *RIGHT[1:60], 1.0, *RIGHT[61:]]}, "baseline", rules=rules("vstar")
    )
    base = replace(base, model="e" * 64)  # other weights: the two say nothing of how much replies vary
    last, pinned = lines(store, base, evaluate=benchmark(tmp_path))
    assert [(one.against, one.n, one.before) for one in (last, pinned)] == [
        ("last good night", 100, 0.6),
        ("baseline", 100, 0.6),
    ]
    tonight = nights.evaluated(store, "0001", {"vstar": RIGHT}, rules=rules("vstar"))
    compare.hold(
        store, Night("n1", START + timedelta(days=1), nights.config(store.root)), [tonight], {}, base
    )
    paired = gate.pair(held.scored()["vstar"], tonight.scored()["vstar"])
    assert paired
    assert last.detectable == power.detectable(paired, 0.01, 0.001 / 2)
    assert last.chances[2] == pytest.approx(power.chance(paired, 0.1, 0.01, 0.0005))
    once = lines(store, held, evaluate=benchmark(tmp_path))
    assert [one.against for one in once] == [records.BOTH]  # one and the same
    shown = forecast.table([last])[0]
    assert shown[:5] == ("promoted", "vstar", "last good night", "100", "60.0")


def test_a_benchmark_without_a_reference_is_assumed_to_be_half_right(store: Store, tmp_path: Path) -> None:
    [line] = lines(store, evaluate=benchmark(tmp_path, questions=400))
    assert (line.against, line.n, line.before) == (forecast.NOTHING, 400, 0.5)
    assert line.detectable and 0.02 < line.detectable < 0.05
    assert lines(store) == []  # no benchmark, no line


def test_sampled_replies_are_listed_and_counted_as_the_night_compares_them(
    store: Store, tmp_path: Path
) -> None:
    of = {**benchmark(tmp_path, questions=400), "sampled": 0.5}
    verdicts: nights.Verdicts = {"vstar": RIGHT, f"vstar{SAMPLED}": RIGHT}
    held = nights.evaluated(store, "0000", verdicts, rules=rules("vstar"))
    compare.hold(store, Night("n0", START, nights.config(store.root)), [held], {})
    greedy, sampled = lines(store, evaluate=of)
    assert [(one.benchmark, one.n) for one in (greedy, sampled)] == [("vstar", 100), ("vstar sampled", 100)]
    tonight = nights.evaluated(store, "0001", verdicts, rules=rules("vstar"))
    night = Night("n1", START + timedelta(days=1), nights.config(store.root))
    compare.hold(store, night, [tonight], {})
    outcome = json.loads((store.root / "nights" / "n1" / "outcome.json").read_text())
    made = outcome["targets"]["promoted"]["comparisons"]
    assert [(one["benchmark"], one["detectable"]) for one in made] == [
        (one.benchmark, one.detectable) for one in (greedy, sampled)
    ]
    [alone] = lines(store, evaluate={**of, "sampled": None})
    assert alone.benchmark == "vstar" and alone.chances[2] > greedy.chances[2]  # type: ignore[operator]


def test_sampled_replies_without_a_reference_are_assumed_as_greedy_ones_are(
    store: Store, tmp_path: Path
) -> None:
    found = lines(store, evaluate={**benchmark(tmp_path, questions=400), "sampled": 0.5})
    assert [(one.benchmark, one.against, one.n) for one in found] == [
        ("vstar", forecast.NOTHING, 400),
        ("vstar sampled", forecast.NOTHING, 400),
    ]


def test_a_limit_and_the_variation_of_two_nights_are_taken_into_account(store: Store, tmp_path: Path) -> None:
    varied = [1.0, 0.0] * 10 + RIGHT[20:]  # ten of the first twenty are wrong in one night
    for number, verdicts in enumerate(([*RIGHT[:60], 1.0, 0.0, *RIGHT[62:]], RIGHT)):
        made = nights.evaluated(store, f"000{number}", {"vstar": verdicts}, rules=rules("vstar"))
        at = START + timedelta(days=number)
        compare.hold(store, Night(f"n{number}", at, nights.config(store.root)), [made], {})
    of = benchmark(tmp_path)
    [steady] = lines(store, evaluate=of)
    made = nights.evaluated(store, "0002", {"vstar": varied}, "baseline", rules=rules("vstar"))
    _, other = lines(store, made, evaluate=of)
    [limited] = lines(store, evaluate={**of, "limit": 40})
    assert limited.n == 40 and other.n == steady.n == 100
    assert steady.detectable and (limited.detectable is None or limited.detectable > steady.detectable)


def test_what_cannot_be_compared_says_why(store: Store, tmp_path: Path) -> None:
    made = nights.evaluated(store, "0000", {"vstar": RIGHT}, rules=1)
    compare.hold(store, Night("n0", START, nights.config(store.root)), [made], {})
    [line] = lines(store, evaluate=benchmark(tmp_path))
    assert f"scored by version 1 of the scoring rules, and now version {rules('vstar')} holds" in line.problem
    store.discard("evaluate", "0000")
    [line] = lines(store, evaluate={"benchmarks": [Benchmark(name="pope", path=tmp_path, images=tmp_path)]})
    assert line.problem.startswith("pope: wants coco_pope_random.json")
