"""OVDEval: its files, which label a box gets, and NMS-AP against the official code's numbers."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import ovdeval, replies
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

TARGETS = ["red bag", "blue bag", "bag", "dog"]


def document(**changes):
    return {
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(TARGETS)],
        "images": [
            {
                "file_name": "1.jpg",
                "id": 1,
                "height": 100,
                "width": 200,
                "text": ["red bag"],
                "neg_text": ["blue bag"],
            }
        ],
        "annotations": [
            {"id": 1, "bbox": [20, 10, 40, 20], "category_id": 1, "image_id": 1, "iscrowd": 0, "area": 800}
        ],
    } | changes


def asked(objects, targets=TARGETS, labels="listed", image=1, group="material", width=200, height=100):
    reference = json.dumps({"objects": objects, "labels": labels})
    options = tuple(("", target) for target in targets)
    return Question(
        f"{group}/{image}", group, "", f"{image}.jpg", reference, options, width=width, height=height
    )


def chain(boxes, answer):
    area = json.dumps([{"bbox_2d": box, "depth": 0.5} for box in boxes])
    return f"<think><area>{area}</area><text>t</text></think><answer>{answer}</answer>"


def test_pictures_become_questions_with_their_true_and_false_names(place):
    files = {"material.json": document(), "logo.json": document(), "material/1.jpg": b""}
    own, every = ovdeval.load(place("ovdeval", files, split="material,logo"))
    assert own.text == (
        "Please carefully check the image and detect the following objects: red bag, blue bag. "
        "If there are no such targets in the image, simply respond with None."
    )
    assert (own.id, own.image, every.image) == ("material/1", "material/1.jpg", "1.jpg")
    assert json.loads(own.reference) == {"objects": [["red bag", [20, 10, 40, 20], 0]], "labels": "listed"}
    assert "red bag, blue bag, bag, dog." in every.text  # a fixed list of categories


def test_bad_rows_and_missing_files_are_named(place):
    images = [
        {"file_name": "1.jpg", "id": 1, "height": 9, "width": 9},
        {"file_name": "2.jpg", "id": 2, "text": ["dog"]},
    ]
    rejects = list(ovdeval.load(place("ovdeval", {"color.json": document(images=images)}, split="color")))
    assert [r.field for r in rejects if isinstance(r, Reject)] == ["text", "width"]
    with pytest.raises(Missing, match=r"celebrity\.json.*omlab/OVDEval"):
        list(ovdeval.load(place("ovdeval", {})))
    with pytest.raises(errors.UserError, match="no split shape; known: celebrity"):
        list(ovdeval.load(place("ovdeval", {}, split="shape")))


A, B, C = [0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.7, 0.9], [0.2, 0.6, 0.4, 0.8]


@pytest.mark.parametrize(
    ("boxes", "answer", "labels", "expected", "problem"),
    [
        ([A], "a red bag", "listed", [("red bag", A)], ""),  # not also the "bag" in it
        ([A, B], "Two dogs", "listed", [("dog", A), ("dog", B)], ""),  # one name for all
        ([A, B], "a dog and a red bag", "listed", [("dog", A), ("red bag", B)], ""),  # by order
        ([A, B, C], "a dog and a red bag", "listed", [], "labels-and-boxes-differ"),
        ([A, B], "a dog and a red bag", "each", [("dog", A), ("dog", B), ("red bag", A), ("red bag", B)], ""),
        ([A], "something", "listed", [], "no-label"),
        ([A], "None", "listed", [], ""),
        ([A], "None.", "each", [], ""),
        ([], "a dog", "listed", [], "bad-box"),
        (
            [A],
            '[{"bbox_2d": [0.5, 0.5, 0.7, 0.9], "label": "bag"}]',
            "listed",
            [("bag", B)],
            "",
        ),  # VLM-R1's form
        ([A], '[{"bbox_2d": [0.5, 0.5, 0.7, 0.9], "label": "Red Bag "}]', "listed", [("red bag", B)], ""),
        ([A], '[{"bbox_2d": [0.5, 0.5, 0.7, 0.9], "label": "Fox"}]', "listed", [("Fox", B)], ""),
        ([], "[]", "listed", [], ""),  # nothing was found
        ([], "```json\n[]\n```", "each", [], ""),
        ([A], '```json\n[{"bbox_2d": [0.5, 0.5, 0.7, 0.9], "label": "bag"}]\n```', "each", [("bag", B)], ""),
    ],
)
def test_labels_are_attached_as_the_option_says(boxes, answer, labels, expected, problem):
    verdict = ovdeval.strict(asked([], labels=labels), replies.read(chain(boxes, answer), True))
    assert [(label, box) for label, box in json.loads(verdict.reading)] == expected
    assert verdict.unparsable == problem


def test_a_single_target_needs_no_name():
    verdict = ovdeval.strict(asked([], targets=["dog"]), replies.read(chain([A], "It is here."), True))
    assert json.loads(verdict.reading) == [["dog", A]]


def test_strict_wants_boxes_inside_the_image_where_official_takes_numbers():
    answer = replies.read(chain([[-0.1, 0.1, 0.3, 0.3]], "dog"), True)
    assert ovdeval.strict(asked([]), answer).unparsable == "bad-box"
    listed = replies.read(chain([A], '[{"bbox_2d": [10, 20, 30, 40], "label": "bag"}]'), True)
    assert ovdeval.strict(asked([]), listed).unparsable == "bad-box"
    assert json.loads(ovdeval.official(asked([]), answer).reading) == [["dog", [-0.1, 0.1, 0.3, 0.3]]]


# Three sets of 200 pictures with 0 to 4 objects (some of them crowds) and what a model might say of them: boxes near
# and far, twice, too large, with a wrong name, or "None". The official code was run on these very detections.
OFFICIAL = json.loads(
    Path(__file__).with_name("verdicts").joinpath("ovdeval.json").read_text(encoding="utf-8")
)


def verdicts(cases):
    for image, (objects, found, answer, kept) in enumerate(cases, start=1):
        question = asked(objects, image=image)
        yield question, ovdeval.official(question, replies.read(chain(found, answer), True)), kept


@pytest.mark.parametrize("held", OFFICIAL["sets"], ids=["first", "second", "third"])
def test_the_suppression_of_each_reply_is_the_official_codes(held):
    for question, verdict, kept in verdicts(held["cases"]):
        detections = json.loads(verdict.reading)
        left = ovdeval._suppressed(detections, json.loads(question.reference)["objects"], question)
        assert left == [detections[i] for i in kept], question.id


@pytest.mark.parametrize("held", OFFICIAL["sets"], ids=["first", "second", "third"])
def test_the_ap_of_200_replies_is_the_official_codes(held):
    rows = [(question, verdict) for question, verdict, _ in verdicts(held["cases"])]
    assert len(rows) == 200
    random.Random(0).shuffle(rows)  # the order of rows does not matter, that of images does
    (measure,) = ovdeval.score(rows)
    assert measure.value == pytest.approx(held["ap"], abs=1e-9)
    assert measure.low <= measure.value <= measure.high


@pytest.mark.parametrize("held", OFFICIAL["sets"], ids=["first", "second", "third"])
def test_the_ap_of_each_category_is_the_official_codes(held, monkeypatch):
    left = []
    for question, verdict, kept in verdicts(held["cases"]):
        detections = json.loads(verdict.reading)
        left.append((question, verdict, [detections[i] for i in kept]))
    monkeypatch.setattr(
        ovdeval, "_suppressed", lambda detections, *_: list(detections)
    )  # done, over all labels
    for name, expected in held["categories"].items():
        alone = []
        for question, verdict, detections in left:
            objects = [o for o in json.loads(question.reference)["objects"] if o[0] == name]
            mine = json.dumps([d for d in detections if d[0] == name])
            alone.append(
                (asked(objects, image=int(question.id.split("/")[1])), replace(verdict, reading=mine))
            )
        (measure,) = ovdeval.score(alone)
        assert measure.value == pytest.approx(expected, abs=1e-9), name


def test_perfect_replies_score_one_and_empty_ones_zero():
    questions = [
        asked([["dog", [10, 10, 50, 50], 0], ["bag", [100, 10, 60, 50], 0]], image=i) for i in range(5)
    ]
    perfect = chain([[0.05, 0.1, 0.3, 0.6], [0.5, 0.1, 0.8, 0.6]], "dog and bag")
    for reply, expected in ((perfect, 1.0), ("", 0.0)):
        verdicts = [ovdeval.strict(q, replies.read(reply, True)) for q in questions]
        assert [v.score for v in verdicts] == [expected] * 5
        (measure,) = ovdeval.score(list(zip(questions, verdicts, strict=True)))
        assert measure.value == pytest.approx(expected)


def test_suppression_ignores_labels_and_keeps_the_last():
    question = asked([["dog", [10, 10, 50, 50], 0]])
    reply = chain([[0.05, 0.1, 0.3, 0.6], [0.05, 0.1, 0.3, 0.62]], "dog, bag")  # the right one comes first
    verdict = ovdeval.strict(question, replies.read(reply, True))
    (measure,) = ovdeval.score([(question, verdict)])
    assert (measure.value, verdict.score) == (0, 0)


@pytest.mark.parametrize(("finish", "reason"), [("length", "cut-off"), ("stop", "no-answer")])
def test_the_area_on_the_way_of_a_chain_without_an_answer_is_no_detection(finish, reason):
    question = asked([["dog", [10, 10, 20, 20], 0]], targets=["dog"])
    begun = chain([A], "a dog").partition("</think>")[0]
    answer = replies.read(begun, True, finish)
    verdict = ovdeval.strict(question, answer)
    assert (verdict.score, verdict.reading, verdict.unparsable) == (0, "[]", reason)
    assert json.loads(ovdeval.official(question, answer).reading) == [["dog", A]]


def test_an_answer_without_a_chain_is_counted():
    verdict = ovdeval.strict(asked([]), Answer("", absent="no-answer"))
    assert (verdict.unparsable, verdict.score) == ("no-answer", 0)
