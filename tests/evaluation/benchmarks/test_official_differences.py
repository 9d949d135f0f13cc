"""Where `official` is not the official code: each difference that the README lists, beside what that code does."""

import base64
import io
import json
from pathlib import Path

import pandas
import pytest

from sifthinker.evaluation.benchmarks import (
    mmbench,
    mme,
    ovdeval,
    pope,
    refcoco,
    replies,
    sat,
    seed,
    spatialbench,
    viscot,
    vstar,
)
from sifthinker.evaluation.benchmarks.question import Answer, Question

README = Path(mmbench.__file__).with_name("README.md").read_text(encoding="utf-8")
LISTED = README.partition("## Where `official` is not the official code")[2].partition("\n## ")[0]
OPTIONS = (("A", "red"), ("B", "blue"))


def asked(reference, group="x", options=(), text="Which?", **more):
    return Question("1", group, text, "x", reference, options, **more)


def popes(reply):
    """evaluate.py of AoiDragon/POPE."""
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


def mmes(reply):
    """calculation.py of MME."""
    said = reply.lower()
    return said if said in ("yes", "no") else next((w for w in ("yes", "no") if w in said[:4]), "other")


def seeds(reply):
    """convert_seed_for_submission.py of Bunny, to a reference of A."""
    return "A" if reply == "A" else "another"


@pytest.mark.parametrize(
    ("rule", "theirs", "question", "reply", "found"),
    [
        (pope, popes, asked("no", "random"), "\nNo", "yes"),
        (mme, mmes, asked("no", "existence"), "     no", "other"),
        (seed, seeds, asked("A", options=OPTIONS), "A\n", "another"),
    ],
    ids=["pope", "mme", "seed"],
)
def test_white_space_around_a_reply_is_no_part_of_it(rule, theirs, question, reply, found):
    assert theirs(reply) == found
    for shown, think in (
        (reply, False),
        (f"<think><area>[]</area></think><answer>{reply}</answer>", True),
    ):
        assert rule.official(question, replies.read(shown, think)).score == 1


@pytest.mark.parametrize("word", ["None", "NA", "null"])
def test_an_option_that_pandas_takes_for_an_empty_cell_is_an_option(place, picture, word):
    columns = ["index", "question", "A", "B", "answer", "category", "image", "split"]
    row = ["1", "How many?", "two", word, "B", "c", base64.b64encode(picture).decode(), "dev"]
    content = "\t".join(columns) + "\n" + "\t".join(row) + "\n"
    assert pandas.isna(pandas.read_csv(io.StringIO(content), sep="\t")["B"][0])  # VLMEvalKit's build_choices
    (question,) = mmbench.load(place("mmbench", {"dev.tsv": content}, path="dev.tsv"))
    assert question.options == (("A", "two"), ("B", word)) and f"B. {word}" in question.text
    assert mmbench.official(question, Answer("B")).score == 1


def test_what_mmbenchs_rules_leave_open_is_wrong_without_a_gpt_judge():
    verdict = mmbench.official(asked("A", options=OPTIONS), Answer("The crimson one."))
    assert (verdict.score, verdict.unparsable) == (0, "not-inferred")


def test_an_object_with_annotation_id_0_is_found_like_any_other():
    """pycocotools 2.0 gives 0.2525 for these two perfect detections, and 1 where the ids begin with 1: the id of what
    was found is kept, and 0 stands for nothing."""
    results = []
    for number in (0, 1):
        source = {"id": number, "bbox": [10, 10, 50, 50], "category_id": 1, "image_id": number, "iscrowd": 0}
        question = ovdeval._question(
            {"id": number, "file_name": "x", "width": 100, "height": 100, "text": ["dog"]},
            "color",
            "",
            {1: "dog"},
            [source],
            "listed",
        )
        reply = '<think><area>[{"bbox_2d": [0.1, 0.1, 0.6, 0.6], "depth": 0.5}]</area></think><answer>dog</answer>'
        results.append((question, ovdeval.official(question, replies.read(reply, True))))
    (measure,) = ovdeval.score(results)
    assert measure.value == pytest.approx(1)


def test_a_reply_in_another_models_chat_marks_is_empty():
    def theirs(reply):
        """QA_Accuracy_choice of SAT's models/eval_funcs.py."""
        text = reply.split("###")[0].strip().lower()
        if text == "" and "###Human" in reply:
            text = reply.split("###Human:")[1].split("###")[0].strip().lower()
        elif text == "" and "###Assistant" in reply:
            text = reply.split("###Assistant:")[1].split("###")[0].strip().lower()
        return text.strip().split(" ")[0]

    question = asked("left", options=(("", "left"), ("", "right")))
    for reply in ("###Assistant: left", "###Human: left"):
        assert theirs(reply) == "left"
        assert sat.official(question, replies.read(reply, False)).score == 0
    assert sat.official(question, replies.read("left###Human: right", False)).score == 1


def test_a_count_that_is_no_integer_is_an_error_of_a_hundred_per_cent():
    with pytest.raises(ValueError):
        int("three")  # where SpatialBot's script stops
    verdict = spatialbench.official(asked("3", "counting"), Answer("three"))
    assert (verdict.score, verdict.unparsable) == (0, "not-an-integer")


def test_boxes_are_on_the_picture_itself_and_several_are_the_one_around_them():
    question = asked(json.dumps([0.1, 0.1, 0.5, 0.5]), "refcoco_val", width=200, height=100)
    area = (
        '<area>[{"bbox_2d": [0.1, 0.1, 0.3, 0.5], "depth": 0.5}, '
        '{"bbox_2d": [0.3, 0.1, 0.5, 0.5], "depth": 0.5}]</area>'
    )
    said = replies.read(f"<think>{area}</think><answer>there</answer>", True)
    assert refcoco.official(question, said).score == 1
    first = replies.read("[0.1, 0.1, 0.3, 0.5]", False)  # the first of them alone: IoU 0.5, which is not more
    assert refcoco.official(question, first).score == 0


def test_a_judges_score_with_a_full_stop_is_0():
    with pytest.raises(ValueError):
        float("1.0.")  # where eval_cot_score.py stops
    assert viscot.official(asked("door"), Answer("door", judged=("score: 1.0.", ""))).score == 0


def test_the_published_question_is_asked_as_it_is(place):
    text = "What is it?\n(A) red\n(B) blue\nAnswer with the option's letter from the given choices directly."
    row = {"image": "1.png", "text": text, "category": "direct_attributes", "label": "A", "question_id": 0}
    (question,) = vstar.load(place("vstar", {"test_questions.jsonl": [row]}))
    assert question.text == text


def test_a_picture_without_its_second_question_shifts_no_other_pair():
    """MME's script pairs neighbouring lines: without the first of four, two and three would be a pair."""
    rows = [
        (asked("yes", "count", unit=f"count/{unit}"), mme.official(asked("yes", "count"), Answer(said)))
        for unit, said in ((1, "Yes"), (2, "Yes"), (2, "Yes"))
    ]
    (points,) = mme.score(rows)
    assert points.value == 200


def test_the_readme_lists_these_and_no_others():
    rows = [line.split("|")[1].strip() for line in LISTED.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        "all",
        "cvbench, mmbench, seed, vstar",
        "mmbench",
        "mmbench",
        "mme, spatialbench",
        "ovdeval",
        "refcoco",
        "sat",
        "spatialbench",
        "viscot",
    ]
