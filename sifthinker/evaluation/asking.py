"""Asks the served model, and a judge, the questions of a benchmark; the requests and how a reply is read.

* The model sees what it saw in training: the prompt of `prompts.policy_messages`, the picture as `images` makes it
  of the file (upright, 8-bit RGB) and, with `model.depth_input`, the Spectral_r picture of its depth. Pictures are
  not sized down here: in training the processor applies the pixel budget to the whole picture, and the server does
  the same. A second resizing would differ. Only a server that was not started here, and whose processor is not known to
  hold the budget, is sent pictures of the size that the processor would make.
* Nothing of a question but its text and image is sent. The reference never leaves this process.
* A request that fails in transport stops the evaluation; it is never scored. Run again, it continues from the
  ledger. A refusal or a reply that was cut off is what the model gave: unparsable, wrong and counted.
* So is a request that the server refuses (a prompt that is too long for it), where it answers others of the benchmark. Where it
  answers none, its settings are at fault, and the evaluation stops. Run again, what was refused is asked again: nobody is paid
  for a refusal.
* An answer that the judge gives no score is the judge's failure, not the model's: the judge refuses it, is cut off, or says
  nothing that can be read. It has no verdict on the answer, is counted under the judge's own reasons (`judge-refused`,
  `judge-cut-off`, `judge-unreadable`), and is 0, up to the share `evaluate.max_absent` of the answers that the judge is asked
  about. More stops the evaluation. Where an answer is judged twice, the score of the one judge does not suffer from the other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sifthinker import config as configuration
from sifthinker import llm
from sifthinker.core import images, prompts
from sifthinker.core.depth_maps import SummedArea, decode_bytes
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import box_frames, replies
from sifthinker.evaluation.benchmarks.question import Answer, Benchmark, Question
from sifthinker.evaluation.benchmarks.selection import Selection, reject
from sifthinker.llm.judge import picture as judge_picture

logger = logging.getLogger(__name__)

BAD_REQUEST = "bad-request"  # kind of failure: the server takes requests, but not this one
# What the model or its provider gave instead of a reply; every other failure is the transport's or the set-up's.
_REFUSALS = {"content-filter": "refused", "unreadable": "unreadable", BAD_REQUEST: BAD_REQUEST}
_HOPELESS = 100  # questions that were refused before one was answered: no other will be
# Why an answer has no score of the judge's, by the kind of failure.
_JUDGE = {"content-filter": "judge-refused", "unreadable": "judge-unreadable", BAD_REQUEST: "judge-refused"}
_QUOTED = 200  # characters of a judge's reply in a message


class NotAnswered(Exception):
    """The server gave no reply to a question, and nothing was scored. A rerun repeats no answered question."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way, with what is needed to judge its reply."""

    question: Question  # without embedded image bytes
    image_sha256: str
    prompt_sha256: str


Answered = tuple[Asked, llm.Reply | llm.Failure, Answer]


@dataclass(frozen=True, slots=True)
class _Shown:
    """The pictures that go with a question."""

    image_sha256: str  # of the file that they are made of
    urls: list[str]  # the picture and, with `depth_input`, its depth: data URLs
    digests: list[str]  # SHA-256 of what is sent


