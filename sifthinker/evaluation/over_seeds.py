"""Rows of an ablation compared two by two, where each was trained with several seeds and asked the same questions.

A difference can be due to the questions that were asked, and to the seeds that were trained with. Its standard error has
both parts: that of the questions' mean differences, by image, and that of the seeds' mean differences. Rows with
the same seeds are compared seed by seed, since the later row often begins where the earlier one ended. p is that of a t-test
whose degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946). The spread of the seeds' means holds a
part of the questions' noise again, so p errs towards "not shown", except where three seeds are far apart: with a standard
deviation of 7 points between them, p is under 0.05 in 8 of 100 tables of nothing (tests/evaluation/test_over_seeds.py).

Rows of one seed each have the exact paired tests of `gate`, which know nothing about other seeds.
"""

from __future__ import annotations

import math
import statistics as means
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sifthinker.evaluation import gate, statistics
from sifthinker.evaluation.gate import Numbers, ScoredReply

Seeds = Mapping[int, Sequence[ScoredReply]]  # by seed: the scored replies of a row


@dataclass(frozen=True, slots=True)
class Difference:
    """A row against an earlier one, by one score."""

    questions: int
    mean: float  # later less earlier, of 1
    low: float  # 95 % interval
    high: float
    p: float  # of "no difference", two-sided, not corrected


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a difference's squared standard error, and its degrees of freedom."""

    variance: float
    freedom: int


def compare(before: Seeds, after: Seeds) -> Difference | None:
    """Compares two rows on the questions that all of their seeds have; None where there is none."""
    asked = [{reply.question: reply for reply in of} for row in (before, after) for of in row.values()]
    shared = [question for question in asked[0] if all(question in of for of in asked)]
    if not shared:
        return None
    old, new = (
        np.array([[of[question].strict for question in shared] for of in asked[start:end]])
        for start, end in ((0, len(before)), (len(before), len(asked)))
    )
    images = [asked[0][question].image for question in shared]
    if len(old) == len(new) == 1:
        return _of_one_seed(old[0], new[0], images)
    changes = new.mean(axis=0) - old.mean(axis=0)
    parts = [_by_questions(changes, images)]
    if list(before) == list(after):
        parts.append(_by_seeds((new - old).mean(axis=1)))
    else:
        parts += [_by_seeds(row.mean(axis=1)) for row in (old, new) if len(row) > 1]
    return _tested(len(shared), float(changes.mean()), parts)


def judge(found: Sequence[Difference]) -> list[float]:
    """The p-values of a table, corrected by Holm over all of them."""
    return [*statistics.holm({str(number): one.p for number, one in enumerate(found)}).values()]


def _of_one_seed(old: Numbers, new: Numbers, images: Sequence[str]) -> Difference:
    """The exact paired test: one-sided in both directions, doubled."""
    pairs = gate.Paired(old, new, tuple(images)), gate.Paired(new, old, tuple(images))
    fell, rose = (gate.compare_pairs("", "", pair, 0, 0.0) for pair in pairs)
    return Difference(fell.n, fell.difference, fell.low, fell.high, min(1.0, 2 * min(fell.p, rose.p)))


def _by_questions(changes: Numbers, images: Sequence[str]) -> _Part:
    """Of the mean of the questions' differences: the questions about one image count as one."""
    sums, numbers = gate.by_image(changes, images)
    away = sums - numbers * changes.mean()
    groups = len(sums)
    if groups < 2:
        return _Part(math.inf, 1)
    return _Part(float((away**2).sum()) / len(changes) ** 2 * groups / (groups - 1), groups - 1)


def _by_seeds(values: Numbers) -> _Part:
    """Of a mean over seeds."""
    return _Part(means.variance(values.tolist()) / len(values), len(values) - 1)


def _tested(questions: int, mean: float, parts: Sequence[_Part]) -> Difference:
    from scipy import stats  # a second to import, and every command imports this module

    error = math.sqrt(sum(part.variance for part in parts))
    if error == 0 or math.isinf(error):
        sure = error == 0 and mean != 0  # the same for all questions and seeds
        low, high = (mean, mean) if error == 0 else (-1.0, 1.0)
        return Difference(questions, mean, low, high, 0.0 if sure else 1.0)
    freedom = error**4 / sum(part.variance**2 / part.freedom for part in parts)
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return Difference(questions, mean, max(mean - half, -1.0), min(mean + half, 1.0), p)
