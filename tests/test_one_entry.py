"""A source and a benchmark from outside the package: one entry each, and everything else follows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker import config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import SOURCES, Format, Row
from sifthinker.data.sources.fields import Parse
from sifthinker.evaluation import history
from sifthinker.evaluation.benchmarks import BENCHMARKS, SAMPLED, metrics
from sifthinker.evaluation.benchmarks.question import Answer, Benchmark, Measure, Question, Result, Verdict
from sifthinker.evaluation.benchmarks.selection import open_benchmark
from tests.ingested import ingest


def caption_lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines `image|x1 y1 x2 y2|question|answer`, boxes in pixels."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        yield number, dict(zip(("image", "box", "question", "answer"), line.split("|"), strict=True))


def captions(path: Path, images: Path | None, source: config.Source, frame: str) -> Parse:
    def parse(number: int, value: Mapping[str, Any]) -> Row:
        x1, y1, x2, y2 = map(float, value["box"].split())
        return Row(
            id=f"{source.name}/captions/row{number}",
            source=source.name,
            dataset="captions",
            split="train",
            question=value["question"],
            answer=value["answer"],
            images=(value["image"],),
            width=0,
            height=0,
            boxes=((x1, y1, x2, y2),),
            canvas=None,
            frame=frame,
            file=path.name,
            number=number,
        )

    return parse


def test_the_rows_of_a_third_source_are_ingested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "captions", Format(captions, rows=caption_lines))
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "captions.txt").write_text("a.png|10 5 20 15|What colour?|red\nb.png|0 0 5 5|Which?|none\n")
    values = {
        "name": "ours",
        "format": "captions",
        "path": str(tmp_path / "captions.txt"),
        "images": str(tmp_path),
    }
    [source] = config.parse({"sources": [values]}, "test").sources
    rows = list(ingest([source], config.Ingest()))
    assert [(row.id, row.boxes) for row in rows if isinstance(row, Sample)] == [
        ("ours/captions/row0", ((0.25, 0.25, 0.5, 0.75),))
    ]
    assert [row.reason for row in rows if isinstance(row, Reject)] == ["image-missing"]


def test_a_format_that_there_is_not_is_answered_with_those_that_there_are() -> None:
    values = {"name": "a", "format": "visct", "path": "a.json"}
    with pytest.raises(UserError, match=r"source named 'visct'; did you mean 'viscot'\? Known"):
        config.parse({"sources": [values]}, "test")


class Colours:
    """The rules of a benchmark: what a module has, as an object."""

    PUBLISHED = "https://example.org/colours"

    def load(self, source: config.Benchmark) -> Iterator[Question | Reject]:
        for row in json.loads(source.path.read_text(encoding="utf-8")):
            yield Question(row["id"], row["kind"], row["text"], row["image"], row["colour"])

    def official(self, question: Question, answer: Answer) -> Verdict:
        return Verdict(float(question.reference == answer.text), answer.text)

    def strict(self, question: Question, answer: Answer) -> Verdict:
        return Verdict(float(question.reference in answer.text.lower()), answer.text)

    def score(self, results: Sequence[Result]) -> list[Measure]:
        kinds = [metrics.accuracy(kind, rows) for kind, rows in metrics.groups(results).items()]
        return [*kinds, metrics.accuracy("total", results)]


def test_a_benchmark_of_one_entry_is_asked_scored_and_has_its_headline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "colours", Benchmark(Colours(), headlines=("total",)))
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    row = {"id": "1", "kind": "warm", "text": "What colour?", "image": "a.png", "colour": "red"}
    (tmp_path / "colours.json").write_text(json.dumps([row]))
    source = config.Benchmark(name="colours", path=tmp_path / "colours.json", images=tmp_path)
    benchmark = BENCHMARKS[source.name]
    selection, rejects = open_benchmark(source, benchmark, None, 0)
    assert not rejects
    [(question, _)] = [item for item in selection.questions() if not isinstance(item, Reject)]
    verdict = benchmark.strict(question, Answer("Red."))
    assert [(m.metric, m.value) for m in benchmark.score([(question, verdict)])] == [
        ("warm", 1),
        ("total", 1),
    ]
    scores = [
        {"benchmark": name, "metric": metric, "strict": 1.0}
        for name in ("colours", "colours" + SAMPLED)
        for metric in ("warm", "total")
    ]
    assert history.headlines(scores) == [("colours", "total"), ("colours" + SAMPLED, "total")]
