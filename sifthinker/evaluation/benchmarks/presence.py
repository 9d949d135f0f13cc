"""Which configured benchmarks cannot be asked, seen before anything runs: a missing file costs no GPU hour."""

from __future__ import annotations

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


def _missing(source: config.Benchmark) -> str:
    """Why no question of a benchmark can be asked; "" where its first one can."""
    try:
        found = BENCHMARKS[source.name].load(source)
        first = next((item for item in found if isinstance(item, Question)), None)
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