@dataclass(frozen=True, slots=True)
class Asking:
    """How the questions of a benchmark are put to the served model."""

    client: llm.Client
    depths: Path  # folder with the depth pictures (Spectral_r PNGs), each named by the digest of its image
    model: configuration.Model
    config: configuration.Evaluate
    extra: dict[str, Any] = field(default_factory=dict)  # what each request says besides
    sized: bool = False  # pictures are brought under the pixel budget here

    def answers(self, job: Selection, lost: list[Reject]) -> Iterator[Answered]:
        """Every chosen question with its reply and what that says, in the benchmark's order.

        Args:
            job: the benchmark.
            lost: gets the questions that could not be asked.

        Raises:
            NotAnswered: the server did not answer a question, or refused all.
        """
        for item, reply in self._replies(job, lost):
            answer = self._read(reply, item.question)
            if job.benchmark.scores_chain:
                depths = SummedArea(decode_bytes((self.depths / item.image_sha256).read_bytes()))
                text = reply.text if isinstance(reply, llm.Reply) else ""
                answer = dataclasses.replace(answer, chain=text if self.config.think else None, depth=depths)
            yield item, reply, answer

    def _replies(self, job: Selection, lost: list[Reject]) -> Iterator[tuple[Asked, llm.Reply | llm.Failure]]:
        """Every chosen question with its reply; refusals are held back until one is answered. Raises: see `answers`."""
        asked: deque[Asked] = deque()
        held: list[tuple[Asked, llm.Failure]] | None = []  # None: one was answered
        refused = 0
        for reply in self.client.answers(self._requests(job, asked, lost)):
            item = asked.popleft()
            where = f"{job.source.name}, {item.question.id}"
            if isinstance(reply, llm.Failure):
                if reply.kind not in _REFUSALS:
                    raise NotAnswered(f"{where}: {reply.kind}: {reply.detail}")
                refused += reply.kind == BAD_REQUEST
                if held is not None:
                    held.append((item, reply))
                    if refused >= _HOPELESS:
                        break
                    continue
            elif held is not None:
                yield from held
                held = None
            yield item, reply
        if held:
            bad = [(item, reply) for item, reply in held if reply.kind == BAD_REQUEST]
            if bad:
                item, reply = bad[0]
                raise NotAnswered(
                    f"{job.source.name}, {item.question.id}: {reply.kind}: {reply.detail}\nThe server refused {len(bad)} questions "
                    "of this benchmark and answered none. Mend its settings; the next start asks them again"
                )
            yield from held
        if refused:
            logger.warning(
                "%s: the server refused %d of the requests; they are counted as wrong",
                job.source.name,
                refused,
            )

    def _requests(self, job: Selection, asked: deque[Asked], lost: list[Reject]) -> Iterator[llm.Request]:
        """One request for each question that can be asked; `asked` gets the question."""
        config = self.config
        shown = _Shown("", [""], [""])
        for item in job.questions():
            if isinstance(item, Reject):
                lost.append(item)
                continue
            question, digest = item
            if digest != shown.image_sha256:  # most benchmarks ask several questions in a row about one image
                found = self._shown(job, question, digest)
                if found is None:
                    lost.append(reject(job.source, question, "depth-missing", "no depth map could be made"))
                    continue
                shown = found
            messages = prompts.policy_messages(question.text, self.model.depth_input, config.think)
            prompt = hashlib.sha256(json.dumps([messages, shown.digests]).encode()).hexdigest()
            kept = question.image if isinstance(question.image, str) else ""
            light = dataclasses.replace(question, image=kept, cluster=question.cluster or digest)
            asked.append(Asked(light, digest, prompt))
            yield llm.Request(
                prompts.with_images(messages, shown.urls),
                config.temperature,
                config.max_tokens,
                _seed(config.seed, prompt),
                self.extra,
            )

    def _shown(self, job: Selection, question: Question, digest: str) -> _Shown | None:
        """The pictures of a question; None where its depth is needed and there is none."""
        pictures = [job.image(question)]
        depth = self.depths / digest
        if (self.model.depth_input or job.benchmark.scores_chain) and not depth.is_file():
            return None
        if self.model.depth_input:
            pictures.append(depth.read_bytes())
        if self.sized:
            pictures = [box_frames.within_budget(picture, self.model) for picture in pictures]
        return _Shown(
            digest,
            [images.data_url(picture, images.media_type(picture)) for picture in pictures],
            [hashlib.sha256(picture).hexdigest() for picture in pictures],
        )

    def _read(self, reply: llm.Reply | llm.Failure, question: Question) -> Answer:
        if isinstance(reply, llm.Failure):
            return Answer("", absent=_REFUSALS[reply.kind])
        frame = box_frames.frame(self.config.box_frame, self.model, question.width, question.height)
        return replies.read(reply.text, self.config.think, reply.finish_reason, frame)


