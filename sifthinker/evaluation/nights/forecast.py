"""What a night will be able to find, before it asks anything: `sif nightly --plan`.

A night compares with the last good night and the baseline, whose replies are in the store. Tonight's replies are
not known, so they are taken to be those of the reference, varied as much as two evaluations of the same weights
varied before, where there are two. The falls that are found follow from that (power.py).

Where replies are sampled too (`evaluate.sampled`), they are a benchmark of their own, as in a night.

A benchmark without a reference is compared with nothing tonight. What is said of it holds for the night after, if half
of its replies are right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from sifthinker import config as configuration
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.evaluation import gate, history, power
from sifthinker.evaluation.benchmarks import BENCHMARKS, SAMPLED
from sifthinker.evaluation.benchmarks.question import rules
from sifthinker.evaluation.benchmarks.selection import open_benchmark, select
from sifthinker.evaluation.gate import Paired, ScoredReply
from sifthinker.evaluation.nights.records import BOTH, Evaluated, references

FALLS = (0.02, 0.05, 0.1)  # of 1: the chance to find each is said
_GOOD_NIGHTS = 2  # that are compared: how much replies of the same weights vary
NOTHING = "nothing yet"  # that a benchmark is compared with


@dataclass(frozen=True, slots=True)
class Expected:
    """A comparison that a night will make, and what it will find."""

    target: str
    benchmark: str
    against: str  # a reference, or `NOTHING`
    n: int = 0  # questions
    before: float = 0.5  # mean strict score of the reference; assumed where there is none
    detectable: float | None = None  # the smallest fall that is found in 80 % of the cases
    chances: tuple[float | None, ...] = ()  # to find each of `FALLS`; None where the score cannot fall so far
    problem: str = ""  # why it will not be made


def expected(
    settings: Config,
    good: Mapping[str, Sequence[Evaluated]],
    baseline: Evaluated | None,
) -> list[Expected]:
    """What the night of a configuration will be able to find.

    Args:
        settings: with the benchmarks of the night and its `evaluate.limit`.
        good: by checkpoint, its good nights that can be compared with, latest first.
        baseline: the pinned checkpoint's evaluation, where one is in the store.
    """
    sources: dict[str, list[configuration.Benchmark]] = {}
    for source in settings.evaluate.benchmarks:
        sources.setdefault(source.name, []).append(source)
    asked = [*sources, *(name + SAMPLED for name in sources if settings.evaluate.sampled is not None)]
    planned: list[tuple[Expected, Paired | None]] = []
    for target, nights in good.items():
        found = dict(_compared(settings, target, nights, baseline, asked))
        for benchmark in asked:
            if lines := found.get(benchmark):
                planned += lines
            else:
                of = sources[benchmark.removesuffix(SAMPLED)]
                planned.append(_assumed(settings, target, benchmark, of))
    tonight = sum(paired is not None and line.against != NOTHING for line, paired in planned)
    later = sum(paired is not None for _, paired in planned)
    return [
        line
        if paired is None
        else _judged(line, paired, settings, later if line.against == NOTHING else tonight)
        for line, paired in planned
    ]


def _judged(line: Expected, paired: Paired, settings: Config, comparisons: int) -> Expected:
    margin = settings.nightly.margins.get(line.benchmark, settings.nightly.margin)
    level = settings.nightly.level / comparisons
    return Expected(
        line.target,
        line.benchmark,
        line.against,
        len(paired.old),
        float(paired.old.mean()),
        power.detectable(paired, margin, level),
        tuple(power.chance(paired, fall, margin, level) for fall in FALLS),
    )


def _compared(
    settings: Config,
    target: str,
    nights: Sequence[Evaluated],
    baseline: Evaluated | None,
    wanted: Collection[str],
) -> Iterator[tuple[str, list[tuple[Expected, Paired | None]]]]:
    """The comparisons of a checkpoint by benchmark."""
    found: dict[str, list[tuple[Expected, Paired | None]]] = {}
    for against, reference in references(nights[0] if nights else None, baseline).items():
        others = _again(reference, [*nights, *([baseline] if baseline else [])])
        replies, rules_then = reference.scored(), reference.rules()
        for benchmark in sorted(replies.keys() & set(wanted)):
            line = Expected(target, benchmark, against)
            then, now = rules_then[benchmark], rules(benchmark.removesuffix(SAMPLED))
            if then != now:
                why = f"it was scored by version {then} of the scoring rules, and now version {now} holds"
                found.setdefault(benchmark, []).append(
                    (Expected(target, benchmark, against, problem=why), None)
                )
                continue
            asked = sample(replies[benchmark], settings.evaluate.limit, settings.evaluate.seed)
            paired = gate.pair(asked, others.get(benchmark, [])) or gate.pair(asked, asked)
            assert paired, "a benchmark with replies has questions"
            earlier = found.get(benchmark, [])
            if earlier and earlier[0][1] and earlier[0][1].equals(paired):
                found[benchmark] = [(Expected(target, benchmark, BOTH), paired)]
                continue
            found.setdefault(benchmark, []).append((line, paired))
    yield from found.items()


def _again(reference: Evaluated, others: Sequence[Evaluated]) -> dict[str, list[ScoredReply]]:
    """The replies of another evaluation of the same weights, by benchmark: they show how much replies vary.

    Those that were scored by other rules are left out.
    """
    for other in others:
        if other.model == reference.model and other.evaluation != reference.evaluation:
            same = other.rules().items() & reference.rules().items()
            return {name: replies for name, replies in other.scored().items() if name in dict(same)}
    return {}


def sample(replies: Sequence[ScoredReply], limit: int | None, seed: int) -> list[ScoredReply]:
    """The replies to the questions that a night with a limit asks, as far as these are known without the files."""
    chosen = select([(reply.question[1], reply.question[0]) for reply in replies], limit, seed)
    return [replies[place] for place in sorted(chosen)]


def _assumed(
    settings: Config, target: str, benchmark: str, sources: Sequence[configuration.Benchmark]
) -> tuple[Expected, Paired | None]:
    """The next night's comparison of a benchmark that nothing is known of, with every second reply right."""
    images: list[str] = []
    entry = BENCHMARKS[benchmark.removesuffix(SAMPLED)]
    try:
        for source in sources:
            job, _ = open_benchmark(source, entry, settings.evaluate.limit, settings.evaluate.seed)
            for place, item in enumerate(job.benchmark.load(source)):
                if place in job.chosen and not isinstance(item, Reject):
                    named = item.image if isinstance(item.image, str) else item.id
                    images.append(f"{source.split}/{item.cluster or named}")
    except UserError as error:  # its files are not there, or broken
        return Expected(target, benchmark, NOTHING, problem=str(error)), None
    right = np.array([float(place % 2 == 0) for place in range(len(images))])
    line = Expected(target, benchmark, NOTHING)
    return line, Paired(right, right, tuple(images)) if images else None


