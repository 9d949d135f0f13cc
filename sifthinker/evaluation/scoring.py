"""What an evaluation writes about replies: a row of `PREDICTIONS` for each question, an entry of `scores.json` a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from sifthinker import config, llm
from sifthinker.evaluation.asking import Asked
from sifthinker.evaluation.benchmarks import selection
from sifthinker.evaluation.benchmarks.question import Answer, Question, Verdict, rules
from sifthinker.evaluation.benchmarks.selection import Selection

PREDICTIONS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("reference", pa.string()),
        ("image_sha256", pa.string()),
        ("prompt_sha256", pa.string()),  # of the messages and the digests of their pictures
        ("reply", pa.string()),  # whole
        ("answer", pa.string()),  # the part that is scored
        ("boxes", pa.list_(pa.list_(pa.float64(), 4))),  # of the last area, 0..1
        ("read_as", pa.string()),  # by the strict rule: "B", "yes", "3"
        ("official", pa.float64()),
        ("strict", pa.float64()),
        ("unparsable", pa.string()),  # by the strict rule: the reason, "" when it was read
        ("parts", pa.map_(pa.string(), pa.float64())),  # where the strict rule scores more than one thing
        ("judged", pa.list_(pa.string())),  # what a judge said, where the benchmark has one
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)


def prediction(
    name: str,
    asked: Asked,
    reply: llm.Reply | llm.Failure,
    answer: Answer,
    official: Verdict,
    strict: Verdict,
) -> dict[str, Any]:
    """A row of `PREDICTIONS`; a question whose answer is hidden has no score.

    Args:
        name: of the scores, as in `scores.json`.
        asked: the question.
        reply: of the model, or what came instead of one.
        answer: what the reply says.
        official: the verdict by the published rule.
        strict: the verdict by the strict rule.
    """
    question = asked.question
    got = reply if isinstance(reply, llm.Reply) else None
    return {
        "benchmark": name,
        "id": question.id,
        "group": question.group,
        "question": question.text,
        "reference": question.reference,
        "image_sha256": asked.image_sha256,
        "prompt_sha256": asked.prompt_sha256,
        "reply": got.text if got else "",
        "answer": answer.text,
        "boxes": [list(box) for box in answer.boxes],
        "read_as": strict.reading,
        "official": official.score if question.reference else None,
        "strict": strict.score if question.reference else None,
        "unparsable": strict.unparsable,
        "parts": dict(strict.parts),
        "judged": list(answer.judged),
        "finish_reason": got.finish_reason if got else answer.absent,
        "prompt_tokens": got.prompt_tokens if got else 0,
        "completion_tokens": got.completion_tokens if got else 0,
    }


class Answered(NamedTuple):
    """The answers to one entry of `evaluate.benchmarks`."""

    job: Selection
    results: Sequence[tuple[Question, Verdict, Verdict]]  # official and strict
    rejected: int  # questions that could not be asked


def scores(
    name: str, entries: Sequence[Answered], limit: int | None, model: config.Model
) -> list[dict[str, Any]]:
    """The entries of a benchmark in `scores.json`: one for each metric.

    Each has both scores, and of the strict one n, the number of unparsable replies and the 95 % interval. Where two entries of
    the configuration would give the same metric, which nothing could tell apart, all questions are scored together.

    Args:
        name: of the scores.
        entries: of the benchmark in the configuration.
        limit: of the questions that were chosen of an entry; None = all.
        model: whose pixel budget says how the pictures were seen.
    """
    alone = [score for entry in entries for score in _scores(name, [entry], limit, model)]
    if len({score["metric"] for score in alone}) == len(alone):
        return alone
    return _scores(name, entries, limit, model)


def _scores(
    name: str, entries: Sequence[Answered], limit: int | None, model: config.Model
) -> list[dict[str, Any]]:
    """The scores of the questions of all these entries together."""
    first, rejected = entries[0].job, sum(entry.rejected for entry in entries)
    results = [result for entry in entries for result in entry.results]
    if not results:
        why = f"none of its {rejected} questions could be asked"
        return [missing(name, why, limit, first.source)]
    shrunk, shrunk_to = selection.shrunk([entry.job for entry in entries], model)
    official = {m.metric: m for m in first.benchmark.score([(q, o) for q, o, _ in results])}
    return [
        {
            "benchmark": name,
            "metric": measure.metric,
            "official": _finite(official[measure.metric].value),
            "strict": _finite(measure.value),
            "n": measure.n,
            "unparsable": measure.unparsable,
            "refused": measure.refused,
            "rules": rules(first.source.name),
            "rejected": rejected,
            "low": _finite(measure.low),
            "high": _finite(measure.high),
            "unit": measure.unit,
            "limit": limit,
            "missing": None,
            "rendered": any(entry.job.source.rendered for entry in entries),
            "shrunk": shrunk,
            "shrunk_to": shrunk_to,
        }
        for measure in first.benchmark.score([(q, s) for q, _, s in results])
    ]


def _finite(value: float) -> float | None:
    """None for a score that is not defined: of a pair rule without a whole pair, say. JSON knows no NaN."""
    return value if math.isfinite(value) else None


def missing(name: str, why: str, limit: int | None, source: config.Benchmark) -> dict[str, Any]:
    """The entry of a benchmark without a score in `scores.json`, with the reason; `name` is that of the scores."""
    return {
        "benchmark": name,
        "metric": "",
        "official": None,
        "strict": None,
        "n": 0,
        "unparsable": 0,
        "refused": 0,
        "rules": rules(source.name),
        "rejected": 0,
        "low": None,
        "high": None,
        "unit": "share",
        "limit": limit,
        "missing": why,
        "rendered": source.rendered,
        "shrunk": None,
        "shrunk_to": None,
    }
