"""Lists of boxes: what is asked, what their training is given and weighs, and how replies are judged."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sifthinker.llm.standin import seeing
from sifthinker.pretraining import (
    build,
    drawing,
    held_out,
    held_out_lists,
    lessons,
    policy_training,
    recipe,
    scene_pool,
    steps,
)
from sifthinker.scenes import questions

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

    def answers(_model: object, _processor: object, seen: list, asked: list, **_: object) -> list[str]:
        return [reply(seen, index, text) for index, text in asked]

    def reply(seen: list[scene_pool.Seen], index: int, text: str) -> str:
        if "First" in text or "Next" in text:
            return next_one(seen[index].facts, text)
        if (there := known.get((index, text))) is None:
            return "?"
        return said(*(seen[index].facts["things"][thing]["box"] for thing in there[: None if right else 1]))

    def next_one(facts: dict, text: str) -> str:
        before, _, called = text.rpartition(". Next ")
        called, _, edge = called.removeprefix("First ").removesuffix(":").partition(" from ")
        places = dict(lessons.classes(scene_pool.Seen(None, None, facts)))
        there = [facts["things"][i]["box"] for i in places[called]]
        there.sort(key=lambda box: box[0])
        assert edge == (seeing.edge(json.loads(before)[0]["bbox_2d"]) if before else "0.00")
        at = there.index(json.loads(before)[0]["bbox_2d"]) + 1 if before else 0
        return said(there[at]) if at < (len(there) if right else 1) else build.NO_MORE

    monkeypatch.setattr(held_out, "answers", answers)
    found = held_out_lists.scores(None, None, drawn)
    assert found["gate"] == {"class": right, held_out_lists.IN_TURN: right}
    assert found["lists"][held_out_lists.IN_TURN]["3"]["all"] == (1.0 if right else 0.0)
    assert found["lists"]["class"]["2"]["number"] == (1.0 if right else 0.0)
    assert found["lists"]["class"]["1"]["all"] == 1.0
    assert {"class", "everything", "beside", held_out_lists.IN_TURN} == set(found["lists"])


def test_held_out_scenes_have_as_many_things_as_are_asked_for(tmp_path: Path) -> None:
    found = held_out.scenes(6, width=64, height=64, fewest=3, most=4)
    assert {len(scene.facts["things"]) for scene in found} <= {3, 4}


def test_hiou_does_not_see_a_box_that_is_there_twice() -> None:
    """So that the reward for boxes cannot teach how many there are (the miniature's README)."""
    twice = held_out_lists.judged(said(*BOXES, BOXES[1]), BOXES)
    assert twice == (False, False, pytest.approx(1.0))


def test_the_next_thing_is_the_next_to_the_right_and_no_more_comes_after_the_last(
    drawn: list[scene_pool.Seen],
) -> None:
    rng = np.random.default_rng(0)
    ends = Counter[str]()
    for turn in range(400):
        scene = drawn[turn % 64]
        things = scene.facts["things"]
        lesson = drawing.KINDS["next"](scene, 0, rng)
        if lesson is None:  # two of them stand above one another
            continue
        before, _, called = lesson.asked.rpartition(". Next ")
        called, _, edge = called.removeprefix("First ").removesuffix(":").partition(" from ")
        sets = dict(lessons.classes(scene)) | {
            f"object {place}": there for place, there in scene.facts["beside"]
        }
        edges = {index: things[index]["box"][0] for index in sets[called]}
        assert edge == (seeing.edge(json.loads(before)[0]["bbox_2d"]) if before else "0.00")
        start = json.loads(before)[0]["bbox_2d"][0] + 0.011 if before else -1.0  # what is not exact
        later = sorted((left, index) for index, left in edges.items() if left > start)
        ends[lesson.answer == build.NO_MORE, bool(before)] += 1
        if lesson.answer == build.NO_MORE:
            assert not later and lesson.about == ()
        else:
            assert lesson.about == ((later[0][1],),)
            (region,) = json.loads(lesson.answer)
            assert region["bbox_2d"] == pytest.approx(things[later[0][1]]["box"], abs=1e-3)
    assert ends[True, False] == 0  # what is asked for is there
    assert min(ends[True, True], ends[False, True], ends[False, False]) > 60


@pytest.mark.parametrize(
    ("place", "gap"),
    [(0, 0.04), (1, 0.04), (2, 0.05), (3, 0.3), (4, 0.3)],  # the place after the last: there are no more
)
def test_the_gap_that_decides_a_look_is_that_about_it(place: int, gap: float) -> None:
    assert steps._gap([0.1, 0.14, 0.19, 0.49], place) == pytest.approx(gap)


def test_looks_that_are_hard_to_tell_are_asked_for_more_often(
    drawn: list[scene_pool.Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hard(seed: int) -> float:
        rng, gaps = np.random.default_rng(seed), []
        for turn in range(600):
            scene = drawn[turn % 64]
            lesson = drawing.KINDS["next"](scene, 0, rng)
            if lesson and len(lesson.among) > 1:
                edges = sorted(scene.facts["things"][index]["box"][0] for index in lesson.among)
                place = len(edges)
                if lesson.about:
                    place = edges.index(scene.facts["things"][lesson.about[0][0]]["box"][0])
                gaps.append(steps._gap(edges, place))
        assert min(gaps) >= questions.APART
        return sum(gap < 0.1 for gap in gaps) / len(gaps)

    more = hard(0)
    monkeypatch.setattr(steps, "_CLOSE", 0.0)
    assert more > 1.5 * hard(0)


def test_lists_in_turn_are_asked_for_only_where_the_order_is_clear(drawn: list[scene_pool.Seen]) -> None:
    unclear = 0
    for scene in drawn:
        asked = dict(steps.turns(scene, np.random.default_rng(0)))
        for things in asked.values():
            edges = sorted(scene.facts["things"][index]["box"][0] for index in things)
            assert all(b - a >= questions.APART for a, b in itertools.pairwise(edges))
        numbers = {len(found) for called, found in lessons.classes(scene) if called != "object"}
        unclear += len(numbers) - len(asked)
    assert unclear  # some scenes have none of a number


def test_what_is_said_right_before_a_look_stays_next_to_it(
    training: policy_training.Lists, drawn: list[scene_pool.Seen]
) -> None:
    """The single step of a chain stands far from the pictures as a whole; other answers stand far from their questions."""
    rng = np.random.default_rng(0)
    for kind in ("next", "said"):
        assert {training._away(kind, rng)[0] for _ in range(20)} == {0}
    assert {training._away("all", rng)[1] for _ in range(20)} == {0}
    row = [(*training.packer.conversation("First cube from 0.00:", build.NO_MORE), 1.0)]
    near, far = (training.packer.rows([row], True, None, iter([gap])) for gap in (0, 7))
    moved = (far["positions"] - near["positions"])[:, 0]
    length = len(row[0][0]) + len(row[0][1])
    assert (moved[:, -length:] == 7).all() and (moved[:, :-length] == 0).all()


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


def test_the_edge_looks_for_the_one_thing_that_is_asked_for_and_at_itself_where_there_is_none(
    drawn: list[scene_pool.Seen], tmp_path: Path
) -> None:
    for part in build.build_policy(seed=3):
        part.save_pretrained(tmp_path)
    training = policy_training.Next(replace(recipe.RECIPES["next"], start=str(tmp_path), **SIZE))
    things = [{"color": color, "shape": shape, "size": "small"} for color, shape in (
        ("red", "cube"), ("blue", "cube"), ("red", "cone"),
    )]  # fmt: skip
    scene = scene_pool.Seen(None, None, {"things": things, "cells": [[0, 1, 2, *[-1] * 9]]})

    def looked(lesson: lessons.Lesson) -> list[tuple[str, list[str], set[int] | str | None]]:
        """Each word that looks, the words that it does so by, and the things it is to look at."""
        asked = training.packer.conversation(lesson.asked, "")[0]
        words = [training.processor.tokenizer.decode([token]).strip() for token in asked]
        found = training._seeking(lesson, asked, things)
        return [
            (words[at], [words[place] for place in sorted(said)], None if meant is None else set(meant))
            for at, said, meant in found
        ]

    def answered(lesson: lessons.Lesson) -> list[int]:
        """Where the answer's first word is to look, in a row whose pictures are its first places."""
        row = [(*training.packer.conversation(lesson.asked, lesson.answer), 1.0)]
        batch = training.packer.rows([row], False)
        *_, answers = training._looks([scene], [[lesson]], [row], 1, batch)
        return answers.places[0] if answers.places else []

    among = {"among": (0, 1)}
    first = lessons.Lesson("next", "First small cube from 0.00:", "[]", ((1,),), **among)
    assert looked(first) == [("cube", ["small"], None), ("0.00", ["small", "cube"], {1})]
    last = lessons.Lesson("next", '[{"bbox_2d": [0.345, 0.1]}]. Next cube from 0.34:', "no more", **among)
    assert looked(last) == [("cube", [], None), ("0.34", ["cube"], set())]
    assert looked(lessons.Lesson("all", "Where are all cubes?", "[]", ((0,), (1,)))) == [
        ("cubes", [], {0, 1})
    ]
    any_of_all = lessons.Lesson("next", "First object from 0.00:", "[]", ((2,),), among=(2, 0, 1))
    assert looked(any_of_all) == [("object", [], None), ("0.00", ["object"], {2})]
    all_small = lessons.Lesson("next", "First small object from 0.00:", "[]", ((2,),), among=(2, 0, 1))
    assert looked(all_small)[-1] == ("0.00", ["small", "object"], {2}) and len(looked(all_small)) == 2
    place = lessons.Lesson("next", "First object behind the red cone from 0.00:", "[]", ((1,),), among=(0, 1))
    assert looked(place) == [("cone", ["red"], {2})]  # what the place is beside: the edge is left free
    assert len(answered(first)) == 2  # the thing, and the edge that has found it
    assert len(answered(last)) == 1  # the edge that has found nothing
    assert answered(replace(last, kind="say")) == []


def test_after_a_look_its_name_number_and_edge_are_said(drawn: list[scene_pool.Seen]) -> None:
    """Word for word what a chain says there, about the thing that was looked at."""
    rng, firsts = np.random.default_rng(0), 0
    for turn in range(200):
        scene = drawn[turn % 64]
        lesson = drawing.KINDS["said"](scene, 0, rng)
        before, region = lesson.asked.removesuffix("</area>\n<text>").split("</text>\n<area>")
        (box,) = json.loads(region)
        ((index,),) = lesson.about
        thing = scene.facts["things"][index]
        assert box["bbox_2d"] == pytest.approx(thing["box"], abs=0.011)
        name, number, called, edge = re.fullmatch(
            r"(.+), (\d)\. Next (.+) from (0\.\d\d):", lesson.answer
        ).groups()
        assert name == f"{thing['size']} {thing['color']} {thing['shape']}"
        assert edge == f"{int(box['bbox_2d'][0] * 1000) // 10 / 100:.2f}"
        if before.startswith("First "):
            firsts += 1
            assert (number, before) == ("1", f"First {called} from 0.00:")
        else:
            assert re.fullmatch(rf".+, {int(number) - 1}\. Next {called} from 0\.\d\d:", before)
    assert 20 < firsts < 180


def test_what_a_question_looks_for_is_what_chains_about_it_begin_with(drawn: list[scene_pool.Seen]) -> None:
    rng, forms = np.random.default_rng(0), Counter[str]()
    for turn in range(200):
        lesson = drawing.KINDS["begun"](drawn[turn % 64], 0, rng)
        (which, form), *_ = [(n, f) for n, f in enumerate(build.BEGIN) if lesson.asked.startswith(f[:20])]
        question = lesson.asked.removeprefix(form.removesuffix("{query}"))
        assert (
            question.endswith("?") and lesson.answer == f"First {seeing.counted(question)[which]} from 0.00:"
        )
        forms[question.split()[0], which] += 1
    assert set(forms) == {("How", 0), ("Are", 0), ("Are", 1)}


def test_two_counts_answer_a_question_that_compares_them(drawn: list[scene_pool.Seen]) -> None:
    rng = np.random.default_rng(0)
    for turn in range(100):
        lesson = drawing.KINDS["tally"](drawn[turn % 64], 0, rng)
        word, a, b = re.fullmatch(r"Are there (more|fewer) .+ than .+\? (\d) to (\d):", lesson.asked).groups()
        assert lesson.answer == ("yes" if (a > b if word == "more" else a < b) else "no")


def test_the_shares_of_every_training_are_whole() -> None:
    for shares in (drawing.SHARES, drawing.FAR, drawing.LISTS, drawing.NEXT):
        assert sum(shares.values()) == pytest.approx(1.0) and set(shares) <= set(drawing.KINDS)
