"""Requests that the model's server or the judge refuses: counted, unless it refuses too many."""

import json

import pytest

from sifthinker import config, llm
from sifthinker.core import tables
from sifthinker.evaluation import asking
from tests.evaluation.test_evaluate import CHAIN, run, serving, viscot, vstar


def too_long(*numbers):
    """A server that refuses the questions of these numbers."""
    return lambda text, _: (400, "too long") if int(text[15]) in numbers else CHAIN.format(answer="B")


@pytest.mark.parametrize("refused", [{5}, {0, 1, 5}], ids=["one of them", "the first ones too"])
def test_a_question_that_the_server_refuses_is_wrong_and_counted(tmp_path, refused, caplog):
    with serving(too_long(*refused)) as (url, _):
        summary = run([vstar(tmp_path / "data", rows=8)], url, tmp_path / "out")
    overall = summary["scores"][-1]
    right = sum(n % 2 == 1 and n not in refused for n in range(8))
    assert (overall["n"], overall["unparsable"], overall["strict"]) == (8, len(refused), right / 8)
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    assert [row["id"].split("/")[1] for row in rows] == [str(n) for n in range(8)], "in their order"
    reasons = {n: row["unparsable"] for n, row in enumerate(rows) if row["unparsable"]}
    assert reasons == dict.fromkeys(refused, "bad-request")
    assert f"vstar: the server refused {len(refused)} of the requests" in caplog.text


def test_a_server_that_refuses_every_question_stops_the_evaluation_and_is_asked_again_once_it_is_mended(
    tmp_path, monkeypatch
):
    source, ledger = vstar(tmp_path / "data", rows=8), tmp_path / "ledger.sqlite"
    with serving(too_long(*range(8))) as (url, requests):
        for _ in range(2):
            with pytest.raises(
                asking.NotAnswered, match=r"direct_attributes/0: bad-request.*too long\n.*refused 8 questions"
            ):
                run([source], url, tmp_path / "out", ledger=ledger)
        assert len(requests) == 16 and not (tmp_path / "out" / "scores.json").exists()
        monkeypatch.setattr(asking, "_HOPELESS", 3)
        with pytest.raises(asking.NotAnswered, match="refused 3 questions"):
            run([source], url, tmp_path / "out", ledger=ledger)
    with serving(too_long()) as (url, requests):
        summary = run([source], url, tmp_path / "out", ledger=ledger)
        assert len(requests) == 8 and summary["scores"][-1]["unparsable"] == 0


def test_another_failure_of_the_server_stops_the_evaluation_also_after_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)

    def answer(text, _):
        return (500, "down") if "thing 5" in text else CHAIN.format(answer="B")

    with (
        serving(answer) as (url, _),
        pytest.raises(asking.NotAnswered, match=r"relative_position/5: exhausted.*down"),
    ):
        run([vstar(tmp_path / "data", rows=8)], url, tmp_path / "out")


@pytest.mark.parametrize(("refused", "asked"), [({3}, 20), ({3, 7}, 20), ({3, 4, 7}, None)])
def test_answers_that_the_judge_refuses_are_wrong_and_counted_up_to_a_share(tmp_path, refused, asked):
    def judge(text, body):
        number = int(text.partition("What is ")[2].partition("?")[0])
        if number in refused:
            return 400, "no such picture"
        return '{"score": 1.0}' if "image_url" in json.dumps(body) else "score: 1.0"

    def judged(url, judge_url):
        api = config.Api(model="judge", base_url=judge_url)
        with llm.Client(api, tmp_path / "judge.sqlite", again=(asking.BAD_REQUEST,)) as client:
            return run([source], url, tmp_path / "out", judge=client, think=False)

    source = viscot(tmp_path / "viscot", 20)
    with serving(lambda *_: "a red door") as (url, _), serving(judge) as (judge_url, _):
        if asked is None:
            with pytest.raises(
                asking.NotAnswered,
                match=r"gqa/7: bad-request: .*no such picture.*\n.*gave no score for 3 of 20 answers \(judge-refused: 3\)",
            ):
                judged(url, judge_url)
            refused.clear()  # the judge is mended: it is asked again
            assert judged(url, judge_url)["scores"][0]["unparsable"] == 0
            return
        (entry,) = judged(url, judge_url)["scores"]
    assert (entry["n"], entry["unparsable"]) == (20, len(refused))
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    reasons = {n: row["unparsable"] for n, row in enumerate(rows) if row["unparsable"]}
    assert reasons == dict.fromkeys(refused, "judge-refused")
    assert {row["answer"] for row in rows} == {"a red door"} and rows[3]["judged"] == ["", ""]
    assert {row["official"] for n, row in enumerate(rows) if n in refused} == {0.0}


FILTERED = (400, "stopped by content_filter")


@pytest.mark.parametrize(
    ("theirs", "ours", "reason", "official", "strict"),
    [
        ("score: 1.0", FILTERED, "judge-refused", 1.0, 0.75),
        (FILTERED, '{"score": 1.0}', "judge-refused", 0.75, 1.0),
        (FILTERED, FILTERED, "judge-refused", 0.75, 0.75),
        ("score: 1.0", {"score": 0.5}, "judge-unreadable", 1.0, 0.75),  # no text in its reply
        ("score: 1.0", "a fine answer", "judge-unreadable", 1.0, 0.75),
        ("score: 1.0", '{"score": 7}', "judge-unreadable", 1.0, 0.75),
        (
            "score: 1.0",
            llm.Reply('{"score": 1.0}', "length", "judge", 1, 1),
            "judge-cut-off",
            1.0,
            0.75,
        ),
        (
            llm.Reply("score: 1", "length", "judge", 1, 1),
            '{"score": 1.0}',
            "judge-cut-off",
            0.75,
            1.0,
        ),
    ],
)
def test_what_a_judge_gives_no_score_is_its_failure_and_not_the_models_or_the_other_judges(
    tmp_path, monkeypatch, caplog, theirs, ours, reason, official, strict
):
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)
    plain = llm.Client.answers

    def judge(text, body):
        picture = "image_url" in json.dumps(body)
        said = (ours if picture else theirs) if "What is 1?" in text else None
        if said is None or isinstance(said, llm.Reply):
            return '{"score": 1.0}' if picture else "score: 1.0"
        return said

    def answers(client, requests):
        for place, reply in enumerate(plain(client, requests)):
            cut = (theirs, ours)[place % 2] if place // 2 == 1 and client.scope == "judge" else None
            yield cut if isinstance(cut, llm.Reply) else reply

    monkeypatch.setattr(llm.Client, "answers", answers)
    source = viscot(tmp_path / "viscot", 4)
    with serving(lambda *_: "a red door") as (url, _), serving(judge) as (judge_url, _):
        api = config.Api(model="judge", base_url=judge_url)
        with llm.Client(api, tmp_path / "judge.sqlite", scope="judge") as client:
            with pytest.raises(
                asking.NotAnswered, match=rf"no score for 1 of 4 answers \({reason}: 1\).*max_absent = 0.1"
            ):
                run([source], url, tmp_path / "out", judge=client, think=False)
            (entry,) = run([source], url, tmp_path / "out", judge=client, think=False, max_absent=0.25)[
                "scores"
            ]
    failed = strict < 1
    assert (entry["n"], entry["unparsable"]) == (4, failed)
    assert (entry["official"], entry["strict"]) == (official, strict)
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    assert [row["unparsable"] for row in rows] == ["", reason if failed else "", "", ""]
    assert "viscot: the judge gave no score for 1 of 4 answers" in caplog.text