@dataclass(slots=True)
class _Judged:
    """An answer on its way to the judge."""

    answered: Answered
    wanted: int  # replies
    said: list[str] = field(default_factory=list)  # so far
    problems: list[str] = field(default_factory=list)  # of each, why it gives no score; "" where it does

    @property
    def problem(self) -> str:
        """Why the judge gave no score, in the first reply that gives none."""
        return next(filter(None, self.problems), "")

    def hear(self, reply: llm.Reply | llm.Failure, benchmark: Benchmark) -> str:
        """Takes the judge's next reply; what is wrong with it, where it is the first of this answer that gives no score."""
        failed_before = bool(self.problem)
        problem = wrong = ""
        if isinstance(reply, llm.Failure):
            self.said.append("")
            problem, wrong = _JUDGE[reply.kind], f"{reply.kind}: {reply.detail}"
        else:
            self.said.append(reply.text)
            if reply.finish_reason == "length":  # the number may be cut, too
                problem, wrong = "judge-cut-off", f"cut off: {reply.text[:_QUOTED]!r}"
        self.problems.append(problem)
        if not problem and len(self.said) == self.wanted:
            item, _, answer = self.complete()
            self.problems[-1] = problem = benchmark.strict(item.question, answer).unparsable
            wrong = f"no score in {self.said[-1][:_QUOTED]!r}"
        return wrong if problem and not failed_before else ""

    def complete(self) -> Answered:
        item, reply, answer = self.answered
        unjudged = tuple(self.problems) if self.problem else ()
        return item, reply, dataclasses.replace(answer, judged=tuple(self.said), unjudged=unjudged)


def judged(
    job: Selection, answered: Iterator[Answered], judge: llm.Client | None, max_absent: float = 0.0
) -> Iterator[Answered]:
    """Adds what the judge says of the answers; leaves them as they are where the benchmark wants no judge.

    Args:
        job: the benchmark.
        answered: its questions with their answers.
        judge: whom to ask.
        max_absent: share of the answers that it may leave without a score.

    Raises:
        NotAnswered: the judge did not answer, or left more than that without a score.
    """
    to_ask = job.benchmark.judge_requests
    if to_ask is None:
        yield from answered
        return
    assert judge is not None
    waiting: deque[_Judged] = deque()
    asked = 0
    failed: Counter[str] = Counter()  # answers without a score, by the reason

    def requests() -> Iterator[llm.Request]:
        nonlocal asked
        for one in answered:
            item, _, answer = one
            questions: list[llm.Request] = []
            if answer.text:
                asked += 1
                url = judge_picture(job.image(item.question))
                most = judge.api.judge_tokens
                wanted = to_ask(item.question, answer, url)
                questions = [dataclasses.replace(question, max_tokens=most) for question in wanted]
            waiting.append(_Judged(one, len(questions)))
            yield from questions

    def complete() -> Iterator[Answered]:
        while waiting and len(waiting[0].said) == waiting[0].wanted:
            yield waiting.popleft().complete()

    last = ""
    for one in judge.answers(requests()):
        yield from complete()  # those of which nothing was to be judged
        first = waiting[0]
        where = f"judge of {job.source.name}, {first.answered[0].question.id}"
        if isinstance(one, llm.Failure) and one.kind not in _JUDGE:
            raise NotAnswered(f"{where}: {one.kind}: {one.detail}")
        if wrong := first.hear(one, job.benchmark):
            failed[first.problem] += 1
            last = f"{where}: {wrong}"
            _check_judge(failed, len(job.chosen), max_absent, last)  # so many answers at most
        yield from complete()
    yield from complete()
    _check_judge(failed, asked, max_absent, last)
    if failed:
        logger.warning(
            "%s: the judge gave no score for %d of %d answers", job.source.name, failed.total(), asked
        )


def _check_judge(failed: Counter[str], answers: int, max_absent: float, last: str) -> None:
    """Ends an evaluation whose judge leaves too many answers without a score.

    Raises:
        NotAnswered: they are more than the share `max_absent` of the answers.
    """
    if failed.total() > max_absent * answers:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(failed.items()))
        raise NotAnswered(
            f"{last}\nThe judge gave no score for {failed.total()} of {answers} answers ({reasons}), more than "
            f"evaluate.max_absent = {max_absent}. Mend evaluate.judge (judge_tokens, where it was cut off; another judge, where it "
            "blocks or gives no score), or raise that share. The next start asks again what the server took for a bad request, "
            "and everything that is then asked otherwise"
        )


def _seed(seed: int, prompt: str) -> int:
    """The seed of one reply; one seed for all would sample all of them with the same random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:4], "big")
