"""Which configured benchmarks cannot be asked, alone or beside each other, seen before anything runs.

A missing file costs no GPU hour.
"""

from __future__ import annotations

from collections import Counter

from sifthinker import config
from sifthinker.core import errors, images
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Question


def absent(settings: config.Evaluate) -> dict[str, str]:
    """The benchmarks that cannot be asked, by name and split, and why: their files, their pictures, or the judge.

    Each benchmark's files are read as far as the first question, and its picture is looked for. Rendered scenes are there.
    """
    found: dict[str, str] = {}
    for source in settings.benchmarks:
        if source.rendered:
            continue
        name = f"{source.name} {source.split}".strip()
        if BENCHMARKS[source.name].judge_requests and settings.judge is None:
            found[name] = "wants a judge: set evaluate.judge"
        elif why := _missing(source):
            found[name] = why
    return found


def clashes(settings: config.Evaluate) -> list[str]:
    """The entries of one benchmark that begin with the same question, and what to do; others are seen when all is read."""
    first: dict[tuple[str, str], config.Benchmark] = {}
    found = []
    names = Counter(source.name for source in settings.benchmarks)
    for source in settings.benchmarks:
        if names[source.name] < 2:
            continue
        try:
            question = _first(source)
        except errors.UserError:  # `absent` says so
            continue
        if question is None:
            continue
        other = first.setdefault((source.name, question.id), source)
        if other is not source:
            found.append(clash(other, source, question.id))
    return found


def clash(one: config.Benchmark, other: config.Benchmark, shared: str) -> str:
    """What is wrong with two entries of one benchmark that both hold the question of the id `shared`."""
    return (
        f"{one.name}: two entries of evaluate.benchmarks hold a question {shared}: {one.path} and {other.path}. Predictions are told "
        "apart by their ids; leave one entry out, or evaluate it in a run of its own"
    )


def _first(source: config.Benchmark) -> Question | None:
    """The first question of a benchmark. Raises: see `question.Rules.load`."""
    return next((item for item in BENCHMARKS[source.name].load(source) if isinstance(item, Question)), None)


def _missing(source: config.Benchmark) -> str:
    """Why no question of a benchmark can be asked; "" where its first one can."""
    try:
        first = _first(source)
    except errors.UserError as error:
        return str(error)
    if first is None:
        return f"{source.name}: {source.path} holds no row that is a question"
    if isinstance(first.image, str):
        try:
            images.find(source.images, first.image)
        except images.BadImage as error:
            return f"{source.name}: {source.images}: {error.detail}"
    return ""
