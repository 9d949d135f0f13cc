"""Questions of several looks: right by a second reading of the truth, readable by the pipeline, on scenes of their own."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sifthinker import config, scenes
from sifthinker.core.records import Sample
from sifthinker.data.sources import SOURCES
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.scenes import folder, layout, questions

SETTINGS = config.Scenes(
    rows=60,
    benchmark_rows=30,
    benchmarks=("sif",),
    width=120,
    height=96,
    fewest=3,
    most=5,
    several=0.5,
    alike=0.4,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "out"
    scenes.write(out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def known(written: Path) -> dict[str, list[dict[str, Any]]]:
    """Objects by the picture's path in the folder."""
    return {
        row["image"]: row["objects"] for row in json.loads((written / "scenes.json").read_text())["scenes"]
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in json.loads(path.read_text()) if "bboxs" in row]


def named(things: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """The things that words like "red cubes" or "large red cube" fit."""
    wanted = [word.removesuffix("s") for word in words.split() if word.removesuffix("s") != "object"]
    return [t for t in things if all(word in (t["size"], t["color"], t["shape"]) for word in wanted)]


def truth(things: list[dict[str, Any]], text: str) -> tuple[str, list[list[int]]]:
    """The answer to a question and the boxes that it rests on, from the objects alone."""
    if found := re.fullmatch(r"How many (.*) are there\?", text):
        there = named(things, found[1])
        return str(len(there)), in_turn(there)
    if found := re.fullmatch(r"Are there (more|fewer) (.*) than (.*)\?", text):
        one, other = named(things, found[2]), named(things, found[3])
        true = len(one) > len(other) if found[1] == "more" else len(one) < len(other)
        return "yes" if true else "no", in_turn(one) + in_turn(other)
    found = re.fullmatch(r"How many objects are (.*) the (\w+ \w+(?: \w+)?)\?", text)
    (anchor,) = named(things, found[2])
    there = [t for t in things if t is not anchor and beside(t, found[1], anchor)]
    return str(len(there)), in_turn(there)


def in_turn(things: list[dict[str, Any]]) -> list[list[int]]:
    """The boxes of things from left to right, by their left edges."""
    return sorted((t["box"] for t in things), key=lambda box: box[0])


def beside(thing: dict[str, Any], words: str, anchor: dict[str, Any]) -> bool:
    middle, other = (t["box"][0] + t["box"][2] for t in (thing, anchor))
    return {
        "to the left of": middle < other,
        "to the right of": middle > other,
        "in front of": thing["depth"] < anchor["depth"],
        "behind": thing["depth"] > anchor["depth"],
    }[words]


@pytest.mark.parametrize(("file", "below"), [("viscot.json", "images/"), ("sif/viscot.json", "sif/images/")])
def test_every_answer_and_every_box_is_that_of_the_objects(
    written: Path, known: dict[str, list[dict[str, Any]]], file: str, below: str
) -> None:
    found = rows(written / file)
    assert len(found) == (30 if file == "viscot.json" else 15)  # half of all questions
    for row in found:
        things = known[below + row["image"]]
        answer, boxes = truth(things, row["question"])
        assert row["answer"] == answer, row
        assert row["bboxs"] == boxes, row
        more = re.match(r"Are there (?:more|fewer) (.*) than ", row["question"])
        first = len(named(things, more[1])) if more else len(boxes)
        for group in (boxes[:first], boxes[first:]):
            lefts = [left / SETTINGS.width for left, *_ in group]
            assert all(b - a >= questions.APART for a, b in pairwise(lefts)), row  # else which is the next?
        assert row["dataset"] in {f"{kind}-{len(things)}" for kind in ("count", "beside", "more")}
    kinds = Counter(row["dataset"].split("-")[0] for row in found)
    assert min(kinds.values()) >= len(found) // 3 - 3 and len(kinds) == 3


def test_the_source_and_the_benchmark_read_them(written: Path) -> None:
    (viscot, _), (sif,) = scenes.sources(written), scenes.benchmarks(written)
    read = list(SOURCES["viscot"](viscot.path, viscot.images, viscot))
    assert all(isinstance(row, Sample) for row in read), read
    assert sum(row.dataset != "scenes" for row in read) == 30
    asked = list(BENCHMARKS["sif"].load(sif))
    assert len(asked) == 30 and all(isinstance(question, Question) for question in asked)
    assert len({question.id for question in asked}) == 30
    assert {"count", "beside", "more", "scenes"} == {question.group.split("-")[0] for question in asked}


def test_counted_things_have_boxes_in_a_clear_order_too(written: Path) -> None:
    """The questions how many in TallyQA's form, which are trained on beside those of several looks."""
    _, tallyqa = scenes.sources(written)
    read = list(SOURCES["tallyqa"](tallyqa.path, tallyqa.images, tallyqa))
    assert read and all(isinstance(row, Sample) for row in read), read
    for row in rows(written / "tallyqa.json"):
        lefts = [left / SETTINGS.width for left, *_ in row["bboxs"]]
        assert lefts and all(b - a >= questions.APART for a, b in pairwise(lefts))


def test_settings_are_chosen_on_other_scenes_than_those_of_reports(tmp_path: Path, written: Path) -> None:
    tuning = tmp_path / "tuning"
    scenes.write(tuning, SETTINGS.model_copy(update={"held_out": "tuning"}))
    for file in ("viscot.json", "tallyqa.json"):  # what is trained on is the same
        assert (tuning / file).read_bytes() == (written / file).read_bytes()
    found = [
        {
            json.dumps(scene["objects"])
            for scene in json.loads((folder_ / "scenes.json").read_text())["scenes"]
            if scene["image"].startswith("sif/")
        }
        for folder_ in (tuning, written)
    ]
    assert found[0] and not found[0] & found[1]
    assert len(json.loads((tuning / "sif" / "viscot.json").read_text())) == SETTINGS.benchmark_rows


def test_no_scene_is_in_two_streams() -> None:
    """Pre-training, SIF data, tuning and report share no scene, whatever their seeds."""
    found: dict[Any, str] = {}
    for name in folder.STREAMS:
        for seed in (0, 1, 4):
            for (scene, _), _ in zip(scenes.stream(name, seed, 64, 64, fewest=3), range(6), strict=False):
                assert found.setdefault(scene.view.solids, f"{name} {seed}") == f"{name} {seed}"
    assert len(found) == len(folder.STREAMS) * 3 * 6


def test_the_streams_that_there_were_keep_their_places() -> None:
    before = ("train", "vstar", "refcoco", "spatialbench", "pretrain", "pretrain-held-out", "sif")
    assert folder.STREAMS[:7] == before


def _drawn(**fields: float) -> list[layout.Scene]:
    return [layout.draw(np.random.default_rng(seed), 96, 72, 5, 5, **fields) for seed in range(20)]


def test_difficulty_is_as_it_is_set() -> None:
    plain, alike, hidden = _drawn(), _drawn(alike=0.9), _drawn(visible=0.1)

    def same(drawn: list[layout.Scene]) -> float:
        """Most things of one shape or colour, on average."""
        return float(
            np.mean(
                [
                    max(
                        len(questions.matching(scene, **values))
                        for values in questions.CLASSES
                        if len(values) == 1
                    )
                    for scene in drawn
                ]
            )
        )

    assert same(alike) > same(plain) + 0.3
    assert min(thing.visible for scene in plain for thing in scene.things) >= layout.VISIBLE
    assert 0.1 <= min(thing.visible for scene in hidden for thing in scene.things) < layout.VISIBLE


def test_the_settings_are_written_as_before_where_nothing_new_is_set() -> None:
    """So that the bytes of earlier folders, and what is made from them, stay."""
    found = folder.written(config.Scenes())
    assert list(found) == [
        "rows",
        "benchmark_rows",
        "benchmarks",
        "seed",
        "width",
        "height",
        "fewest",
        "most",
    ]
    assert folder.written(SETTINGS)["several"] == 0.5
