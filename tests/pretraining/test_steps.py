"""The steps of a list that is said look by look: what is looked for next, what is said after a look, and when there are no more."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sifthinker.llm.standin import seeing
from sifthinker.pretraining import (
    build,
    drawing,
    lessons,
    policy_training,
    recipe,
    scene_pool,
    steps,
)
from sifthinker.scenes import questions
from tests.pretraining.conftest import SIZE


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
        before, called, edge, number = _gone_on_from(lesson)
        assert called in seeing.counted(lesson.asked)
        sets = dict([*lessons.classes(scene), *steps.places(scene)])
        edges = {index: things[index]["box"][0] for index in sets[called]}
        assert edge == (seeing.edge(before) if before else "0.00")
        start = before[0] + 0.011 if before else -1.0  # what is not exact
        later = sorted((left, index) for index, left in edges.items() if left > start)
        ended = lesson.answer == f" no more, {number}."
        ends[ended, bool(before)] += 1
        if ended:
            assert not later and lesson.about == () and number == len(edges)
        else:
            assert lesson.about == ((later[0][1],),)
            region = re.fullmatch(r"</text>\n<area>\[(.+)\]</area>\n<text>", lesson.answer)[1]
            box = json.loads(region)["bbox_2d"]
            assert box == pytest.approx(things[later[0][1]]["box"], abs=1e-3)
    assert ends[True, False] == 0  # what is asked for is there
    assert min(ends[True, True], ends[False, True], ends[False, False]) > 60


def _gone_on_from(lesson: lessons.Lesson) -> tuple[list[float] | None, str, str, int]:
    """The box before, what is looked for and from which edge on, and how many there were, of a model's own words."""
    regions, _, text = lesson.said.rpartition("</area>\n<text>")
    if found := re.fullmatch(r"[^,]+, (\d)\. Next ([^:]+) from (0\.\d\d):", text):
        return json.loads(regions)[0]["bbox_2d"], found[2], found[3], int(found[1])
    other = r"[^,]+, (\d)\. Next (?P<one>.+) from 0\.\d\d: no more, \1\. "  # ended, of two that are compared
    found = re.fullmatch(rf"(?:{other})?First (?P<called>.+) from 0\.00:", text)
    looked_for = [found["one"], found["called"]] if found["one"] else [found["called"]]
    assert seeing.counted(lesson.asked)[: len(looked_for)] == looked_for
    assert found["one"] or regions.startswith('<think>\n<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0]')
    return None, found["called"], "0.00", 0


def test_the_second_of_two_kinds_is_looked_for_after_the_first(drawn: list[scene_pool.Seen]) -> None:
    rng, places = np.random.default_rng(0), Counter[str]()
    for turn in range(600):
        lesson = drawing.KINDS["next"](drawn[turn % 64], 0, rng)
        if lesson and lesson.asked.startswith("Are"):
            places["second" if "First" in lesson.said and "no more" in lesson.said else "other"] += 1
    assert min(places.values()) > 5 and len(places) == 2


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
    assert more > 1.2 * hard(0)


