"""Lists of boxes: what is asked, what their training is given and weighs, and how replies are judged."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sifthinker.pretraining import (
    build,
    held_out,
    held_out_lists,
    lessons,
    policy_training,
    recipe,
    scene_pool,
)

SIZE = {"width": 112, "height": 84}
BOXES = [[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[scene_pool.Seen]:
    pool = scene_pool.Pool(tmp_path_factory.mktemp("pool"), seed=2, fewest=3, most=6, **SIZE)
    scene_pool._render((pool, 0))
    return scene_pool.read(pool, 0)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> policy_training.Lists:
    start = tmp_path_factory.mktemp("start")
    for part in build.build_policy(seed=3):
        part.save_pretrained(start)
    return policy_training.Lists(replace(recipe.RECIPES["lists"], start=str(start), **SIZE))


def said(*boxes: list[float]) -> str:
    return json.dumps([{"bbox_2d": box, "depth": 0.5} for box in boxes])


@pytest.mark.parametrize(
    ("reply", "number", "all_right"),
    [
        (said(*BOXES), True, True),
        (said(*reversed(BOXES)), True, True),
        (said(BOXES[0], BOXES[0]), True, False),  # the same thing twice
        (said(BOXES[0], [0.1, 0.6, 0.3, 0.9]), True, False),
        (said(BOXES[0]), False, False),
        (said(*BOXES, BOXES[1]), False, False),
        (said(*BOXES)[:-1], False, False),
        ("none", False, False),
        ('[{"bbox_2d": [0.1, 0.2], "depth": 0.5}]', False, False),
        ('[{"bbox_2d": null}]', False, False),
    ],
)
def test_a_list_is_right_if_each_thing_has_a_box_of_its_own(
    reply: str, number: bool, all_right: bool
) -> None:
    found = held_out_lists.judged(reply, BOXES)
    assert found[:2] == (number, all_right)
    assert found[2] == pytest.approx(1.0) or not all_right


def test_questions_for_several_things_come_more_often_than_scenes_have_them(
    drawn: list[scene_pool.Seen],
) -> None:
    rng = np.random.default_rng(0)
    asked = [lessons._KINDS["all"](drawn[i % 64], 0, rng) for i in range(600)]
    numbers = Counter(len(lesson.about) for lesson in asked if "all objects" not in lesson.asked)
    assert numbers[2] > 0.35 * sum(numbers.values())
    everything = sum("all objects" in lesson.asked for lesson in asked)
    assert 0.05 * 600 < everything < 0.16 * 600


def test_the_boxes_gone_on_from_are_off_and_those_to_say_are_true(
    training: policy_training.Lists, drawn: list[scene_pool.Seen]
) -> None:
    lesson = lessons._boxes("all", "Where are all objects?", drawn[0], range(len(drawn[0].facts["things"])))
    row = [(*training.packer.conversation(lesson.asked, lesson.answer), 1.0)]
    exact = training.packer.rows([row], True)
    given = training._given(exact, np.random.default_rng(0))
    changed = torch.nonzero(exact["ids"] != given["ids"])
    assert len(changed) > 5
    numbers = training.hundredths.tolist()
    answer = set((exact["sources"] + 1).tolist())
    for row_number, place in changed.tolist():
        assert row_number * exact["ids"].shape[1] + place in answer
        before, after = (numbers.index(int(batch["ids"][row_number, place])) for batch in (exact, given))
        assert abs(before - after) <= 2
    for name in ("targets", "sources", "positions", "weights"):
        assert torch.equal(exact[name], given[name])


def test_what_is_decided_between_boxes_weighs_more(
    training: policy_training.Lists, drawn: list[scene_pool.Seen]
) -> None:
    lesson = lessons._boxes("all", "Where are all objects?", drawn[0], [0, 1])
    row = [(*training.packer.conversation(lesson.asked, lesson.answer), 1.0)]
    batch = training.packer.rows([row], True)
    weights = training._weights(batch)
    tokens = [training.processor.tokenizer.decode([token]) for token in batch["targets"].tolist()]
    by_token = dict(zip(tokens, weights.tolist(), strict=True))
    assert (by_token['}, {"bbox_2d": ['], by_token["}]"], by_token['], "depth": ']) == (4.0, 4.0, 1.0)
    first = tokens.index('[{"bbox_2d": [')
    assert weights[first + 1] == 2.0  # which thing


@pytest.mark.parametrize("right", [True, False])
def test_the_gate_is_passed_by_the_truth_and_by_nothing_less(
    drawn: list[scene_pool.Seen], monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    rng = np.random.default_rng(0)
    known = {
        (index, text): there
        for index, scene in enumerate(drawn)
        for _, text, there in lessons.lists(scene, rng)
    }

    def answers(_model: object, _processor: object, seen: list, asked: list, **_: object) -> list[str]:
        return [reply(seen, index, text) for index, text in asked]

    def reply(seen: list[scene_pool.Seen], index: int, text: str) -> str:
        if (there := known.get((index, text))) is None:
            return "?"
        return said(*(seen[index].facts["things"][thing]["box"] for thing in there[: None if right else 1]))

    monkeypatch.setattr(held_out, "answers", answers)
    found = held_out_lists.scores(None, None, drawn)
    assert found["gate"] is right
    assert found["lists"]["class"]["2"]["number"] == (1.0 if right else 0.0)
    assert found["lists"]["class"]["1"]["all"] == 1.0
    assert {"class", "everything", "beside"} == set(found["lists"])


def test_held_out_scenes_have_as_many_things_as_are_asked_for(tmp_path: Path) -> None:
    found = held_out.scenes(6, width=64, height=64, fewest=3, most=4)
    assert {len(scene.facts["things"]) for scene in found} <= {3, 4}


def test_hiou_does_not_see_a_box_that_is_there_twice() -> None:
    """So that the reward for boxes cannot teach how many there are (the miniature's README)."""
    twice = held_out_lists.judged(said(*BOXES, BOXES[1]), BOXES)
    assert twice == (False, False, pytest.approx(1.0))
