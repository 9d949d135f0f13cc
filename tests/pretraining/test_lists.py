"""Lists of boxes: what is asked, what their training is given and weighs, and how replies are judged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from sifthinker.llm.standin import seeing
from sifthinker.pretraining import (
    drawing,
    held_out,
    held_out_lists,
    lessons,
    policy_training,
    scene_pool,
    steps,
)
from sifthinker.scenes import questions
from tests.pretraining.conftest import SIZE

BOXES = [[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]]


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
    asked = [drawing.KINDS["all"](drawn[i % 64], 0, rng) for i in range(600)]
    numbers = Counter(len(lesson.about) for lesson in asked if "all objects" not in lesson.asked)
    assert numbers[2] > 0.35 * sum(numbers.values())
    everything = sum("all objects" in lesson.asked for lesson in asked)
    assert 0.05 * 600 < everything < 0.16 * 600


def test_the_boxes_gone_on_from_are_off_and_those_to_say_are_true(
    training: policy_training.Lists, drawn: list[scene_pool.Seen]
) -> None:
    lesson = lessons.boxes("all", "Where are all objects?", drawn[0], range(len(drawn[0].facts["things"])))
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
    lesson = lessons.boxes("all", "Where are all objects?", drawn[0], [0, 1])
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

    def answers(
        _model: object, _processor: object, seen: list, asked: list, said: list = (), **_: object
    ) -> list[str]:
        if said:
            return [
                next_one(seen[index].facts, text, words)
                for (index, text), words in zip(asked, said, strict=True)
            ]
        return [reply(seen, index, text) for index, text in asked]

    def reply(seen: list[scene_pool.Seen], index: int, text: str) -> str:
        if (there := known.get((index, text))) is None:
            return "?"
        return said(*(seen[index].facts["things"][thing]["box"] for thing in there[: None if right else 1]))

    def next_one(facts: dict, question: str, words: str) -> str:
        regions, _, text = words.rpartition("</area>\n<text>")
        before = json.loads(regions.removeprefix("<think>\n<area>"))[0]["bbox_2d"]
        called, _, edge = text.split("First ")[-1].split("Next ")[-1].removesuffix(":").partition(" from ")
        assert question == questions.how_many(called)
        scene = scene_pool.Seen(None, None, facts)
        places = dict([*lessons.classes(scene), *steps.places(scene)])
        there = [facts["things"][i]["box"] for i in places[called]]
        there.sort(key=lambda box: box[0])
        at = 0 if text.startswith("First") else there.index(before) + 1
        assert edge == (seeing.edge(before) if at else "0.00")
        if at == (len(there) if right else 1):
            return f" no more, {at}. and so on"
        edge = seeing.edge(there[at])
        return (
            f"</text>\n<area>{said(there[at])}</area>\n<text>thing, {at + 1}. Next {called} from {edge}: and"
        )

    monkeypatch.setattr(held_out, "answers", answers)
    found = held_out_lists.scores(None, None, drawn)
    assert found["gate"] == {"class": right, held_out_lists.IN_TURN: right}
    for kind in (held_out_lists.IN_TURN, held_out_lists.BESIDE):
        assert found["lists"][kind]["2"]["all"] == (1.0 if right else 0.0)
        assert found["lists"][kind]["1"]["all"] == 1.0
    assert found["lists"]["class"]["2"]["number"] == (1.0 if right else 0.0)
    assert found["lists"]["class"]["1"]["all"] == 1.0
    kinds = {"class", "everything", "beside", held_out_lists.IN_TURN, held_out_lists.BESIDE}
    assert kinds == set(found["lists"])


@pytest.mark.parametrize(
    "reply",
    [
        "no more, 1.",  # without the space that a chain says it with
        '[{"bbox_2d": [0.1, 0.1, 0.3, 0.3], "depth": 0.5}]',
        '</text>\n<area>[{"bbox_2d": [0.1, 0.1, 0.3], "depth": 0.5}]</area>\n<text>cube, 1. Next cube from 0.10:',
        '</text>\n<area>[{"bbox_2d": [0.1, 0.1, 0.3, 0.3], "depth": 0.5}]</area>\n<text>a cube: 1.</text>',
    ],
)
def test_looks_in_turn_that_cannot_be_read_are_no_list(monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    monkeypatch.setattr(held_out, "answers", lambda *_, **__: [reply])
    assert held_out_lists.in_turn(None, None, [], [(0, "cube")]) == [""]


def test_a_list_in_turn_that_never_ends_is_one_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    look = f"</text>\n<area>{said(BOXES[0])}</area>\n<text>cube, 1. Next cube from 0.10:"
    monkeypatch.setattr(held_out, "answers", lambda *_, **__: [look])
    (found,) = held_out_lists.in_turn(None, None, [], [(0, "cube")])
    assert len(json.loads(found)) == held_out_lists.MOST + 1


def test_held_out_scenes_have_as_many_things_as_are_asked_for(tmp_path: Path) -> None:
    found = held_out.scenes(6, width=64, height=64, fewest=3, most=4)
    assert {len(scene.facts["things"]) for scene in found} <= {3, 4}


def test_hiou_does_not_see_a_box_that_is_there_twice() -> None:
    """So that the reward for boxes cannot teach how many there are (the miniature's README)."""
    twice = held_out_lists.judged(said(*BOXES, BOXES[1]), BOXES)
    assert twice == (False, False, pytest.approx(1.0))


def test_scenes_of_a_recipe_are_as_alike_as_it_says(tmp_path: Path) -> None:
    """And a pool that was made before there was a choice is still one of things that are not."""
    pools = [
        scene_pool.Pool(tmp_path / str(alike), 2, fewest=5, most=5, alike=alike, **SIZE)
        for alike in (0.0, 0.9)
    ]
    shapes = []
    for pool in pools:
        pool.folder.mkdir()
        scene_pool._claim(pool)
        scene_pool._render((pool, 0))
        shapes.append(
            np.mean([len({t["shape"] for t in seen.facts["things"]}) for seen in scene_pool.read(pool, 0)])
        )
    assert shapes[1] < shapes[0] - 0.3
    told = [json.loads((pool.folder / "pool.json").read_text()) for pool in pools]
    assert "alike" not in told[0] and told[1]["alike"] == 0.9


def test_the_shares_of_every_training_are_whole() -> None:
    for shares in (drawing.SHARES, drawing.FAR, drawing.LISTS, drawing.NEXT):
        assert sum(shares.values()) == pytest.approx(1.0) and set(shares) <= set(drawing.KINDS)
