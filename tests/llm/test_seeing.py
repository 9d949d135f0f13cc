"""The stand-in that is told what is to be seen: its texts, and the truth of rendered scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sifthinker.annotation.acceptance import Accepted, check
from sifthinker.annotation.annotate import messages
from sifthinker.config import Api
from sifthinker.core.records import Region, Sample
from sifthinker.llm import local_models
from sifthinker.llm.standin import replies, seeing

WHOLE = (0.0, 0.0, 1.0, 1.0)
CUBE, CONE = (0.1, 0.2, 0.3, 0.4), (0.5, 0.2, 0.6, 0.4)  # of a picture of 200 x 100 pixels
OBJECTS = [
    {"size": "small", "color": "red", "shape": "cube", "box": [20, 20, 60, 40], "depth": 0.5},
    {"size": "large", "color": "blue", "shape": "cone", "box": [100, 20, 120, 40], "depth": 0.2},
]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    path = tmp_path / "scenes.json"
    others = [{**OBJECTS[0], "box": [1, 1, 9, 9]}]
    found = [{"stream": "train", "objects": OBJECTS}, {"stream": "train", "objects": others}]
    held_out = [{"stream": "sif", "objects": OBJECTS}]  # an equal scene that no training row is about
    path.write_text(json.dumps({"settings": {"width": 200, "height": 100}, "scenes": found + held_out}))
    return path


def test_the_last_text_names_the_thing_and_ends_in_the_answer() -> None:
    said = seeing.texts([["all"], ["large blue cone"], ["small red cube"], ["small red cube"]], "left")
    assert said == [
        seeing.WHOLE,
        "large blue cone: not this.",
        "small red cube: look closer.",
        "small red cube: left.",
    ]


def test_no_text_is_said_twice() -> None:
    """Such a chain is refused ("repeated"): 6 of 48 rows of a run were."""
    said = seeing.texts(
        [["all"], *[["small red cube"]] * 3, *[["no object"]] * 2, ["small red cube"]], "left"
    )
    assert len(set(said)) == len(said) == 7


def test_several_things_are_counted() -> None:
    said = seeing.texts([["all"], ["small red cube", "small red cube"]], "2")
    assert said[-1] == "small red cube, 1; small red cube, 2: 2."


A, B, C = ([[x, 0.1, x + 0.1, 0.2]] for x in (0.1, 0.3, 0.5))
TWO = [["all"], ["red cube"], ["blue cube"], ["red cube", "blue cube"]]


@pytest.mark.parametrize(
    ("question", "seen", "steps", "said"),
    [
        (
            "How many cubes are there?",
            TWO,
            [[WHOLE], A, B, A + B],
            [
                "First cube from 0.00:",
                "red cube, 1. Next cube from 0.10:",
                "blue cube, 2. Next cube from 0.30: no more, 2.",
                "2: ANSWER.",
            ],
        ),
        (  # one thing: the last text is both
            "How many objects are behind the red cone? Answer with a number.",
            [["all"], ["red cube"]],
            [[WHOLE], A],
            [
                "First object behind the red cone from 0.00:",
                "red cube, 1. Next object behind the red cone from 0.10: no more, 1. 1: ANSWER.",
            ],
        ),
        (
            "Are there more red objects than blue objects?",
            [["all"], ["red cube"], ["blue cube"], ["blue cone"], ["all of them"] * 3],
            [[WHOLE], A, B, C, A + B + C],
            [
                "First red object from 0.00:",
                "red cube, 1. Next red object from 0.10: no more, 1. First blue object from 0.00:",
                "blue cube, 1. Next blue object from 0.30:",
                "blue cone, 2. Next blue object from 0.50: no more, 2.",
                "1 to 2: ANSWER.",
            ],
        ),
        (  # eyes that err: each kind still has at least one
            "Are there fewer cubes than cones?",
            [["all"], ["red cube"], ["blue cube"], ["red cube", "blue cube"]],
            [[WHOLE], A, B, A + B],
            [
                "First cube from 0.00:",
                "red cube, 1. Next cube from 0.10: no more, 1. First cone from 0.00:",
                "blue cube, 1. Next cone from 0.30: no more, 1.",
                "1 to 1: ANSWER.",
            ],
        ),
        (  # not one after another: an expansion
            "How many cubes are there?",
            [["all"], ["red cube"], ["red cube"]],
            [[WHOLE], [[0.0, 0.0, 0.5, 0.5]], A],
            [seeing.WHOLE, "red cube: look closer.", "red cube: ANSWER."],
        ),
        (  # nothing is counted
            "Is the red cube in front of or behind the blue cube?",
            [["all"], ["red cube"]],
            [[WHOLE], A],
            [seeing.WHOLE, "red cube: ANSWER."],
        ),
    ],
)
def test_a_chain_that_looks_at_one_thing_after_another_says_which_comes_next(
    question: str, seen: list[list[str]], steps: list, said: list[str]
) -> None:
    assert seeing.texts(seen, "ANSWER", question, steps) == said


@pytest.mark.parametrize(
    ("left", "said"),
    [(0.345, "0.34"), (0.29, "0.29"), (0.3, "0.30"), (0.0, "0.00"), (1.0, "0.99")],  # 0.29 * 100 is 28.99...
)
def test_a_left_edge_is_said_in_the_digits_that_its_box_begins_with(left: float, said: str) -> None:
    assert seeing.edge((left, 0.0, 1.0, 1.0)) == said


def test_the_truth_names_a_thing_by_its_box_and_others_by_what_is_inside(scenes: Path) -> None:
    off = tuple(value + 0.004 for value in CUBE)  # less than a pixel
    left, empty = (0.0, 0.0, 0.5, 1.0), (0.7, 0.0, 1.0, 1.0)
    seen = seeing.truth([scenes])("", [[WHOLE], [left], [empty], [off, CONE]])
    assert seen[1:] == [["small red cube"], ["no object"], ["small red cube", "large blue cone"]]
    assert seen[0] == ["large blue cone, small red cube"]  # nearest first


@pytest.mark.parametrize("size", [(200, 100), (1003, 907)])
def test_scenes_with_a_thing_nearly_at_the_same_place_are_told_apart(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """Of 1,213 scenes, 2 had a thing within a pixel of the same box: its row could not be annotated."""
    path = tmp_path / "scenes.json"
    boxes = [[20, 20, 105, 40], [21.4, 20, 105, 40]]
    scenes = [
        {"stream": "train", "objects": [{**OBJECTS[0], "box": box, "color": color}]}
        for box, color in zip(boxes, ("red", "green"), strict=True)
    ]
    path.write_text(
        json.dumps({"settings": dict(zip(("width", "height"), size, strict=True)), "scenes": scenes})
    )
    look = seeing.truth([path])
    for box, color in zip(boxes, ("red", "green"), strict=True):
        written = tuple(round(value / side, 3) for value, side in zip(box, (*size, *size), strict=True))
        assert look("", [[WHOLE], [written]])[1:] == [[f"small {color} cube"]]


@pytest.mark.parametrize("box", [(0.8, 0.8, 0.9, 0.9), (0.1, 0.2, 0.32, 0.4)])
def test_boxes_of_no_known_thing_are_refused(scenes: Path, box: tuple[float, ...]) -> None:
    with pytest.raises(seeing.Unseen, match=r"0 scenes have things at"):
        seeing.truth([scenes])("", [[WHOLE], [box]])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(seeing.Unseen, match=r"scenes\.json: cannot be read .* beside rendered scenes"):
        seeing.truth([tmp_path / "scenes.json"])


def test_a_seeing_chain_passes_the_check_that_all_chains_pass() -> None:
    asked = ((Region(WHOLE, 0.512),), (Region(CUBE, 0.331),))
    row = Sample("a/0", "a", "b", "train", "Where?", "left", "x.png", "0", 200, 100, (CUBE,))
    body = {"messages": messages(row, asked, ["data:image/jpeg;base64,AAAA"] * 2), "max_tokens": 500}
    looked: list[tuple[str, list]] = []

    def eyes(picture: str, steps: list) -> list[list[str]]:
        looked.append((picture, steps))
        return [["all"], ["small red cube"]]

    text = replies.reply(body, b"name", None, eyes)["choices"][0]["message"]["content"]
    verdict = check(text, asked, row)
    assert isinstance(verdict, Accepted) and verdict.agrees
    assert "<text>small red cube: left.</text>" in text
    assert looked == [("data:image/jpeg;base64,AAAA", [[[*WHOLE]], [[*CUBE]]])]
    assert "small red cube" not in replies.reply(body, b"name")["choices"][0]["message"]["content"]


def test_replies_are_remembered_by_who_sees() -> None:
    found = {
        sees: local_models.scope(Api(base_url="standin", standin_sees=sees))
        for sees in ("nothing", "miniature", "scenes")
    }
    assert found["nothing"] == ""  # as before there was a choice
    assert len(set(found.values())) == 3 and len(found["miniature"].split()[-1]) == 64
