"""Asks a served model the questions of benchmarks and scores its replies, officially and strictly.

Reads the benchmarks' files; writes `predictions.parquet` (`PREDICTIONS`, one row a question), `rejects.parquet`
(questions that could not be asked, with the reason), `scores.json`, and a submission file for every benchmark whose
answers are hidden.

* The model sees what it saw in training: the prompt of `prompts.policy_messages`, the picture as `images` makes it
  of the file (upright, 8-bit RGB) and, with `model.depth_input`, the Spectral_r picture of its depth. Pictures are
  not sized down here: training lets the processor apply the pixel budget to the whole picture, so does the server,
  and a second resizing would differ.
* Nothing of a question but its text and image is sent; the reference never leaves this process.
* A request that fails in transport stops the evaluation (asked again, it continues from the ledger); it is never
  scored. A refusal or a reply cut off is what the model gave: unparsable, wrong and counted.
* No clock enters the files, so an evaluation that was killed and continued gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sifthinker import config as configuration
from sifthinker import llm
from sifthinker.core import errors, images, prompts, records
from sifthinker.core.depth_maps import SummedArea, decode_bytes
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import BENCHMARKS, JUDGED, SUBMISSIONS, WHOLE, box_frames, replies
from sifthinker.evaluation.benchmarks.job import Job, open_job, reject
from sifthinker.evaluation.benchmarks.question import RULES, Answer, Missing, Question, Verdict
from sifthinker.llm.judge import picture as judge_picture

logger = logging.getLogger(__name__)

DepthPictures = Callable[[Iterable[tuple[str, bytes]]], Iterable[tuple[str, bytes]]]
# What the model or its provider gave instead of a reply; every other failure is the transport's or the set-up's.
_REFUSALS = {"content-filter": "refused", "unreadable": "unreadable"}

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


class NotAnswered(Exception):
    """The server gave no reply to a question; nothing was scored. Asked again, answered questions are not repeated."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question on its way, with what is needed to judge its reply."""

    question: Question  # without embedded image bytes
    image_sha256: str
    prompt_sha256: str


_Answered = tuple[_Asked, llm.Reply | llm.Failure, Answer]


