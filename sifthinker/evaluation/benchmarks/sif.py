"""Held-out rows of a training source: is the whole chain right, not only its answer?

`path` is an annotation file that `sifthinker.data.sources` reads, `split` its format (`viscot`, the default, `tallyqa` or
`published`), `images` the folder of its images and `frame` what its boxes are, as for a source of training data. Its rows must
not be among the training's.

A reply has four scores, each 0..1, and each row counts in each:

* `answer`: it says what the reference says (`agreement.only_says`; where that is unclear, it is wrong);
* `boxes`: HIoU of the last area with the row's boxes (paper, section GRPO-SIF); no valid area is 0;
* `depth`: all stated depths are within a tenth of the map's (r_depth, variant `paper`);
* `format`: it is a chain (r_format, variant `paper`).

Where no chain was asked for there is only `answer`. `<score>/<data set>` are the parts where a file has several data
sets. There is no published rule, so `official` is `strict`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from sifthinker import config
from sifthinker.annotation.agreement import only_says
from sifthinker.core import boxes, errors
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import SOURCES
from sifthinker.evaluation.benchmarks import files, metrics
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Missing, Question, Result, Verdict
from sifthinker.rewards import depth, format

PUBLISHED = (
    "https://huggingface.co/datasets/deepcs233/Visual-CoT, or rows of your own; none that was trained on"
)
SCORES = ("answer", "boxes", "depth", "format")


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The rows of the file; see `question.Benchmark`."""
    form = source.split or "viscot"
    if form not in SOURCES:
        raise errors.UserError(f"{source.name}: no format {form!r}; `split` is one of {', '.join(SOURCES)}")
    if not source.path.is_file():
        raise Missing(f"{source.name}: wants {source.path}; published at {PUBLISHED}")
    files.image_folder(source, PUBLISHED)
    settings = config.Source(
        name=source.name, format=form, path=source.path, images=source.images, frame=source.frame
    )
    for row in _rows(settings):
        if isinstance(row, Reject):
            yield row
            continue
        yield Question(
            id=row.id,
            group=row.dataset,
            text=row.question,
            image=row.image,
            reference=json.dumps({"answer": row.answer, "boxes": row.boxes}),
            cluster=row.image_sha256,
            width=row.width,
            height=row.height,
        )


def _rows(settings: config.Source) -> Iterator[Sample | Reject]:
    try:
        yield from SOURCES[settings.format](settings.path, settings.images, settings)
    except errors.UserError as error:
        raise errors.UserError(
            f"{settings.path}: {error} (here: `frame` of its entry in evaluate.benchmarks)"
        ) from error


def strict(question: Question, answer: Answer) -> Verdict:
    """The answer is the verdict; the four scores are its parts."""
    truth = json.loads(question.reference)
    right = float(only_says(truth["answer"], answer.text))
    parts = {"answer": right}
    if answer.chain is not None:
        assert answer.depth is not None, "its entry says scores_chain"
        parts["boxes"] = boxes.hiou(answer.boxes, truth["boxes"]) if answer.boxes else 0.0
        (parts["depth"],) = depth.reward([answer.chain], [answer.depth])
        (parts["format"],) = format.reward([answer.chain])
    return Verdict(right, answer.text, answer.absent, tuple(parts.items()))


official = strict


def score(results: Sequence[Result]) -> list[Measure]:
    """The mean of each score, over all rows and over those of each data set."""
    data_sets = metrics.groups(results)
    parts = {f"/{name}": rows for name, rows in sorted(data_sets.items())} if len(data_sets) > 1 else {}
    return [
        metrics.clustered(f"{name}{of}", scored, metrics.share(scored), "share")
        for of, rows in {"": results, **parts}.items()
        for name in SCORES
        if (
            scored := [
                (question, part(verdict, name)) for question, verdict in rows if name in dict(verdict.parts)
            ]
        )
    ]


def part(verdict: Verdict, name: str) -> Verdict:
    """A verdict that is one of its parts."""
    return Verdict(dict(verdict.parts)[name], verdict.reading, verdict.unparsable)
