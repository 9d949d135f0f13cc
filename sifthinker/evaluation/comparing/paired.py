"""Paired tests of evaluations against the first of them, benchmark by benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sifthinker.core.errors import UserError
from sifthinker.evaluation import drift, gate, statistics
from sifthinker.evaluation.comparing.differences import Difference, differences
from sifthinker.evaluation.comparing.sides import Side
from sifthinker.evaluation.drift import Drift
from sifthinker.evaluation.gate import Comparison

LEVEL = 0.05  # of everything on a page together


@dataclass(frozen=True)
class Pair:
    """The reference and another evaluation."""

    reference: Side
    other: Side
    comparisons: tuple[Comparison, ...]  # p two-sided, adjusted over all pairs
    drifts: tuple[Drift, ...]  # of the kinds of failure, judged the same way
    differences: tuple[Difference, ...]
    untested: str = ""  # which benchmarks there are no comparisons of, and why


def compare(sides: Sequence[Side]) -> list[Pair]:
    """Every evaluation after the first against the first.

    Raises:
        UserError: there are fewer than two.
    """
    if len(sides) < 2:
        raise UserError("compare: name two or more runs, checkpoints or nights")
    pairs = [_pair(sides[0], other) for other in sides[1:]]
    adjusted = iter(_holm([c.p for pair in pairs for c in pair.comparisons]))
    pairs = [
        replace(pair, comparisons=tuple(replace(c, adjusted=next(adjusted)) for c in pair.comparisons))
        for pair in pairs
    ]
    kinds = [one for pair in pairs for one in pair.drifts]
    judged = iter(drift.judge(kinds, LEVEL, [0.0] * len(kinds), 1.0))
    return [replace(pair, drifts=tuple(next(judged) for _ in pair.drifts)) for pair in pairs]


def differs(comparison: Comparison) -> bool:
    """Whether the scores of the pair are significantly apart."""
    return comparison.adjusted <= LEVEL


def _pair(reference: Side, other: Side) -> Pair:
    found = tuple(differences(reference, other))
    apart = other_rules(reference, other)
    before, after = gate.load(reference.predictions), gate.load(other.predictions)
    made: list[Comparison] = []
    drifts: list[Drift] = []
    for benchmark in [name for name in before if name in after and name not in apart]:
        paired = gate.pair(before[benchmark], after[benchmark])
        if paired is None:
            continue
        unpaired = len(before[benchmark]) + len(after[benchmark]) - 2 * len(paired.old)
        one = gate.compare_pairs(benchmark, reference.name, paired, unpaired, 0.0)
        made.append(replace(one, p=min(1.0, 2 * min(one.p, _better(paired)))))
        drifts += drift.drifts(benchmark, reference.name, paired)
    why = _why(reference, other, apart) or ("" if made else "they share no question")
    return Pair(reference, other, tuple(made), tuple(drifts), found, why)


def other_rules(reference: Side, other: Side) -> dict[str, tuple[int, int]]:
    """The benchmarks that two evaluations scored by other versions of the rules, with both versions."""
    before, after = reference.rules, other.rules
    shared = [name for name in before if name in after]
    return {name: (before[name], after[name]) for name in shared if before[name] != after[name]}


def _why(reference: Side, other: Side, apart: Mapping[str, tuple[int, int]]) -> str:
    """Why the benchmarks with other rules are not tested."""
    named: dict[tuple[int, int], list[str]] = {}
    for name, versions in apart.items():
        named.setdefault(versions, []).append(name)
    parts = [
        f"{', '.join(names)}: {reference.name} was scored by version {before} of the scoring rules, {other.name} by "
        f"version {after}."
        for (before, after), names in named.items()
    ]
    again = "What differs may be the rules: `sif run --refresh evaluate` scores the older one anew."
    return " ".join([*parts, again]) if parts else ""


def _better(paired: gate.Paired) -> float:
    """One-sided p-value of "the scores did not rise"."""
    if paired.test == gate.MCNEMAR:
        return gate.mcnemar(paired.won, paired.lost)
    return gate.swaps(-paired.changes, paired.images)


def _holm(values: Sequence[float]) -> list[float]:
    return list(statistics.holm({str(place): p for place, p in enumerate(values)}).values())
