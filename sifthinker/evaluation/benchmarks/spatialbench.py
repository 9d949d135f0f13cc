"""SpatialBench: position, existence, counting, size (and reach), in positive and negative pairs.

A folder with `positional.json`, `existence.json`, `counting.json`, `size.json`, `reach.json`, JSON arrays, image
paths relative to it:

    {"image": "size/001.jpg", "question": "Is the cup bigger than the plate? (A) Yes (B) No. Answer with the option's
     letter from the given choices directly.", "answer": "B"}

`split` names one category; empty means the paper's four. Rows 2k and 2k + 1 are a pair. The sensor depth that is
published beside the images is not used: the policy was trained on estimated depth.

`official` is SpatialBot's rule (bunny/eval/eval_spatialbench.py): a reply is right when it contains the answer as it
stands, capitals included, so that "1" is in "10" and "A" in "An apple". Position: share of right replies. Existence:
share of pairs with both right. Size, reach: right replies plus a point for every pair with both right, of three a
pair. Counting: 100 minus the mean relative error in per cent, which can be negative; the script stops at a reply
that is no integer, we count it as an error of 100 %. The release counts a missing answer as right (PAPER.md
R7.1); nobody should.
`strict` reads the option, the yes or no, or the number; an error in counting costs at most the whole question, so
that silence does not beat a bad count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict

PUBLISHED = "https://huggingface.co/datasets/RussRobin/SpatialBench"
CATEGORIES = ("positional", "existence", "counting", "size")  # paper, Table 1


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of the wanted categories; see `question.Benchmark`."""
    wanted = (source.split,) if source.split else CATEGORIES
    if not set(wanted) <= {*CATEGORIES, "reach"}:
        raise errors.UserError(
            f"{source.name}: no split {source.split}; known: {', '.join(CATEGORIES)}, reach"
        )
    paths = {category: files.find(source, f"{category}.json", PUBLISHED) for category in wanted}
    files.image_folder(source, PUBLISHED)
    for category, path in paths.items():
        for index, row in files.json_array(path, source.name):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                yield _question(row, category, index)
            except BadRow as error:
                yield files.reject(source.name, path, index, error)


def official(question: Question, answer: Answer) -> Verdict:
    """SpatialBot's script; see the module."""
    if question.group != "counting":
        return Verdict(float(question.reference in answer.text), answer.text)
    try:
        counted = int(answer.text)
        points = 1 - abs(counted - int(question.reference)) / int(question.reference)
    except (ValueError, OverflowError):  # hundreds of digits: their script ends there
        return Verdict(0.0, unparsable="not-an-integer")
    return Verdict(points, str(counted))


def strict(question: Question, answer: Answer) -> Verdict:
    """The option, the yes or no, or the number that the reply gives."""
    if answer.absent:
        return Verdict(0.0, unparsable=answer.absent)
    if question.group == "counting":
        read = replies.number(answer.text, question.text)
        if read.problem:
            return Verdict(0.0, unparsable=read.problem)
        truth = int(question.reference)
        return Verdict(max(0.0, 1 - abs(float(read.value) - truth) / truth), read.value)
    letters = {letter for letter, _ in question.options}
    if question.reference in letters:
        return replies.judged_choice(question, answer)
    return replies.judged_yes_no(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """Each category in points of 100 with its pair rule, and their plain mean (paper, Table 1)."""
    parts = metrics.groups(results)
    points = {category: _points(category, rows) for category, rows in parts.items()}
    measures = [
        metrics.clustered(category, rows, points[category], "points") for category, rows in parts.items()
    ]
    if len(parts) < len(CATEGORIES):
        return measures
    quarters = [(rows, points[category], 1 / len(parts)) for category, rows in parts.items()]
    return [*measures, metrics.combined("average", quarters, "points")]


def _points(category: str, rows: Sequence[Result]) -> metrics.Statistic:
    """The published points of one category, 0..100, when each row counts `weights` times."""
    hits = np.array([verdict.score for _, verdict in rows])
    if category in ("positional", "counting"):
        return lambda weights: metrics.mean(hits, weights) * 100
    units: dict[str, list[int]] = {}
    for index, (question, _) in enumerate(rows):
        units.setdefault(question.unit, []).append(index)
    # A pair is on one image; were one row rejected, the other has no partner and counts in no pair rule.
    pairs = np.array([pair for pair in units.values() if len(pair) == 2], dtype=int).reshape(-1, 2)
    both = hits[pairs].min(axis=1)
    points = both if category == "existence" else (hits[pairs].sum(axis=1) + both) / 3
    return lambda weights: metrics.mean(points, weights[pairs[:, 0]]) * 100


def _question(row: dict[str, Any], category: str, index: int) -> Question:
    image = row.get("image")
    if isinstance(image, list) and len(image) == 1:
        row = {**row, "image": image[0]}
    elif isinstance(image, list):
        raise BadRow("several-images", f"image: wanted one, found {len(image)}", "image")
    text, reference = files.text(row, "question"), str(row.get("answer", "")).strip()
    if category == "counting":
        reference = str(files.integer(row, "answer"))
        if int(reference) < 1:
            raise BadRow("bad-field", "answer: the relative error of a count of 0 is undefined", "answer")
    options = replies.options_in(text)
    yes_or_no = reference.lower() in ("yes", "no")
    if category != "counting" and not yes_or_no and reference not in {letter for letter, _ in options}:
        raise BadRow("bad-field", f"answer: {reference!r} is none of the options, yes or no", "answer")
    return Question(
        id=f"{category}/{index}",
        group=category,
        text=text,
        image=files.text(row, "image"),
        reference=reference,
        options=options,
        unit=f"{category}/{index // 2}" if category != "positional" and category != "counting" else "",
    )
