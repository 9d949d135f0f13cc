"""Rows of an ablation compared two by two, where each was trained with several seeds and asked the same questions.

A difference can be due to the questions that were asked, and to the seeds that were trained with. Its standard error has
both parts: that of the questions' mean differences, by image, and that of the seeds' mean differences. Rows that share
two seeds and more are compared seed by seed on these alone, since the later row often begins where the earlier one ended. A
trained row of one seed is taken to vary with the seed as the other row does.

p is that of Behrens and Fisher (Fisher, Annals of Eugenics 6, 1935): each part is as uncertain as its degrees of freedom
say, so a few seeds that happen to be close together prove little. It errs towards "not shown" (Robinson, Annals of
Statistics 4, 1976), also because the spread of the seeds' means holds a part of the questions' noise again. Satterthwaite's
degrees of freedom, which many programs take instead, fail where it matters here, in the far tails that Holm's correction
needs: of 150 tests of nothing, with three seeds 5 points apart, they find something in most tables (a test measures both).

Two rows of one seed each have the exact paired tests of `gate`, which know nothing about other seeds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sifthinker.evaluation import gate, statistics
from sifthinker.evaluation.gate import Numbers, ScoredReply

Seeds = Mapping[int, Sequence[ScoredReply]]  # by seed: the scored replies of a row
_POINTS = 161  # of an integral: p is exact to 1e-8 of itself, down to 1e-16
_FEW_POINTS = 41  # the same for 30 degrees of freedom and more, where the distribution is nearly normal
_CUT = 1e-16  # what is left out at either end of a chi-squared distribution


@dataclass(frozen=True, slots=True)
class Difference:
    """A row against an earlier one, by one score."""

    questions: int
    seeds: tuple[int, int]  # of the earlier and the later row that were compared
    mean: float  # later less earlier, of 1
    low: float  # 95 % interval
    high: float
    p: float  # of "no difference", two-sided, not corrected
    p_fell: float = math.nan  # of "not worse", one-sided, not corrected
    by_seeds: bool = False  # whether interval and p count how far seeds are apart


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a squared standard error, and its degrees of freedom."""

    variance: float
    freedom: float


def compare(before: Seeds, after: Seeds, trained: tuple[bool, bool] = (True, True)) -> Difference | None:
    """Compares two rows on the questions that all of the seeds have; None where there is none.

    Args:
        before: the earlier row.
        after: the later one.
        trained: whether the earlier and the later row depend on a seed.
    """
    before, after = shared(before, after)
    asked = [{reply.question: reply for reply in of} for row in (before, after) for of in row.values()]
    questions = [question for question in asked[0] if all(question in of for of in asked)]
    if not questions:
        return None
    strict = np.array([[of[question].strict for question in questions] for of in asked])
    old, new = strict[: len(before)], strict[len(before) :]
    images = [asked[0][question].image for question in questions]
    seeds = _seeds_part(old, new, trained, paired=list(before) == list(after))
    changes = new.mean(axis=0) - old.mean(axis=0)
    if seeds is None or (not seeds.variance and len(set(changes.tolist())) == 1):  # nothing varies
        return _exact(old.mean(axis=0), new.mean(axis=0), images, (len(old), len(new)))
    parts = [by_questions(changes, images), *([seeds] if seeds.variance else [])]
    return _tested(len(questions), (len(old), len(new)), float(changes.mean()), parts)


def shared(before: Seeds, after: Seeds) -> tuple[Seeds, Seeds]:
    """The seeds of two rows that are compared: those that both have, where these are two and more; else all."""
    both = [seed for seed in after if seed in before]
    if len(both) < 2:
        return before, after
    return {seed: before[seed] for seed in both}, {seed: after[seed] for seed in both}


def judge(found: Sequence[Difference]) -> list[float]:
    """The p-values of a table, corrected by Holm over all of them."""
    return [*statistics.holm({str(number): one.p for number, one in enumerate(found)}).values()]


