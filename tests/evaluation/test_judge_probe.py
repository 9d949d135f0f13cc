"""The question to the judge before an evaluation: what it sends, and when it stops the stage."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker import config, llm
from sifthinker.core.errors import UserError
from sifthinker.evaluation.judge_probe import QUESTIONS, probe
from tasks.stages import evaluate
from tests import evil
from tests.evaluation.test_evaluate import png, vstar

API = config.Api.model_validate({"model": "judge", "retries": 0, "timeout": 5.0, "judge_tokens": 321})
Answers = Callable[[int, bytes], evil.Answer]


def viscot(folder: Path, rows: int = 5) -> config.Benchmark:
    """Five questions about pictures; the third one's is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    asked: list[dict[str, Any]] = []
    for number in range(rows):
        if number != 2:
            (folder / f"{number}.png").write_bytes(png((number, 9, 9)))
        turns = [f"<image>\nWhat is number {number}?", "[0.1, 0.1, 0.5, 0.5]", "<image>", f"window {number}"]
        asked.append(
            {
                "dataset": "gqa",
                "split": "val",
                "question_id": number,
                "image": [f"{number}.png"],
                "conversations": [{"from": "x", "value": turn} for turn in turns],
            }
        )
    (folder / "gqa.json").write_text(json.dumps(asked))
    return config.Benchmark(name="viscot", path=folder, images=folder, split="gqa")


def scoring(_: int, body: bytes) -> evil.Answer:
    """A judge that answers in the form that it is asked for: the two rules want different ones."""
    ours = b"image_url" in body
    return 200, {}, evil.chat('{"score": 0.9}' if ours else "score: 1.0")


def asked(tmp_path: Path, answer: Answers, *sources: config.Benchmark) -> tuple[list[str], list[Any]]:
    with (
        evil.serving(answer) as server,
        llm.Client(API, tmp_path / "calls.sqlite", server.url, scope="judge") as client,
    ):
        said = list(probe(sources or (viscot(tmp_path / "viscot"),), client))
        return said, [json.loads(body) for body in server.asked]


def test_one_question_is_judged_as_the_evaluation_would_and_what_was_said_is_shown(tmp_path: Path) -> None:
    (said,), bodies = asked(tmp_path, scoring)
    assert "viscot, gqa/0, 30 tokens, by canned" in said
    assert "gets 1.00 (official) and 0.90 (strict): '{\"score\": 0.9}'" in said
    assert len(bodies) == 2
    assert {body["max_tokens"] for body in bodies} == {321}
    texts = [json.dumps(body["messages"]) for body in bodies]
    assert all("What is number 0?" in text and "window 0" in text for text in texts)
    assert sorted("data:image/jpeg" in text for text in texts) == [False, True], (
        "with the picture, and without"
    )
    again, bodies = asked(tmp_path, scoring)
    assert not bodies and "by the ledger" in again[0], "it is paid once"


def test_benchmarks_without_a_judge_or_without_files_are_no_reason_to_ask(tmp_path: Path) -> None:
    gone = config.Benchmark(name="viscot", path=tmp_path / "gone", images=tmp_path / "gone", split="gqa")
    assert asked(tmp_path, scoring, vstar(tmp_path / "vstar"), gone) == ([], [])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            (400, {}, b'{"error": {"message": "no such picture"}}'),
            "bad-request: .*no such picture.*\n.*extra",
        ),
        ((500, {}, b"{}"), "exhausted: .*\n.*See that the endpoint answers"),
        ((200, {}, evil.chat('{"score": 85}')), "holds no score of 0 to 1: .*85.*\n.*answers with a score"),
        (
            (200, {}, evil.chat("Let me think", reason="length")),
            "was cut off.*\n.*evaluate.judge.judge_tokens",
        ),
        (  # the number may be cut, too
            (200, {}, evil.chat('{"score": 1.0}', reason="length")),
            "was cut off.*score.*1.0.*\n.*evaluate.judge.judge_tokens",
        ),
    ],
)
def test_a_judge_that_scores_nothing_stops_the_evaluation_and_the_message_says_what_to_do(
    tmp_path: Path, answer: evil.Answer, words: str
) -> None:
    # the picture of the third question is gone, so two of the first three are asked
    with pytest.raises(
        UserError, match=f"no score for 2 questions of viscot: .*{words}.*evaluate.probe = false"
    ):
        asked(tmp_path, lambda *_: answer)


def test_one_question_that_is_refused_does_not_stop_it(tmp_path: Path) -> None:
    def picky(number: int, body: bytes) -> evil.Answer:
        return (400, {}, b'{"error": {"message": "odd"}}') if b"number 0" in body else scoring(number, body)

    (said,), bodies = asked(tmp_path, picky)
    assert "gqa/1" in said and len(bodies) == 4
    assert QUESTIONS == 3


def stage(tmp_path: Path, **settings: Any) -> tuple[Any, list[bytes]]:
    """Enters what is around the stage; what was logged, and what the judge was asked."""
    log = logging.getLogger("evaluate")
    with evil.serving(scoring) as server:
        judge = API.model_copy(update={"base_url": server.url, **settings.pop("api", {})})
        section = config.Evaluate(benchmarks=(viscot(tmp_path / "viscot"),), judge=judge, **settings)
        job: Any = SimpleNamespace(
            config=SimpleNamespace(evaluate=section),
            store=SimpleNamespace(root=tmp_path),
            order=SimpleNamespace(label="evaluate"),
            log=log,
        )
        with evaluate.evaluate.around(job) as endpoints:
            return endpoints, server.asked


def test_the_stage_asks_before_anything_else_and_may_be_told_not_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _, bodies = stage(tmp_path)
    assert len(bodies) == 2 and "evaluate: probe of the judge: viscot" in caplog.text
    assert not stage(tmp_path / "b", probe=False)[1]
    assert not stage(tmp_path / "c", api={"base_url": config.STANDIN})[1], (
        "the stage's own judge costs nothing"
    )
