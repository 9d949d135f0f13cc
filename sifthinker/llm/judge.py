"""The judge: how close an answer comes to the standard answer, 0..1 (paper, Fig. 7).

Two pure functions around one call: `request` out, `score` in. The model's answer is data: it stands between two
lines with a marker that it cannot contain (PAPER.md R1.5).
"""

from __future__ import annotations

import hashlib
import json
import re

from sifthinker.core import drawing, prompts, reasoning
from sifthinker.core.images import data_url
from sifthinker.llm import Reply, Request

MAX_TOKENS = (
    1024  # what api.judge_tokens is unless set: {"score": 0.8}, a fence around it, and what a judge reasons
)
MAX_PIXELS, QUALITY = (
    589_824,
    90,
)  # of the photograph; what annotate.max_pixels and jpeg_quality are unless set
_SALT = "sifthinker judge"
_FENCED = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


def request(
    question: str,
    reference: str,
    answer: str,
    image_url: str | None = None,
    seed: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Request:
    """The question to the judge; `image_url` is the photograph as a data URL, `max_tokens` is `api.judge_tokens`.

    The same arguments give the same request, so that it is paid once.
    """
    marker = fence(question, reference, answer)
    text = prompts.JUDGE_USER.format(question=question, reference=reference, answer=answer, fence=marker)
    content = [{"type": "text", "text": text}]
    picture = [{"type": "image_url", "image_url": {"url": image_url}}] if image_url else []
    return Request(
        messages=[
            {"role": "system", "content": prompts.JUDGE_SYSTEM.format(fence=marker)},
            {"role": "user", "content": [*picture, *content]},
        ],
        temperature=0.0,  # not given in the paper; 0 is reproducible
        max_tokens=max_tokens,
        seed=seed,
    )


def picture(photo: bytes, max_pixels: int = MAX_PIXELS, quality: int = QUALITY) -> str:
    """The photograph for `request`: a JPEG, sized down as for the annotator, whatever file the user has."""
    return data_url(drawing.annotated(photo, [], max_pixels, quality))


def fence(question: str, reference: str, answer: str) -> str:
    """A marker that none of the texts contains, the same for the same texts.

    A model cannot write it into its answer: the answer decides the digest.
    """
    texts = (question, reference, answer)
    number = 0
    while True:
        content = "\x00".join((_SALT, str(number), *texts))
        marker = f"=={hashlib.sha256(content.encode()).hexdigest()[:24]}=="
        if not any(marker in text for text in texts):
            return marker
        number += 1


def scored(reply: Reply) -> float | None:
    """The score of a judge's reply; None where it was cut off: the number may be cut, too."""
    return None if reply.finish_reason == "length" else score(reply.text)


def score(text: str) -> float | None:
    """The judge's number: `{"score": x}`, the same in a fence, or a bare number; else None.

    What a reasoning model writes before it, up to `</think>`, is put aside. A number outside 0..1 is no score: a judge
    that scores 0 to 100 would give full marks to everything.
    """
    text = reasoning.before_answer(text)
    if len(text) > 200:  # neither a number nor a small object; also keeps the JSON parser from deep nesting
        return None
    if match := _FENCED.match(text):
        text = match[1]
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, dict):
        value = value.get("score")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= 1 else None  # NaN is neither