def _exact(old: Numbers, new: Numbers, images: Sequence[str], seeds: tuple[int, int]) -> Difference:
    """The exact paired test of the questions' means: one-sided in both directions, doubled."""
    pairs = gate.Paired(old, new, tuple(images)), gate.Paired(new, old, tuple(images))
    fell, rose = (gate.compare_pairs("", "", pair, 0, 0.0) for pair in pairs)
    p = min(1.0, 2 * min(fell.p, rose.p))
    return Difference(fell.n, seeds, fell.difference, fell.low, fell.high, p, fell.p)


def by_questions(changes: Numbers, images: Sequence[str]) -> Part:
    """Of the mean of the questions' scores or differences: the questions about one image count as one."""
    sums, numbers = gate.by_image(changes, images)
    away = sums - numbers * changes.mean()
    groups = len(sums)
    if groups < 2:
        return Part(math.inf, 1)
    return Part(float((away**2).sum()) / len(changes) ** 2 * groups / (groups - 1), groups - 1)


def _seeds_part(old: Numbers, new: Numbers, trained: tuple[bool, bool], paired: bool) -> Part | None:
    """What the seeds add, from the rows' scores (seeds, questions); None where nothing is known of it."""
    if paired and len(old) > 1:
        return Part(_variance(new - old) / len(old), len(old) - 1)
    vary = [row for row, depends in zip((old, new), trained, strict=True) if depends]
    known = [row for row in vary if len(row) > 1]
    if not known:
        return None
    freedom = sum(len(row) - 1 for row in known)
    spread = sum(_variance(row) * (len(row) - 1) for row in known) / freedom
    return Part(sum(spread / len(row) for row in vary), freedom)


def _variance(scores: Numbers) -> float:
    """Between the seeds' means."""
    return float(np.var(scores.mean(axis=1), ddof=1))


def _tested(questions: int, seeds: tuple[int, int], mean: float, parts: Sequence[Part]) -> Difference:
    if any(math.isinf(part.variance) for part in parts):
        return Difference(questions, seeds, mean, -1.0, 1.0, 1.0, 1.0, by_seeds=True)
    p, half = tail(abs(mean), parts), half_width(parts)
    fell = p / 2 if mean < 0 else 1 - p / 2
    low, high = max(mean - half, -1.0), min(mean + half, 1.0)
    return Difference(questions, seeds, mean, low, high, p, fell, by_seeds=True)


def tail(size: float, parts: Sequence[Part]) -> float:
    """The probability of a difference of nothing that is at least so large, either way: Behrens and Fisher's.

    It is that of a sum of independent Student variables, each with the standard error and degrees of freedom of a part. Given
    the true variances, of which each part's has a scaled inverse chi-squared distribution, that sum is normal.

    Args:
        size: of the difference, not negative, in the unit of the standard errors.
        parts: at least one with a variance; all of them finite.
    """
    from scipy import special  # a second to import, and every command imports this module

    variances, weights = np.zeros(1), np.ones(1)
    for part in parts:
        more, chances = _true_variances(part.freedom)
        variances = (variances[:, None] + part.variance * more).ravel()
        weights = (weights[:, None] * chances).ravel()
    return float(min(1.0, weights @ special.erfc(size / np.sqrt(2 * variances))))


def half_width(parts: Sequence[Part]) -> float:
    """Half of the 95 % interval of a difference with these parts (`tail`), in the unit of the standard errors."""
    from scipy import optimize

    most = math.sqrt(sum(part.variance for part in parts))
    while tail(most, parts) > 0.05:
        most *= 2
    return float(optimize.brentq(lambda half: tail(half, parts) - 0.05, 0.0, most, rtol=1e-6))


@functools.lru_cache(maxsize=64)
def _true_variances(freedom: float) -> tuple[Numbers, Numbers]:
    """What the true variance may be, of an estimate of 1, and with which probabilities: both (points,)."""
    if math.isinf(freedom):
        return np.ones(1), np.ones(1)
    from scipy import stats

    chi2 = stats.chi2(freedom)
    points = _POINTS if freedom < 30 else _FEW_POINTS
    logs = np.linspace(math.log(chi2.ppf(_CUT)), math.log(chi2.isf(_CUT)), points)
    density = np.exp(chi2.logpdf(np.exp(logs)) + logs)  # of the logarithm
    return freedom / np.exp(logs), density / density.sum()
