"""One question to the judge before an evaluation: as the evaluation asks it, with a question's own reference as the answer.

A judge is asked only when the policy has answered. A wrong model name, a field that the endpoint does not take or a judge that
gives no score would show after hours of a GPU. What is asked here is in the ledger: a rerun does not pay for it again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from sifthinker import config, llm
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question
from sifthinker.evaluation.benchmarks.selection import Selection
from sifthinker.llm import Failure, Reply, judge

QUESTIONS = 3  # without a score before the evaluation is given up: one alone may be the question's fault
_SHOWN = 200  # characters of a reply
_ADVICE = {
    "bad-request": "Change what the endpoint does not take: extra, token_limit_field and leave_out of evaluate.judge change the "
    "body. What was refused is asked again by the next start.",
    "content-filter": "The provider blocks these pictures or questions: use another judge.",
    "unreadable": "See that evaluate.judge.base_url is that of an OpenAI-compatible endpoint.",
}
_OTHERWISE = "See that the endpoint answers, then start again."
_ANYWAY = "evaluate.probe = false goes on nevertheless."


def probe(sources: Iterable[config.Benchmark], client: llm.Client) -> Iterator[str]:
    """Asks for a score of the first question of each benchmark that wants a judge; what came of it, for a person.

    Args:
        sources: the benchmarks of the evaluation. One whose files are not there is left out: the evaluation says so.
        client: of the judge.

    Raises:
        UserError: the judge gave no score, of a question and of two more; or see `Client.ask`.
    """
    for source in sources:
        if BENCHMARKS[source.name].judge_requests is not None:
            try:
                asked = _first(source)
            except Missing:
                continue
            yield _probe(source, asked, client)


def _first(source: config.Benchmark) -> tuple[Selection, list[Question]]:
    """The first questions that can be asked and have a reference."""
    benchmark = BENCHMARKS[source.name]
    items = enumerate(benchmark.load(source))
    usable = (place for place, item in items if isinstance(item, Question) and item.reference)
    chosen = frozenset(itertools.islice(usable, QUESTIONS))
    job = Selection(source, benchmark, chosen)
    found = itertools.islice(job.questions(), len(chosen))
    return job, [item[0] for item in found if not isinstance(item, Reject)]


def _probe(source: config.Benchmark, first: tuple[Selection, list[Question]], client: llm.Client) -> str:
    job, questions = first
    troubles: list[tuple[str, str]] = []  # what was wrong, and what to do
    for some in (questions[:1], questions[1:]):
        for question in some:
            replies = list(client.answers(_requests(job, question, client.api.judge_tokens)))
            if trouble := _trouble(job, question, replies):
                troubles.append(trouble)
            else:
                return _told(job, question, [reply for reply in replies if isinstance(reply, Reply)])
    if not troubles:
        return f"no probe of the judge: none of the first questions of {source.name} can be asked"
    wrong, todo = troubles[-1]
    raise UserError(
        f"the judge's probe before the evaluation got no score for {len(troubles)} questions of {source.name}: {wrong}\n"
        f"Nothing else was asked. {todo} {_ANYWAY}"
    )


def _requests(job: Selection, question: Question, most: int) -> Iterator[llm.Request]:
    """What `asking.judged` would send if the policy's answer were the reference."""
    to_ask = job.benchmark.judge_requests
    assert to_ask is not None
    for request in to_ask(question, Answer(question.reference), judge.picture(job.image(question))):
        yield dataclasses.replace(request, max_tokens=most)


def _trouble(job: Selection, question: Question, replies: list[Reply | Failure]) -> tuple[str, str] | None:
    """What is wrong with the judge's replies, and what to do; None where there is a score."""
    for reply in replies:
        if isinstance(reply, Failure):
            return f"{reply.kind}: {reply.detail}", _ADVICE.get(reply.kind, _OTHERWISE)
    texts = [reply for reply in replies if isinstance(reply, Reply)]
    for reply in texts:
        if reply.finish_reason == "length":
            return f"the reply was cut off: {reply.text[:_SHOWN]!r}", "Raise evaluate.judge.judge_tokens."
    if not job.benchmark.strict(question, _answer(question, texts)).unparsable:
        return None
    last = texts[-1]
    return (
        f"the reply holds no score of 0 to 1: {last.text[:_SHOWN]!r}",
        "Use a judge that answers with a score.",
    )


def _answer(question: Question, replies: list[Reply]) -> Answer:
    return Answer(question.reference, judged=tuple(reply.text for reply in replies))


def _told(job: Selection, question: Question, replies: list[Reply]) -> str:
    answer = _answer(question, replies)
    official, strict = job.benchmark.official(question, answer), job.benchmark.strict(question, answer)
    source = "the ledger" if all(reply.cached for reply in replies) else replies[-1].model
    tokens = sum(reply.prompt_tokens + reply.completion_tokens for reply in replies)
    return (
        f"probe of the judge: {job.source.name}, {question.id}, {tokens:,} tokens, by {source}: the reference itself as the "
        f"answer gets {official.score:.2f} (official) and {strict.score:.2f} (strict): {replies[-1].text[:_SHOWN]!r}"
    )
