"""POPE: its files, the published rule reply by reply, and F1."""

import pytest

from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import pope
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

ROW = {
    "question_id": 1,
    "image": "COCO_val2014_1.jpg",
    "text": "Is there a snowboard in the image?",
    "label": "yes",
}


def asked(label, number=0, category="random"):
    return Question(f"{category}/{number}", category, "", f"{number // 2}.jpg", label)


def test_the_three_files_become_questions(place):
    names = [f"coco_pope_{name}.json" for name in pope.CATEGORIES]
    lines = b'{"question_id": 1, "image": "a.jpg", "text": "Is there?", "label": "no"}\n{"question_id": 2, "label": "maybe"}\n'
    found = list(pope.load(place("pope", dict.fromkeys(names, lines))))
    questions = [q for q in found if isinstance(q, Question)]
    assert [q.id for q in questions] == ["random/1", "popular/1", "adversarial/1"]
    assert questions[0].text == "Is there?\nAnswer the question using a single word or phrase."
    assert [r.field for r in found if isinstance(r, Reject)] == ["label"] * 3
    with pytest.raises(Missing, match=r"coco_pope_popular\.json.*AoiDragon/POPE"):
        list(pope.load(place("part", {names[0]: lines})))


def published_scores(replies, labels):
    """AoiDragon/POPE, evaluate.py, said once more: the predictions, accuracy and F1."""
    predictions = []
    for text in replies:
        if text.find(".") != -1:
            text = text.split(".")[0]
        words = text.replace(",", "").split(" ")
        predictions.append("no" if "No" in words or "not" in words or "no" in words else "yes")
    pairs = list(zip(predictions, labels, strict=True))
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    tn, fn = pairs.count(("no", "no")), pairs.count(("no", "yes"))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return predictions, (tp + tn) / len(pairs), 2 * precision * recall / (precision + recall)


def test_official_gives_the_published_verdicts_and_scores_on_200_replies(mixed_replies):
    replies = mixed_replies((("yes", "a dog"), ("no", "not one")), seed=3)
    labels = ["yes" if i % 3 else "no" for i in range(200)]
    predictions, accuracy, f1 = published_scores(replies, labels)
    questions = [asked(label, i) for i, label in enumerate(labels)]
    verdicts = [pope.official(q, Answer(r)) for q, r in zip(questions, replies, strict=True)]
    assert [v.reading for v in verdicts] == predictions
    score, share = pope.score(list(zip(questions, verdicts, strict=True)))
    assert (score.value, share.value) == pytest.approx((f1, accuracy))
    assert score.low <= f1 <= score.high and (score.metric, share.metric) == ("random", "random accuracy")


@pytest.mark.parametrize(
    ("label", "reply", "official", "strict"),
    [
        ("yes", "Yes", 1, 1),
        ("no", "No.", 1, 1),
        ("no", "NO", 0, 1),
        ("yes", "", 1, 0),  # an empty reply is a yes to the script
        ("yes", "I cannot tell.", 1, 0),
        ("no", "Not sure", 0, 0),
        ("yes", "Yes. It is not far.", 1, 1),
        ("yes", "Yes, it is not far", 0, 1),
        ("no", "There isn't one", 0, 1),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(label, reply, official, strict):
    assert pope.official(asked(label), Answer(reply)).score == official
    assert pope.strict(asked(label), Answer(reply)).score == strict


@pytest.mark.parametrize("label", ["yes", "no"])
@pytest.mark.parametrize("reason", ["no-answer", "cut-off", "refused", "bad-request"])
def test_a_reply_without_an_answer_is_wrong_whatever_the_label(label, reason):
    for rule in (pope.official, pope.strict):
        verdict = rule(asked(label), Answer("", absent=reason))
        assert (verdict.score, verdict.reading, verdict.unparsable) == (0, "", reason)


def test_a_model_that_never_answers_has_no_f1():
    questions = [asked("yes" if i % 2 else "no", i) for i in range(10)]
    said = [(question, pope.official(question, Answer("", absent="cut-off"))) for question in questions]
    score, share = pope.score(said)
    assert (score.value, share.value, score.unparsable) == (0, 0, 10)


def test_the_average_is_the_mean_of_the_three_f1_and_perfect_is_one():
    rows = []
    for category, wrong in (("random", 0), ("popular", 1), ("adversarial", 4)):
        for i in range(4):
            question = asked("yes" if i % 2 else "no", i, category)
            reply = question.reference if i >= wrong else {"yes": "no", "no": "yes"}[question.reference]
            rows.append((question, pope.strict(question, Answer(reply))))
    values = {m.metric: m.value for m in pope.score(rows)}
    assert (values["random"], values["popular"], values["adversarial"]) == pytest.approx((1, 0.8, 0))
    assert values["average"] == pytest.approx(0.6)
