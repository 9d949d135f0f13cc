"""RefCOCO: the real file, Visual-CoT's rule reply by reply, and the strict reading."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import refcoco, replies
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "refcoco"
ROW = {
    "img_path": "COCO_train2014_000000581563.jpg",
    "expression": "black {car}",
    "bbox": [0.0, 373.89, 137.59, 500.0],
    "dataset_name": "jxu124/refcocoplus",
    "height": 500,
    "width": 333,
    "image_id": 581563,
    "sent_id": 70,
    "split": "testB",
}


def question(box, width=100, height=100):
    return Question(
        "q", "g", "t", "i.jpg", json.dumps([box[0] / width, box[1] / height, box[2] / width, box[3] / height])
    )


def area(*boxes) -> str:
    inside = json.dumps([{"bbox_2d": list(box), "depth": 0.5} for box in boxes])
    return f'<think><area>[{{"bbox_2d": [0, 0, 1, 1], "depth": 0.5}}]</area><text>a</text><area>{inside}</area><text>b</text></think><answer>there</answer>'


def test_the_real_file_loads_whole():
    if not REAL.is_dir():
        pytest.skip("../shared/data is not here")
    source = config.Benchmark(name="refcoco", path=REAL / "REC_refcoco+_unc_testB.jsonl", images=REAL)
    questions = list(refcoco.load(source))
    assert len(questions) == 4889 and all(isinstance(q, Question) for q in questions)
    assert len({q.id for q in questions}) == 4889
    assert {q.group for q in questions} == {"refcoco+_testB"}
    first = questions[0]
    assert first.text == (
        "Please provide the bounding box coordinate(s) of the region this sentence describes: large dark item next to car."
    )
    assert np.allclose(json.loads(first.reference), [0, 373.89 / 500, 137.59 / 333, 1])
    folder = source.model_copy(update={"path": REAL, "split": "refcoco+_testB"})
    assert list(refcoco.load(folder)) == questions
    with pytest.raises(Missing, match=r"REC_refcoco_unc_val\.jsonl.*published at"):
        list(refcoco.load(folder.model_copy(update={"split": ""})))


def test_bad_rows_become_rejects_with_their_line(place):
    rows = [
        ROW,
        {**ROW, "bbox": [5, 5, 5, 9]},
        {**ROW, "bbox": "[1,2,3,4]"},
        {**ROW, "expression": ""},
        {**ROW, "width": 0},
        [],
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "{cut off"
    good, *bad = refcoco.load(place("refcoco", {"mine.jsonl": lines.encode()}, path="mine.jsonl"))
    assert isinstance(good, Question) and good.id == "refcoco+_testB/70" and "black {car}." in good.text
    assert all(isinstance(b, Reject) for b in bad)
    assert [(b.row, b.reason) for b in bad] == [
        (2, "bad-box"),
        (3, "bad-box"),
        (4, "bad-field"),
        (5, "bad-box"),
        (6, "not-an-object"),
        (7, "not-json"),
    ]


def test_an_unknown_split_is_refused_with_the_known_ones(place):
    with pytest.raises(errors.UserError, match="no split testC; known: refcoco_val"):
        list(refcoco.load(place("refcoco", {"a": b""}, split="testC")))


def published_verdict(text: str, target: list[float], w: int, h: int) -> bool:
    """Visual-CoT, playground/data/eval/REC/calculation.py, with width and height as the scale (PAPER.md M7.6)."""
    parts = text.replace(" .", "").replace("[", "").replace("]", "").split(", ")
    try:
        pred = np.float32(
            [float(parts[0]) * w, float(parts[1]) * h, float(parts[2]) * w, float(parts[3]) * h]
        )
    except (ValueError, IndexError):
        return False
    gt = np.float32(target)
    sides = np.clip(np.minimum(pred[2:], gt[2:]) - np.maximum(pred[:2], gt[:2]), 0, None)
    inter = sides[0] * sides[1]
    both = (pred[2] - pred[0]) * (pred[3] - pred[1]) + (gt[2] - gt[0]) * (gt[3] - gt[1]) - inter
    return bool(inter / both > 0.5) if both else False


def test_official_gives_the_published_verdict_on_200_replies():
    generator = random.Random(0)
    right = 0
    for number in range(200):
        w, h = generator.randint(50, 640), generator.randint(50, 640)
        x1, y1 = generator.uniform(0, 0.5 * w), generator.uniform(0, 0.5 * h)
        gt = [x1, y1, x1 + generator.uniform(5, 0.5 * w), y1 + generator.uniform(5, 0.5 * h)]
        noise = generator.choice([0, 0.01, 0.05, 0.1, 0.4])
        box = [
            round(v / s + generator.uniform(-noise, noise), 3) for v, s in zip(gt, (w, h, w, h), strict=True)
        ]
        plain = str(box)
        reply = {
            6: plain + " .",
            7: "none",
            8: "",
            9: plain.replace(", ", ","),  # the script wants a space
            10: f"{plain[:-1]}, 0.5]",  # a fifth number
            11: plain[1:-1],
        }.get(number % 12, plain)
        # What a chain's last area says is what the authors' loader hands to the script as text.
        answer = replies.read(area(box), True) if number % 2 and number % 12 < 6 else Answer(reply)
        text = plain if number % 2 and number % 12 < 6 else reply
        expected = published_verdict(text, gt, w, h)
        right += expected
        assert refcoco.official(question(gt, w, h), answer).score == float(expected), (number, text, gt)
    assert 40 < right < 160


@pytest.mark.parametrize(
    ("reply", "think", "official", "strict", "unparsable"),
    [
        (area([0.1, 0.1, 0.5, 0.5]), True, 1, 1, ""),
        (area([0.1, 0.1, 0.3, 0.5]), True, 0, 0, ""),  # exactly half: greater than 0.5 is asked
        (area([0.1, 0.1, 0.3, 0.5], [0.3, 0.1, 0.5, 0.5]), True, 1, 1, ""),  # two halves: the box around them
        (area([0.1, 0.1, 0.5, 0.5]).replace("<answer>there</answer>", ""), True, 1, 0, "no-answer"),
        (area([0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.1, 0.1]), True, 1, 0, "bad-box"),  # strict: one is no box
        (area([-0.02, 0.1, 0.5, 0.5]), True, 1, 0, "bad-box"),  # beyond the image
        (area(), True, 0, 0, "bad-box"),
        ("[0.1, 0.1, 0.5, 0.5]", True, 0, 0, "no-answer"),  # a chain was asked for
        ("[0.1, 0.1, 0.5, 0.5]", False, 1, 1, ""),
        ("The box is [0.1,0.1,0.5,0.5].", False, 0, 1, ""),  # its numbers are what stands between ", "
        ("0.1, 0.1, 0.5, 0.5", False, 1, 0, "bad-box"),
        ("[10, 10, 50, 50]", False, 0, 0, "bad-box"),  # pixels: not what was asked for, not guessed
        ("", True, 0, 0, "no-answer"),
    ],
)
def test_strict_wants_boxes_inside_the_image_where_official_takes_numbers(
    reply, think, official, strict, unparsable
):
    asked = question([10, 10, 50, 50])
    answer = replies.read(reply, think)
    assert refcoco.official(asked, answer).score == official
    verdict = refcoco.strict(asked, answer)
    assert (verdict.score, verdict.unparsable) == (strict, unparsable)


@pytest.mark.parametrize(("finish", "reason"), [("length", "cut-off"), ("stop", "no-answer")])
def test_the_area_on_the_way_of_a_chain_without_an_answer_is_wrong_and_counted(finish, reason):
    asked = question([10, 10, 50, 50])
    answer = replies.read(area([0.1, 0.1, 0.5, 0.5]).partition("</think>")[0], True, finish)
    verdict = refcoco.strict(asked, answer)
    assert (verdict.score, verdict.reading, verdict.unparsable) == (0, "", reason)
    assert refcoco.official(asked, answer).score == 1  # that script looks for boxes alone
