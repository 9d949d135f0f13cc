"""Stage annotate: the chain of every sample, written by a vision-language model and checked (paper, Algorithm 1).

Reads `SAMPLES`, `FOCUS` and `MAPS`, writes `CHAINS`. What departs from the release (produce.py):

1. A reply is accepted only if it is the chain that was asked for (`acceptance.check`); the release checks for "```".
2. A reply that is not is sent back with the reason, up to `attempts`; then the row is a reject with every
   attempt's text and reason. The release tries three times blindly and drops the row silently.
3. Every call goes through the ledger: a rerun asks nothing twice. The release pays anew.
4. The question and the answer are in the user's turn; the system text is the same for all rows, so that providers
   can cache it, and never says that the answer was given.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from sifthinker.annotation import early_stop
from sifthinker.annotation.acceptance import Refused, check
from sifthinker.annotation.matching import same_boxes
from sifthinker.annotation.wanted import Wanted
from sifthinker.config import Annotate
from sifthinker.core import depth_maps, drawing, images, prompts
from sifthinker.core.records import Annotation, DepthMap, Focus, Region, Reject, Sample
from sifthinker.llm import BudgetSpent, Client, Failure, Request, image_url, judge
from sifthinker.system.waiting import outcome

AGREEMENT = 0.8  # judge's score from which an answer says the same as the reference; not given in the paper
_PENDING = 16  # rows per call in flight that may wait for an earlier one, since rows come out in order

NOT_NEEDED = "not-needed"  # a reason that the configuration asks for
_NO_FOCUS = ("focus-missing", "the expand stage rejected this sample; its rejects say why")

Steps = tuple[tuple[Region, ...], ...]


def annotate(
    samples: Iterable[Sample],
    focus: Iterable[Focus],
    maps: Iterable[DepthMap],
    library: images.ImageLibrary,
    client: Client,
    config: Annotate,
    most: int | None = None,
) -> Iterator[Annotation | Reject]:
    """The chain of every sample, in order: one row out for each row in. Of the maps, a few are in memory at a time.

    Args:
        samples: of one part, as are `focus` and `maps`.
        focus: where the chains look.
        maps: of the images.
        library: the image folders, with the limit that ingest had.
        client: of `config.api`.
        config: the stage's.
        most: chains that are wanted; the rows after the last one of them are rejected unasked.

    Raises:
        BudgetSpent: see `Client.ask`; what was bought is kept, and a rerun continues from there.
        Hopeless: the first `config.give_up_after` rows were all rejected.
        Unauthorized: see `Client.ask`.
        Unreachable: see `Client.ask`.
    """
    annotator = Annotator(library, client, config)
    asked, left = _join(focus, maps)
    client.expect(len(asked) + len(left))  # a few less than the samples where expand has rejected some
    rows: deque[Future[Annotation | Reject]] = deque()
    wanted = Wanted(most)
    done = 0
    try:
        for row in samples:
            if row.id in asked and not wanted.more():
                asked.pop(row.id)
                rows.append(_finished(_reject(row, NOT_NEEDED, f"{most} chains were accepted before it")))
            elif row.id in asked:
                rows.append(client.start(partial(annotator.watched, row, asked.pop(row.id))))
                wanted.add(rows[-1])
            else:
                rows.append(_finished(_reject(row, *left.pop(row.id, _NO_FOCUS))))
            while rows and (rows[0].done() or len(rows) >= _PENDING * config.api.concurrency):
                yield _out(rows.popleft(), client)
                done += 1
        while rows:
            yield _out(rows.popleft(), client)
            done += 1
    except BudgetSpent as error:
        remaining = len(rows) + 1 + len(asked) + len(left)
        raise BudgetSpent(f"{error}\nOf this part {done} rows are done, {remaining} remain.") from None
    finally:
        for future in rows:
            future.cancel()
    assert not asked and not left, "focus and samples are of one part"


def _join(
    focus: Iterable[Focus], maps: Iterable[DepthMap]
) -> tuple[dict[str, Steps], dict[str, tuple[str, str]]]:
    """What to ask for, by sample; and reason and detail of the rows for which that is not known."""
    by_image: dict[str, list[Focus]] = {}
    for row in focus:
        by_image.setdefault(row.image_sha256, []).append(row)
    asked: dict[str, Steps] = {}
    left: dict[str, tuple[str, str]] = {}
    for image in maps:
        rows = by_image.pop(image.image_sha256, [])
        if rows:
            values = depth_maps.decode_bytes(image.png, name=f"depth map of image {image.image_sha256[:12]}")
            for row in rows:
                asked[row.id] = depth_maps.regions(row.steps, values)
    for digest, rows in by_image.items():
        for row in rows:
            left[row.id] = (
                "depth-missing",
                f"no depth map of image {digest[:12]}: the depth stage rejected it",
            )
    return asked, left


def _finished(value: Reject) -> Future[Annotation | Reject]:
    future: Future[Annotation | Reject] = Future()
    future.set_result(value)
    return future


def _out(future: Future[Annotation | Reject], client: Client) -> Annotation | Reject:
    row = outcome(future)
    client.row_done(kept=isinstance(row, Annotation))
    return row


@dataclass(frozen=True, slots=True)
class Annotator:
    """Writes the chain of one sample at a time: where the images are, whom to ask, and how."""

    library: images.ImageLibrary  # with the limit that ingest had
    client: Client
    config: Annotate

    async def watched(self, row: Sample, asked: Steps) -> Annotation | Reject:
        """`annotated`; stops the engine where none of the first rows was accepted, see `early_stop`."""
        result = await self.annotated(row, asked)
        early_stop.first(self.client.engine).saw(result, self.config.give_up_after, self.client.engine)
        return result

    async def annotated(self, row: Sample, asked: Steps) -> Annotation | Reject:
        """One sample: ask, check, ask again with the reason."""
        config = self.config
        off = _off_target(row, asked)
        if off:
            return _reject(row, "focus-mismatch", off)
        try:
            photo, pictures = await asyncio.to_thread(self.pictures, row, asked)
        except images.BadImage as error:
            return _reject(row, error.reason, error.detail)
        talk = messages(row, asked, pictures, config.prompt)
        attempts: list[dict[str, Any]] = []
        prompt_tokens = completion_tokens = 0
        kind = ""
        for number in range(1, config.attempts + 1):
            reply = await self.client.reply(Request(talk, config.temperature, config.max_tokens, config.seed))
            if isinstance(reply, Failure):
                kind = reply.kind
                attempts.append({"text": "", "reason": f"{reply.kind}: {reply.detail}"})
                break
            prompt_tokens += reply.prompt_tokens
            completion_tokens += reply.completion_tokens
            if reply.finish_reason == "length":
                verdict: Any = Refused("cut-off", f"it was cut off at {config.max_tokens} tokens; be shorter")
            elif reply.finish_reason == "tool_calls":
                verdict = Refused("tool-call", "it called a tool and there are none; write the chain")
            else:
                verdict = check(reply.text, asked, row)
            if not isinstance(verdict, Refused) and not verdict.agrees:
                verdict = await self._judged(row, verdict.answer, photo) or verdict
            if not isinstance(verdict, Refused):
                return Annotation(
                    row.id,
                    asked,
                    verdict.chain,
                    reply.model,
                    number,
                    prompt_tokens,
                    completion_tokens,
                    verdict.repairs,
                )
            kind = verdict.kind
            paid = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
            attempts.append({"text": reply.text, "reason": verdict.reason, **paid})
            if kind == "judge":  # out of order itself: nothing that the annotator could mend
                break
            talk = [
                *talk,
                {"role": "assistant", "content": reply.text or "(nothing)"},
                {"role": "user", "content": prompts.ANNOTATOR_RETRY.format(reason=verdict.reason)},
            ]
        return _reject(row, kind, json.dumps(attempts, ensure_ascii=False))

    def pictures(self, row: Sample, asked: Steps) -> tuple[bytes, list[str]]:
        """The photograph, and the picture of each step as a data URL.

        Raises:
            BadImage: it cannot be read any more, or is another one than ingest saw.
        """
        library = self.library
        found = images.read(library.folders[row.source], row.image, library.max_pixels)
        if found.sha256 != row.image_sha256:
            raise images.BadImage(
                "image-changed", f"{row.image} is not the file that ingest read; run ingest again"
            )
        config, photo = self.config, found.data
        boxes = [[region.box for region in step] for step in asked]
        return photo, [
            image_url(drawing.annotated(photo, step, config.max_pixels, config.jpeg_quality))
            for step in boxes
        ]

    async def _judged(self, row: Sample, answer: str, photo: bytes) -> Refused | None:
        """Why the judge finds that an answer does not say what the reference says; None where it does."""
        picture = await asyncio.to_thread(
            judge.picture, photo, self.config.max_pixels, self.config.jpeg_quality
        )
        most = self.config.api.judge_tokens
        question = judge.request(row.question, row.answer, answer, picture, max_tokens=most)
        reply = await self.client.reply(question)
        if isinstance(reply, Failure):
            return Refused("judge", f"the answer could not be judged: {reply.kind}: {reply.detail}")
        score = judge.scored(reply)
        if score is None:
            cut = f" (cut off at judge_tokens = {most})" if reply.finish_reason == "length" else ""
            return Refused("judge", f"the answer could not be judged: no score in {reply.text[:100]!r}{cut}")
        if score < AGREEMENT:
            return Refused("answer", f"the answer {answer!r} does not say the same as {row.answer!r}")
        return None


def messages(row: Sample, asked: Steps, pictures: Iterable[str], system: str = "") -> list[dict[str, Any]]:
    """The annotator's prompt: the question with its answer, then every step with its picture (a data URL).

    `system` is another system text than `prompts.ANNOTATOR_SYSTEM`.
    """
    question = prompts.ANNOTATOR_QUESTION.format(question=row.question, answer=row.answer)
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    for regions, picture in zip(asked, pictures, strict=True):
        text = prompts.ANNOTATOR_REGION.format(regions=prompts.regions_json(regions))
        content += [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture}}]
    system = system or prompts.ANNOTATOR_SYSTEM
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def _off_target(row: Sample, asked: Steps) -> str:
    """Where the last step is not the ground truth: to a pixel, since expansion works on whole pixels."""
    last = [region.box for region in asked[-1]]
    margins = (1 / row.width + 0.001, 1 / row.height + 0.001) * 2
    if same_boxes(last, row.boxes, margins):
        return ""
    return f"the last step looks at {last}, the ground truth is {list(row.boxes)}; run expand again"


def _reject(row: Sample, reason: str, detail: str) -> Reject:
    return Reject("annotate", reason, detail, row.id, row.source)