def good_nights(
    rows: Sequence[history.Row],
    target: str,
    since: float,
    open_: Callable[[history.Row], Evaluated | None],
) -> list[Evaluated]:
    """The latest two good nights of a checkpoint whose evaluations are there, those of one evaluation once.

    Args:
        rows: the history.
        target: the checkpoint, as it is configured.
        since: nights before do not count, in seconds since 1970.
        open_: gives the evaluation of a night, None where it is gone.
    """
    by_evaluation = {row["evaluation"]: row for row in reversed(history.good(rows, target, since))}
    latest = sorted(by_evaluation.values(), key=lambda row: row["started"], reverse=True)
    return list(islice(filter(None, map(open_, latest)), _GOOD_NIGHTS))


def table(lines: Sequence[Expected]) -> list[tuple[str, ...]]:
    """The rows of `sif nightly --plan`, all of 100: what is compared, and what is found."""
    return [
        (
            line.target,
            line.benchmark,
            line.against,
            str(line.n) if not line.problem else "",
            f"{100 * line.before:.1f}{' assumed' if line.against == NOTHING else ''}"
            if not line.problem
            else "",
            line.problem or ("none" if line.detectable is None else f"{100 * line.detectable:.1f}"),
            *("-" if chance is None else f"{100 * chance:.0f} %" for chance in line.chances),
        )
        for line in lines
    ]
