"""What an evaluation cannot use (a refusal, a reply, a picture, a row, a missing file) is counted and named, and the rest is scored."""

import pytest

from sifthinker import config
from sifthinker.core import tables
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Missing, rules
from tests.evaluation.test_evaluate import CHAIN, run, serving, vstar


def test_missing_files_are_said_and_the_other_benchmarks_run(tmp_path):
    lost = config.Benchmark(name="spatialbench", path=tmp_path, images=tmp_path)
    with serving(lambda text, _: CHAIN.format(answer="A")) as (url, _):
        summary = run([lost, vstar(tmp_path / "data")], url, tmp_path / "out")
    first, *others = summary["scores"]
    assert first["benchmark"] == "spatialbench" and first["strict"] is None
    assert "positional.json" in first["missing"] and "RussRobin/SpatialBench" in first["missing"]
    assert len(others) == 3 and all(s["missing"] is None for s in others)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_with_nothing_there_the_question_files_are_named_before_the_pictures(name, tmp_path):
    nowhere = config.Benchmark(name=name, path=tmp_path / "none", images=tmp_path / "no-pictures")
    with pytest.raises(Missing, match=r"wants (?!its images).*published at https") as caught:
        list(BENCHMARKS[name].load(nowhere))
    assert str(tmp_path / "none") in str(caught.value)


def test_refusals_and_unreadable_replies_are_wrong_and_counted(tmp_path):
    def answer(text, _):
        if "thing 0" in text:
            return 400, "stopped by content_filter"
        return {"1": "no tags", "2": CHAIN.format(answer="A or B"), "3": CHAIN.format(answer="B")}[text[15]]

    with serving(answer) as (url, _):
        summary = run([vstar(tmp_path / "data", rows=4)], url, tmp_path / "out")
    overall = summary["scores"][-1]
    assert (overall["n"], overall["unparsable"], overall["refused"], overall["strict"]) == (4, 3, 1, 0.25)
    assert (overall["rules"], summary["box_frame"]) == (rules("vstar"), "image")
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    assert [row["unparsable"] for row in rows] == ["refused", "no-answer", "several-named", ""]


def test_a_server_that_loses_its_pictures_scores_nothing_and_its_refusals_are_counted_apart(tmp_path):
    with serving(lambda text, _: CHAIN.format(answer="No image was provided.")) as (url, _):
        summary = run([vstar(tmp_path / "data", rows=4)], url, tmp_path / "out")
    overall = summary["scores"][-1]
    assert (overall["n"], overall["unparsable"], overall["refused"], overall["strict"]) == (4, 4, 4, 0.0)
    rows = tables.read(tmp_path / "out" / "predictions.parquet")
    assert {row["unparsable"] for row in rows} == {"no-picture"}


def test_a_reply_that_is_no_text_is_wrong_and_counted_and_the_evaluation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)

    def answer(text, _):
        parts = [{"type": "thinking", "text": "B"}, {"type": "text", "text": CHAIN.format(answer="A")}]
        return {"0": 7, "1": {"text": "A"}, "2": parts, "3": CHAIN.format(answer="B \ud83d")}[text[15]]

    with serving(answer) as (url, _):
        summary = run([vstar(tmp_path / "data", rows=4)], url, tmp_path / "out")
    assert summary["scores"][-1]["n"] == 4
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    assert [row["unparsable"] for row in rows][:3] == ["unreadable", "unreadable", ""]
    assert [row["reply"][-20:] for row in rows[2:]] == [
        CHAIN.format(answer="A")[-20:],
        CHAIN.format(answer="B \ufffd")[-20:],
    ]


def test_questions_without_a_usable_image_or_depth_map_are_rejected_by_name(tmp_path):
    source = vstar(tmp_path / "data", rows=6)
    (tmp_path / "data" / "0.png").unlink()
    (tmp_path / "data" / "1.png").write_bytes(b"no picture")
    with serving(lambda text, _: CHAIN.format(answer="A")) as (url, requests):
        summary = run([source], url, tmp_path / "out")
        assert (summary["scores"][-1]["n"], summary["scores"][-1]["rejected"]) == (2, 4)
        run([source], url, tmp_path / "without", depth=lambda pairs: [])
    reasons = [row["reason"] for row in tables.read(tmp_path / "out" / "rejects.parquet")]
    assert reasons == ["image-missing"] * 2 + ["image-format"] * 2
    reasons = [row["reason"] for row in tables.read(tmp_path / "without" / "rejects.parquet")]
    assert reasons[4:] == ["depth-missing"] * 2
    assert len(requests) == 2


def test_rows_that_no_question_could_be_made_of_are_counted_with_the_rejected(tmp_path):
    source = vstar(tmp_path / "data", rows=6)
    file = next((tmp_path / "data").rglob("*.jsonl"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["{}", *lines]) + "\n")
    with serving(lambda text, _: CHAIN.format(answer="A")) as (url, _):
        summary = run([source], url, tmp_path / "out", sampled=0.5)
    rejected = len(list(tables.read(tmp_path / "out" / "rejects.parquet")))
    assert rejected == 1
    assert {
        (score["n"], score["rejected"]) for score in summary["scores"] if score["metric"] == "overall"
    } == {(len(lines), 1)}
