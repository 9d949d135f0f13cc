"""Answers that no rule scores: a judge scores free ones, and those to questions with hidden answers are written for submission."""

import json
import shutil

import pytest

from sifthinker import config, llm
from sifthinker.core import tables
from tests.evaluation.test_evaluate import CHAIN, png, run, serving, viscot


def test_a_split_with_hidden_answers_gives_a_submission_and_no_score(tmp_path):
    folder = tmp_path / "vqa"
    folder.mkdir()
    (folder / "COCO_test2015_000000000009.jpg").write_bytes(png("red"))
    questions = [{"image_id": 9, "question": f"What is {n}?", "question_id": n} for n in (1, 2)]
    (folder / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps({"questions": questions}))
    part = json.dumps({"questions": questions[:1]})
    (folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text(part)
    source = config.Benchmark(name="vqav2", path=folder, images=folder, split="test-dev2015")
    with serving(lambda text, _: CHAIN.format(answer="A dog.")) as (url, _):
        summary = run([source], url, tmp_path / "out")
    (entry,) = summary["scores"]
    assert entry["strict"] is None and "submit vqav2_submission.json" in entry["missing"]
    submitted = json.loads((tmp_path / "out" / "vqav2_submission.json").read_text())
    assert submitted == [{"question_id": 1, "answer": "dog"}, {"question_id": 2, "answer": ""}]
    (row,) = tables.read(tmp_path / "out" / "predictions.parquet")
    assert row["official"] is None and row["strict"] is None
    other = shutil.copytree(folder, tmp_path / "others")
    for file in other.glob("*.json"):
        file.write_text(file.read_text().replace('"question_id": ', '"question_id": 10'))
    others = source.model_copy(update={"path": other, "images": other})
    with serving(lambda text, _: CHAIN.format(answer="A cat.")) as (url, _):
        both = run([source, others], url, tmp_path / "both")
    assert [entry["missing"].rpartition("submit ")[2] for entry in both["scores"]] == [
        "vqav2_submission.json",
        "vqav2_submission-2.json",
    ]
    assert all((tmp_path / "both" / f"vqav2_submission{end}.json").is_file() for end in ("", "-2"))


@pytest.mark.parametrize(
    ("reply", "submitted"),
    [
        (CHAIN.format(answer="A dog and\n a cat, or perhaps a fox."), "A dog and a cat, or perhaps a fox."),
        ("<think>cut", ""),
    ],
    ids=["unsure", "no answer"],
)
def test_an_answer_that_the_strict_rule_cannot_read_is_submitted_as_it_stands(tmp_path, reply, submitted):
    (tmp_path / "COCO_test2015_000000000009.jpg").write_bytes(png("red"))
    document = json.dumps({"questions": [{"image_id": 9, "question": "What is it?", "question_id": 1}]})
    for part in ("test", "test-dev"):
        (tmp_path / f"v2_OpenEnded_mscoco_{part}2015_questions.json").write_text(document)
    source = config.Benchmark(name="vqav2", path=tmp_path, images=tmp_path, split="test-dev2015")
    with serving(lambda *_: reply) as (url, _):
        run([source], url, tmp_path / "out")
    (row,) = tables.read(tmp_path / "out" / "predictions.parquet")
    assert row["unparsable"]
    (entry,) = json.loads((tmp_path / "out" / "vqav2_submission.json").read_text())
    assert entry["answer"] == submitted


def test_a_judge_scores_free_answers_and_without_one_the_benchmark_is_left_out(tmp_path):
    source = viscot(tmp_path / "viscot", 3)

    def answer(text, _):
        return "cut" if "What is 1?" in text else CHAIN.format(answer="a red door")

    def judge(text, body):
        return '{"score": 0.5}' if "image_url" in json.dumps(body) else "score: 0.75"

    with serving(answer) as (url, _), serving(judge) as (judge_url, judged):
        summary = run([source], url, tmp_path / "without")
        assert "evaluate.judge" in summary["scores"][0]["missing"]
        api = config.Api(model="judge", base_url=judge_url)
        with llm.Client(api, tmp_path / "judge.sqlite") as client:
            summary = run([source], url, tmp_path / "out", judge=client)
    assert len(judged) == 4, "an answer that is not there is not judged"
    (entry,) = summary["scores"]
    assert (entry["metric"], entry["n"], entry["unparsable"]) == ("gqa", 3, 1)
    assert (entry["official"], entry["strict"]) == pytest.approx((0.5, 1 / 3))
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    assert [row["judged"] for row in rows] == [
        ["score: 0.75", '{"score": 0.5}'],
        [],
        ["score: 0.75", '{"score": 0.5}'],
    ]


def test_a_judge_whose_reply_is_no_text_ends_no_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)
    folder = tmp_path / "viscot"
    folder.mkdir()
    (folder / "1.png").write_bytes(png("red"))
    turns = [
        {"from": "human", "value": "<image>\nWhat is it? Please provide the bounding box"},
        {"value": "a door"},
    ]
    row = {"dataset": "gqa", "question_id": 0, "image": ["cot/1.png"], "conversations": turns}
    (folder / "gqa.json").write_text(json.dumps([row]))
    source = config.Benchmark(name="viscot", path=folder, images=folder, split="gqa")
    with (
        serving(lambda *_: CHAIN.format(answer="a red door")) as (url, _),
        serving(lambda *_: {"score": 0.5}) as (judge_url, _),
        llm.Client(config.Api(model="judge", base_url=judge_url), tmp_path / "judge.sqlite") as client,
    ):
        summary = run([source], url, tmp_path / "out", judge=client, max_absent=1.0)
    (entry,) = summary["scores"]
    assert (entry["n"], entry["unparsable"]) == (1, 1)
