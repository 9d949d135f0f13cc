"""What a reply says, as a person reads it: the option, the number, the yes or no, the boxes.

One reading or none. A reply that names two things, takes one back, or names nothing is not read, and says why:
nothing is guessed, and nothing here ever sees the right answer. The published rules, which do guess, stand in
each benchmark's `official`.
"""

from __future__ import annotations

import re

from sifthinker.core import chain
from sifthinker.core.records import Box
from sifthinker.evaluation.benchmarks import box_frames
from sifthinker.evaluation.benchmarks.affirmation import yes_no
from sifthinker.evaluation.benchmarks.choices import choice
from sifthinker.evaluation.benchmarks.counts import number
from sifthinker.evaluation.benchmarks.question import Answer, Question, Verdict
from sifthinker.evaluation.benchmarks.wording import Reading

__all__ = [
    "Reading",
    "boxes_in",
    "choice",
    "in_pixels",
    "is_box",
    "judged_choice",
    "judged_yes_no",
    "number",
    "options_in",
    "read",
    "yes_no",
]

_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


def read(
    reply: str, think: bool, finish_reason: str = "stop", frame: box_frames.Frame | None = None
) -> Answer:
    """What of a reply is scored.

    The text is that of the answer block. Without one, a reply that was asked to think has no answer, and a plain
    one (`think` false) is its own answer. The boxes are those of the last area, or, in a plain reply without
    areas, the lists of four numbers in it. With a `frame`, boxes are read in it and given in 0..1 of the image,
    in the text as well.
    """
    if frame is not None:
        reply = frame.read(reply)
    name = frame.name if frame else ""
    text = chain.answer(reply)
    start, end = reply.rfind("<area>"), reply.rfind("</area>")
    boxes: tuple[Box, ...] = ()
    area = ""
    if start >= 0 and end > start:
        area = reply[start : end + len("</area>")]
        boxes = tuple(region.box for region in (chain.areas(area) or [[]])[-1])
    elif not think:
        area = reply
        found = boxes_in(reply)
        boxes = tuple(found) if all(map(is_box, found)) else ()
    if text is None and think:
        absent = "cut-off" if finish_reason == "length" else "no-answer"
        return Answer("", boxes, area, absent, frame=name)
    return Answer(reply.strip() if text is None else text, boxes, area, frame=name)


def boxes_in(text: str) -> list[Box]:
    """Every list of four numbers in a text, as it stands."""
    return [
        (float(x1), float(y1), float(x2), float(y2))
        for x1, y1, x2, y2 in (match.groups() for match in _BOX.finditer(text))
    ]


def in_pixels(text: str) -> bool:
    """Whether boxes are written as some families write them, `"bbox_2d": [161, 119, 322, 238]`, beyond 0..1."""
    return '"bbox_2d"' in text and any(max(box) > 1 for box in boxes_in(text))


def is_box(box: Box) -> bool:
    """Whether four numbers are a box inside the image, in 0..1."""
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def options_in(question: str) -> tuple[tuple[str, str], ...]:
    """The options written in a question as "(A) left (B) right", in one line or several."""
    marks = list(re.finditer(r"\(([A-Z])\)", question))
    edges = [*(mark.start() for mark in marks), len(question)]
    found = []
    for mark, end in zip(marks, edges[1:], strict=True):
        text = question[mark.end() : end].strip()
        # The last one is followed by the instruction, on its own line or behind the full stop.
        text = re.split(r"\n|(?:^|[.?!]\s*|\s)(?:Please )?[Aa]nswer (?:with|directly|the)\b", text)[0]
        found.append((mark.group(1), text.strip()))
    return tuple(found)


def judged_choice(question: Question, answer: Answer) -> Verdict:
    """The strict verdict of a multiple-choice question whose reference is a letter."""
    read = (
        Reading(problem=answer.absent)
        if answer.absent
        else choice(answer.text, question.options, question.text)
    )
    if read.problem:
        return Verdict(0.0, unparsable=read.problem)
    letter = question.options[int(read.value)][0]
    return Verdict(float(letter == question.reference), letter)


def judged_yes_no(question: Question, answer: Answer) -> Verdict:
    """The strict verdict of a question whose reference is "yes" or "no", in any case."""
    read = Reading(problem=answer.absent) if answer.absent else yes_no(answer.text, question.text)
    return Verdict(float(read.value == question.reference.lower()), read.value, read.problem)