def test_lists_in_turn_are_asked_for_only_where_the_order_is_clear(drawn: list[scene_pool.Seen]) -> None:
    unclear = 0
    for scene in drawn:
        asked = dict(steps.turns(scene, lessons.classes(scene), np.random.default_rng(0)))
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
    row = [(*training.packer.conversation("How many?", " no more, 1.", "First cube from 0.00:"), 1.0)]
    near, far = (training.packer.rows([row], True, None, iter([gap])) for gap in (0, 7))
    moved = (far["positions"] - near["positions"])[:, 0]
    length = len(row[0][0]) + len(row[0][1])
    assert (moved[:, -length:] == 7).all() and (moved[:, :-length] == 0).all()


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
        asked = training.packer.conversation(lesson.asked, "", lesson.said)[0]
        words = [training.processor.tokenizer.decode([token]).strip() for token in asked]
        found = training._seeking(lesson, asked, things)
        return [
            (words[at], [words[place] for place in sorted(said)], None if meant is None else set(meant))
            for at, said, meant in found
        ]

    def answered(lesson: lessons.Lesson) -> list[int]:
        """Where the answer's first word is to look, in a row whose pictures are its first places."""
        row = [(*training.packer.conversation(lesson.asked, lesson.answer, lesson.said), 1.0)]
        batch = training.packer.rows([row], False)
        *_, answers = training._looks([scene], [[lesson]], [row], 1, batch)
        return answers.places[0] if answers.places else []

    among = {"among": (0, 1)}
    first = lessons.Lesson("next", "?", "[]", ((1,),), said="First small cube from 0.00:", **among)
    assert looked(first) == [("cube", ["small"], None), ("0.00", ["small", "cube"], {1})]
    words = '[{"bbox_2d": [0.345, 0.1]}]</area>\n<text>small blue cube, 2. Next cube from 0.34:'
    last = lessons.Lesson("next", "How many cubes are there?", " no more, 2.", said=words, **among)
    assert looked(last) == [
        ("cubes", [], {0, 1}),  # of the question
        ("cube", ["blue"], {1}),  # its first word has no space before it, and is another token
        ("cube", [], None),
        ("0.34", ["cube"], set()),
    ]
    assert looked(lessons.Lesson("all", "Where are all cubes?", "[]", ((0,), (1,)))) == [
        ("cubes", [], {0, 1})
    ]
    any_of_all = lessons.Lesson("next", "?", "[]", ((2,),), among=(2, 0, 1), said="First object from 0.00:")
    assert looked(any_of_all) == [("object", [], None), ("0.00", ["object"], {2})]
    all_small = replace(any_of_all, said="First small object from 0.00:")
    assert looked(all_small)[-1] == ("0.00", ["small", "object"], {2}) and len(looked(all_small)) == 2
    place = replace(first, said="First object behind the red cone from 0.00:")
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
        before, region = lesson.said.removesuffix("</area>\n<text>").split("</text>\n<area>")
        (box,) = json.loads(region)
        ((index,),) = lesson.about
        thing = scene.facts["things"][index]
        assert box["bbox_2d"] == pytest.approx(thing["box"], abs=0.011)
        name, number, called, edge = re.fullmatch(
            r"(.+), (\d)\. Next (.+) from (0\.\d\d):", lesson.answer
        ).groups()
        assert called in seeing.counted(lesson.asked)
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
        which = int(re.fullmatch(r" no more, \d\.", lesson.said) is not None)
        assert which or re.fullmatch(r"<think>\n<area>\[.+\]</area>\n<text>", lesson.said)
        assert lesson.answer == f"{' ' * which}First {seeing.counted(lesson.asked)[which]} from 0.00:"
        forms[lesson.asked.split()[0], which] += 1
    assert set(forms) == {("How", 0), ("Are", 0), ("Are", 1)}


def test_counts_answer_the_question_for_them(drawn: list[scene_pool.Seen]) -> None:
    rng, forms = np.random.default_rng(0), Counter[str]()
    for turn in range(200):
        lesson = drawing.KINDS["tally"](drawn[turn % 64], 0, rng)
        forms[lesson.answer] += 1
        if found := re.fullmatch(r" no more, (\d)\. \1:", lesson.said):
            assert lesson.asked.startswith("How many") and lesson.answer == f" {found[1]}."
            continue
        word = re.fullmatch(r"Are there (more|fewer) .+ than .+\?", lesson.asked)[1]
        a, b = re.fullmatch(r" no more, (?:\d)\. (\d) to (\d):", lesson.said).groups()
        assert lesson.answer == (" yes." if (a > b if word == "more" else a < b) else " no.")
    assert set(forms) == {" yes.", " no.", *(f" {number}." for number in range(1, 5))}


def test_the_steps_are_a_chains_words_token_for_token(drawn: list[scene_pool.Seen]) -> None:
    """What a model has said and what it is to say, cut where a step begins, are the tokens of both together."""
    tokenizer, rng = build.build_tokenizer(), np.random.default_rng(0)
    for turn in range(160):
        for kind in steps.KINDS:
            if lesson := drawing.KINDS[kind](drawn[turn % 64], 0, rng):
                apart = [tokenizer(text)["input_ids"] for text in (lesson.said, lesson.answer)]
                assert apart[0] + apart[1] == tokenizer(lesson.said + lesson.answer)["input_ids"]
