"""The grounding reward: the release's own numbers, cases by hand, and what hacking gains."""

import json
from pathlib import Path

import pytest

from sifthinker.core import boxes
from sifthinker.core.chain import Chain, Step, render
from sifthinker.core.records import WHOLE, Box, Region
from sifthinker.rewards import REWARDS
from sifthinker.rewards.grounding import repeated, scores

reward = REWARDS["grounding"]
TRUTH = [(0.2, 0.2, 0.6, 0.6)]
HALF = (0.2, 0.2, 0.4, 0.6)  # HIoU 0.5 with the truth
FAR = (0.8, 0.8, 0.9, 0.9)  # HIoU 0
IN_WHOLE = 0.16  # of the whole image with the truth


def says(*looks: list[Box]) -> str:
    steps = tuple(Step(tuple(Region(box, 0.5) for box in look), "Here.") for look in looks)
    return render(Chain(steps, "brown"))


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_agrees_with_every_release_vector(shared: Path, variant: str) -> None:
    lines = (shared / "vectors" / "rewards.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    rewards = reward([case["text"] for case in cases], [case["gt"] for case in cases], variant)
    assert rewards == pytest.approx([case[f"bbox_reward_{variant}"] for case in cases], abs=1e-9)
    for case in cases:
        assert scores(case["text"], case["gt"]) == pytest.approx((case["hiou_first"], case["hiou_last"]))


@pytest.mark.parametrize(
    ("looks", "paper", "release"),
    [
        ([[WHOLE], [HALF], TRUTH], 1.5, 1.5),  # 1 + (1 - 0.5); the whole image is no start
        ([[WHOLE], TRUTH, [HALF]], 0.0, 0.5),  # 0.5 + (0.5 - 1): it got worse
        ([[WHOLE], TRUTH], 1.0, 1.0),  # the first look is the last: no progress
        ([TRUTH], 1.0, 1.0),
        ([[WHOLE]], IN_WHOLE, IN_WHOLE),  # no other area: the whole image is first and last
        ([[HALF], [WHOLE]], 2 * IN_WHOLE - 0.5, IN_WHOLE),  # ends in the whole image
        ([[WHOLE, WHOLE], TRUTH], 2 - IN_WHOLE, 2 - IN_WHOLE),  # only [WHOLE] alone is the whole image
        ([TRUTH, [FAR]], -1.0, 0.0),  # the least
        ([[FAR], TRUTH], 2.0, 2.0),  # the most: the paper's formula rewards a sabotaged start, see `scores`
    ],
)
def test_progress_by_hand(looks: list[list[Box]], paper: float, release: float) -> None:
    assert reward([says(*looks)], [TRUTH], "paper") == [pytest.approx(paper)]
    assert reward([says(*looks)], [TRUTH], "release") == [pytest.approx(release)]


def test_a_sabotaged_first_box_shows_in_the_parts() -> None:
    assert scores(says([FAR], TRUTH), TRUTH) == (0.0, pytest.approx(1.0))
    assert scores(says([HALF], TRUTH), TRUTH) == (pytest.approx(0.5), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("last", "cost"),
    [
        ([*TRUTH], 0.0),
        ([*TRUTH, *TRUTH], 0.5),  # HIoU is 1 all the same
        ([*TRUTH, FAR, *TRUTH, *TRUTH], 0.5),  # two of four
        ([*TRUTH, (0.2, 0.2, 0.38, 0.6)], 0.0),  # an IoU of 0.45: another box
        ([FAR, FAR, FAR], 2 / 3),
    ],
)
def test_a_box_that_is_there_twice_costs_what_is_set_and_nothing_by_default(
    last: list[Box], cost: float
) -> None:
    text = says([WHOLE], last)
    (plain,), (charged,) = reward([text], [TRUTH]), reward([text], [TRUTH], "paper", 0.4)
    assert plain - charged == pytest.approx(0.4 * cost)
    assert repeated(text) == pytest.approx(cost)
    if last == [*TRUTH, *TRUTH]:
        assert plain == pytest.approx(1.0)
    assert repeated("no chain") == 0.0 and reward(["no chain"], [TRUTH], "paper", 0.4) == [0.0]


def test_spam_boxes_cost_more_than_they_bring() -> None:
    grid = [(x / 10, y / 10, (x + 2) / 10, (y + 2) / 10) for x in range(0, 10, 2) for y in range(0, 10, 2)]
    one, spam = reward([says([HALF]), says([HALF, *grid])], [TRUTH, TRUTH])
    assert spam < one
    assert boxes.pair_iou([HALF, *grid], TRUTH) == boxes.pair_iou(
        [HALF], TRUTH
    )  # the paper's 1/|M| does not see it
    exact, exact_and_spam = reward([says(TRUTH), says([*TRUTH, *grid])], [TRUTH, TRUTH])
    assert exact_and_spam < 0.6 * exact


@pytest.mark.parametrize(
    "hack",
    [
        "Sure! " + says(TRUTH),
        says(TRUTH) + says(TRUTH),
        says(TRUTH).replace("<area>", "<area>[]</area><text>x</text><area>", 1),  # an empty area
        says(TRUTH).replace("<answer>", ""),
        "",
    ],
)
def test_what_is_no_chain_is_wrong(hack: str) -> None:
    assert reward([hack], [TRUTH]) == [0.0]
    assert scores(hack, TRUTH) is None


def test_release_reads_the_areas_of_a_broken_format_and_gives_0_for_broken_areas() -> None:
    good = says(TRUTH)
    assert reward(["Sure! " + good], [TRUTH], "release") == [pytest.approx(1)]
    assert reward([good.replace("0.2,", "2,", 1)], [TRUTH], "release") == [0.0]


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_a_completion_that_cannot_be_read_keeps_its_place_in_the_batch(variant: str) -> None:
    batch = ["no area", says([HALF]), "", says(TRUTH)]
    assert reward(batch, [TRUTH] * 4, variant) == [0.0, pytest.approx(0.5), 0.0, pytest.approx(1.0)]


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_completions_and_truths_of_different_number_are_an_error(variant: str) -> None:
    with pytest.raises(ValueError):
        reward([says(TRUTH)], [TRUTH, TRUTH], variant)
