"""VisCoT-s: its real files, and what is made of a judge's words."""

from pathlib import Path

import pytest

from sifthinker import config
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import viscot
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "viscot"
ROW = {
    "dataset": "gqa",
    "split": "val",
    "question_id": 7,
    "image": ["cot/gqa/2316539.jpg", "cot/gqa/2316539.jpg###[217, 343, 242, 393]"],
    "conversations": [
        {
            "from": "human",
            "value": "<image>\nWhat is it? Please provide the bounding box coordinate of the region that can help "
            "you answer the question better.",
        },
        {"from": "gpt", "value": "[0.542, 0.686, 0.592, 0.786]"},
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": "window"},
    ],
}


def asked(number=0, group="gqa"):
    return Question(f"{group}/{number}", group, "What is it?", f"{number}.jpg", "window")


@pytest.mark.parametrize(("name", "rows"), [("cub", 492), ("gqa", 978), ("vsr", 404)])
def test_the_real_files_load_whole(name, rows):
    if not REAL.is_dir():
        pytest.skip("../shared/data is not here")
    source = config.Benchmark(name="viscot", path=REAL / f"benchmark_{name}.json", images=REAL)
    questions = list(viscot.load(source))
    assert len(questions) == rows and all(isinstance(q, Question) and q.group == name for q in questions)
    assert len({q.id for q in questions}) == rows
    assert not any(
        "bounding box" in q.text or "<image>" in q.text or q.image.startswith("cot/") for q in questions
    )


def test_rows_become_questions_and_bad_ones_rejects(place):
    rows = [ROW, {**ROW, "conversations": []}, {**ROW, "image": "x"}, {**ROW, "dataset": 3}]
    first, *rejects = viscot.load(place("viscot", {"gqa.json": rows}, split="gqa"))
    assert first == Question("gqa/7", "gqa", "What is it?", "gqa/2316539.jpg", "window")
    assert [r.field for r in rejects if isinstance(r, Reject)] == ["conversations", "image", "dataset"]
    with pytest.raises(Missing, match=r"flickr30k\.json.*deepcs233/Visual-CoT"):
        list(viscot.load(place("viscot", {})))


def published_score(ret: str) -> float:
    """Visual-CoT, llava/eval/eval_cot_score.py, get_score, said once more for the judge's words."""
    import re

    ret = ret.lower()
    if "score" not in ret:
        return 0.0
    res = re.findall(r"score: ([\d\.]+)", ret)
    if len(res) != 1:
        return 0.0
    return max(0.0, min(1.0, float(res[0])))


WORDS = ["score: {n}", "Score: {n}", "SCORE: {n}\n", "The score: {n} because", "score:{n}", "score: {n} score: {n}", "{n}", "", "score: <{n}>", "score: -{n}", "I give it a score: {n}, well done", "unknown"]  # fmt: skip


def test_official_gives_the_published_score_for_200_replies_of_a_judge():
    for i in range(200):
        said = WORDS[i % len(WORDS)].format(
            n=["0", "1", "0.8", "0.25", "2", "1.0"][i % 6 if i % 5 else i % 4]
        )
        answer = Answer("a window", judged=(said, '{"score": 0.5}'))
        assert viscot.official(asked(), answer).score == published_score(said), said


@pytest.mark.parametrize(
    ("said", "official", "strict", "unparsable"),
    [
        (("score: 0.8", '{"score": 0.7}'), 0.8, 0.7, ""),
        (("score: 0.8.", "0.7"), 0.0, 0.7, ""),
        (("score: 3", "no idea"), 1.0, 0.0, "judge-unreadable"),
        ((), 0.0, 0.0, "empty"),
    ],
)
def test_a_judges_words_become_two_scores(said, official, strict, unparsable):
    answer = Answer("a window" if said else "", judged=said)
    assert viscot.official(asked(), answer).score == official
    verdict = viscot.strict(asked(), answer)
    assert (verdict.score, verdict.unparsable) == (strict, unparsable)


def test_the_judge_is_asked_with_the_image_by_the_paper_and_without_by_viscot():
    theirs, ours = viscot.judge_requests(asked(), Answer("a window"), "data:image/png;base64,AA==")
    assert "standard answer: window" in theirs.messages[1]["content"]
    assert [part["type"] for part in ours.messages[1]["content"]] == ["image_url", "text"]


def test_the_average_is_of_the_five_sources():
    rows = []
    for n, name in enumerate(viscot.SOURCES):
        for i in range(n + 1):
            question = asked(i, name)
            rows.append((question, viscot.strict(question, Answer("x", judged=("", str(n / 4))))))
    measures = {m.metric: m.value for m in viscot.score(rows)}
    assert measures["average"] == pytest.approx(0.5) and measures["cub"] == pytest.approx(1.0)