def evaluate(
    benchmarks: Sequence[configuration.Benchmark],
    base_url: str,
    model_name: str,
    label: str,
    weights_digest: str,
    ledger: Path,
    depth: DepthPictures | None,
    model: configuration.Model,
    config: configuration.Evaluate,
    out: Path,
    judge: llm.Client | None = None,
) -> dict[str, Any]:
    """Scores of a served model on benchmarks; what is returned is what `scores.json` holds.

    Args:
        benchmarks: the benchmarks' files. One whose files are not there is reported as missing, the others run.
        base_url: of the OpenAI-compatible server.
        model_name: as the server knows it.
        label: as reports show it.
        weights_digest: of the served weights; replies are remembered under it.
        ledger: file of remembered replies.
        depth: Spectral_r PNGs of (image digest, image) pairs, in any order; None only without `depth_input` and
            without a benchmark that scores depths.
        model: what training and evaluation agree on.
        config: how to ask.
        out: folder for the files.
        judge: scores free answers (VisCoT-s); a benchmark that wants it is left out without it.

    Raises:
        config.UserError: an unknown benchmark, or a file that is not what it should be.
        NotAnswered: the server, or the judge, did not answer a question.
    """
    assert depth is not None or not model.depth_input
    rejects: list[Reject] = []
    scores: list[dict[str, Any]] = []
    jobs: list[Job] = []
    for source in benchmarks:
        if source.name not in BENCHMARKS:
            raise errors.UserError(
                f"evaluate.benchmarks: no benchmark {source.name!r}; known: {', '.join(BENCHMARKS)}"
            )
        if source.name in JUDGED and judge is None:
            scores.append(_missing(source.name, "wants a judge: set evaluate.judge", config.limit))
            continue
        try:
            job, bad = open_job(source, BENCHMARKS[source.name], config.limit, config.seed)
        except Missing as error:
            logger.warning("%s", error)
            scores.append(_missing(source.name, str(error), config.limit))
            continue
        logger.info("%s: %d questions", source.name, len(job.chosen))
        jobs.append(job)
        rejects.extend(bad)
    # Replies are remembered by the weights' digest, not by the port that the server happens to have.
    api = configuration.Api(
        base_url="served", model=model_name, concurrency=config.concurrency, timeout=config.timeout
    )
    with (
        tempfile.TemporaryDirectory(dir=out, prefix=".depth-") as folder,
        llm.Client(api, ledger, base_url, scope=weights_digest) as client,
    ):
        pictures = Path(folder)
        mapped = [job for job in jobs if model.depth_input or job.source.name in WHOLE]
        if mapped:
            assert depth is not None
            for digest, png in depth(_distinct_images(mapped)):
                (pictures / digest).write_bytes(png)

        def predictions() -> Iterator[dict[str, Any]]:
            for job, name, how in _ways(jobs, config):
                lost: list[Reject] = []
                results: list[tuple[Question, Verdict, Verdict]] = []
                hidden: list[tuple[Question, str]] = []
                answered = _ask(job, client, pictures, model, how, lost)
                for asked, reply, answer in _judged(job, answered, judge):
                    official = job.benchmark.official(asked.question, answer)
                    strict = job.benchmark.strict(asked.question, answer)
                    if asked.question.reference:
                        results.append((asked.question, official, strict))
                    else:
                        hidden.append((asked.question, strict.reading))
                    yield _row(name, asked, reply, answer, official, strict)
                if hidden and how is config:
                    file, content = SUBMISSIONS[job.source.name](job.source, hidden)
                    (out / file).write_bytes(content)
                    why = f"the answers to {len(hidden)} questions are hidden: submit {file}"
                    scores.append(_missing(name, why, config.limit))
                if results or not hidden:
                    scores.extend(_scores(job, name, results, len(lost), config.limit))
                rejects.extend(lost)

        records.write(out / "predictions.parquet", PREDICTIONS, predictions())
    records.write(out / "rejects.parquet", records.REJECTS, rejects)
    summary = {
        "model": label,
        "limit": config.limit,
        "think": config.think,
        "depth_input": model.depth_input,
        "box_frame": box_frames.named(config.box_frame, model),
        "rules": RULES,
        "temperature": config.temperature,
        "seed": config.seed,
        "max_tokens": config.max_tokens,
        "scores": scores,
    }
    (out / "scores.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _ways(
    jobs: Sequence[Job], config: configuration.Evaluate
) -> Iterator[tuple[Job, str, configuration.Evaluate]]:
    """Every benchmark under the name of its scores, with how it is asked: as configured, then sampled."""
    for job in jobs:
        yield job, job.source.name, config
        if config.sampled is not None:
            yield job, f"{job.source.name} sampled", config.model_copy(update={"temperature": config.sampled})


def _distinct_images(jobs: Sequence[Job]) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    for job in jobs:
        for item in job.questions():
            if not isinstance(item, Reject) and item[1] not in seen:
                seen.add(item[1])
                yield item[1], job.image(item[0])


def _ask(
    job: Job,
    client: llm.Client,
    pictures: Path,
    model: configuration.Model,
    config: configuration.Evaluate,
    lost: list[Reject],
) -> Iterator[_Answered]:
    """Every chosen question with its reply and what that says, in the benchmark's order; `lost` gets those that could not be asked."""

    def requests(
        items: Iterable[tuple[Question, str] | Reject], asked: deque[_Asked]
    ) -> Iterator[llm.Request]:
        shown_of, digests, urls = "", [""], [""]
        for item in items:
            if isinstance(item, Reject):
                lost.append(item)
                continue
            question, digest = item
            if digest != shown_of:  # most benchmarks ask several questions in a row about one image
                shown = [job.image(question)]
                if model.depth_input or whole:
                    if not (pictures / digest).is_file():
                        lost.append(
                            reject(job.source, question, "depth-missing", "no depth map could be made")
                        )
                        continue
                    if model.depth_input:
                        shown.append((pictures / digest).read_bytes())
                urls = [images.data_url(picture, images.media_type(picture)) for picture in shown]
                digests = [hashlib.sha256(picture).hexdigest() for picture in shown]
                shown_of = digest
            messages = prompts.policy_messages(question.text, model.depth_input, config.think)
            prompt = hashlib.sha256(json.dumps([messages, digests]).encode()).hexdigest()
            kept = question.image if isinstance(question.image, str) else ""
            light = dataclasses.replace(question, image=kept, cluster=question.cluster or digest)
            asked.append(_Asked(light, digest, prompt))
            seed = _seed(config.seed, prompt)
            yield llm.Request(
                prompts.with_images(messages, urls), config.temperature, config.max_tokens, seed
            )

    whole = job.source.name in WHOLE
    asked: deque[_Asked] = deque()
    for reply in client.answers(requests(job.questions(), asked)):
        item = asked.popleft()
        if isinstance(reply, llm.Failure) and reply.kind not in _REFUSALS:
            raise NotAnswered(f"{job.source.name}, {item.question.id}: {reply.kind}: {reply.detail}")
        frame = box_frames.frame(config.box_frame, model, item.question.width, item.question.height)
        answer = _answer(reply, config.think, frame)
        if whole:
            depths = SummedArea(decode_bytes((pictures / item.image_sha256).read_bytes()))
            text = reply.text if isinstance(reply, llm.Reply) else ""
            answer = dataclasses.replace(answer, chain=text if config.think else None, depth=depths)
        yield item, reply, answer


