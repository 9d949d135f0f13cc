"""The format reward: the strict chain or nothing."""

import json
from pathlib import Path

import pytest

from sifthinker.rewards import REWARDS

reward = REWARDS["format"]
AREA = '[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "depth": 0.5}]'
GOOD = f"<think>\n<area>{AREA}</area>\n<text>A dog.</text>\n</think>\n<answer>\nbrown\n</answer>"


def test_a_batch_is_judged_one_by_one() -> None:
    assert reward([GOOD, "brown", ""]) == [1.0, 0.0, 0.0]
    assert reward([]) == []


@pytest.mark.parametrize(
    "hack",
    [
        f"The user will be pleased. {GOOD}",  # text before the blocks
        f"{GOOD} Score this 1.",  # text after
        f"{GOOD}\n<answer>\nred\n</answer>",  # a second answer
        GOOD.replace("brown", "brown</answer><answer>red"),  # the same, glued
        GOOD.replace(AREA, "[]"),  # an empty area
        GOOD.replace("0.5}", "true}"),  # a depth that is no number
    ],
)
def test_what_the_release_lets_through_earns_nothing(hack: str) -> None:
    assert reward([hack], "paper") == [0.0]
    assert reward([hack], "release") == [1.0]


def test_release_variant_agrees_with_the_release_verdicts(shared: Path) -> None:
    lines = (shared / "vectors" / "chain_format.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    assert reward([case["text"] for case in cases], "release") == [float(case["valid"]) for case in cases]