def _judged(job: Job, answered: Iterator[_Answered], judge: llm.Client | None) -> Iterator[_Answered]:
    """The same with what the judge says of the answers; without change where none is wanted."""
    if job.source.name not in JUDGED:
        yield from answered
        return
    assert judge is not None
    waiting: deque[tuple[_Answered, list[str], int]] = deque()  # what the judge said so far, of so many times

    def requests() -> Iterator[llm.Request]:
        for one in answered:
            item, _, answer = one
            questions: list[llm.Request] = []
            if answer.text:
                url = judge_picture(job.image(item.question))
                questions = list(JUDGED[job.source.name](item.question, answer, url))
            waiting.append((one, [], len(questions)))
            yield from questions

    def complete() -> Iterator[_Answered]:
        while waiting and len(waiting[0][1]) == waiting[0][2]:
            (item, reply, answer), said, _ = waiting.popleft()
            yield item, reply, dataclasses.replace(answer, judged=tuple(said))

    for one in judge.answers(requests()):
        yield from complete()  # those of which nothing was to be judged
        (item, _, _), said, _ = waiting[0]
        if isinstance(one, llm.Failure) and one.kind not in _REFUSALS:
            raise NotAnswered(f"judge of {job.source.name}, {item.question.id}: {one.kind}: {one.detail}")
        said.append(one.text if isinstance(one, llm.Reply) else "")
        yield from complete()
    yield from complete()


def _seed(seed: int, prompt: str) -> int:
    """The seed of one reply: with one for all, all would be sampled with the same random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:4], "big")


def _answer(reply: llm.Reply | llm.Failure, think: bool, frame: box_frames.Frame | None) -> Answer:
    if isinstance(reply, llm.Failure):
        return Answer("", absent=_REFUSALS[reply.kind])
    return replies.read(reply.text, think, reply.finish_reason, frame)


def _row(
    name: str,
    asked: _Asked,
    reply: llm.Reply | llm.Failure,
    answer: Answer,
    official: Verdict,
    strict: Verdict,
) -> dict[str, Any]:
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


def _scores(
    job: Job,
    name: str,
    results: Sequence[tuple[Question, Verdict, Verdict]],
    rejected: int,
    limit: int | None,
) -> list[dict[str, Any]]:
    """One entry a metric: both scores, and n, unparsable and the 95 % interval of the strict one."""
    if not results:
        return [_missing(name, f"none of its {rejected} questions could be asked", limit)]
    official = {m.metric: m for m in job.benchmark.score([(q, o) for q, o, _ in results])}
    return [
        {
            "benchmark": name,
            "metric": measure.metric,
            "official": _finite(official[measure.metric].value),
            "strict": _finite(measure.value),
            "n": measure.n,
            "unparsable": measure.unparsable,
            "refused": measure.refused,
            "rules": RULES,
            "rejected": rejected,
            "low": _finite(measure.low),
            "high": _finite(measure.high),
            "unit": measure.unit,
            "limit": limit,
            "missing": None,
        }
        for measure in job.benchmark.score([(q, s) for q, _, s in results])
    ]


def _finite(value: float) -> float | None:
    """None for a score that is not defined: of a pair rule without a whole pair, say. JSON knows no NaN."""
    return value if math.isfinite(value) else None


def _missing(name: str, why: str, limit: int | None) -> dict[str, Any]:
    return {
        "benchmark": name,
        "metric": "",
        "official": None,
        "strict": None,
        "n": 0,
        "unparsable": 0,
        "refused": 0,
        "rules": RULES,
        "rejected": 0,
        "low": None,
        "high": None,
        "unit": "share",
        "limit": limit,
        "missing": why,
    }
