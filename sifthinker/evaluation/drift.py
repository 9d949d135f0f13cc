"""Do replies fail in other ways than before? A paired test of each kind of failure, whatever the scores do.

A kind of failure (failures.py) has *drifted* when more replies fail in that way than before, and

* its share rose by more than `nightly.unparsable`, which is a warning whatever its p-value; or
* its share rose by more than the benchmark's margin, and significantly: the one-sided test of "not more often" has a
  p-value of at most the level, adjusted by Holm over all kinds, benchmarks and references of the night. Of a model that
  did not change, this warns with a chance of at most `level`.

The test is that of gate.py: McNemar's where each question has an image of its own, else swaps of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sifthinker.evaluation import gate, statistics
from sifthinker.evaluation.failures import KINDS
from sifthinker.evaluation.gate import Paired


@dataclass(frozen=True, slots=True)
class Drift:
    """How often the replies to one benchmark fail in one way, later against earlier."""

    benchmark: str
    against: str  # what it is compared with
    kind: str  # a key of `failures.KINDS`
    n: int  # questions that both have
    before: float  # share of them, of 1
    after: float
    p: float  # of "not more often", one-sided
    adjusted: float = math.nan  # p by Holm over all that are looked at together
    drifted: bool = False

    @property
    def rise(self) -> float:
        """The share after less that before."""
        return self.after - self.before


def drifts(benchmark: str, against: str, paired: Paired) -> list[Drift]:
    """The kinds of failure that occur before or after, not yet judged."""
    found = []
    for kind in KINDS:
        if kind not in paired.failed:
            continue
        before, after = paired.failed[kind]
        if len(set(paired.images)) == len(paired.images):
            p = gate.mcnemar(int((after > before).sum()), int((after < before).sum()))
        else:
            p = gate.swaps(before - after, paired.images)
        shares = float(before.mean()), float(after.mean())
        found.append(Drift(benchmark, against, kind, len(before), *shares, p))
    return found


def judge(found: Iterable[Drift], level: float, margins: Sequence[float], threshold: float) -> list[Drift]:
    """The drifts with their adjusted p-values, and whether each is one.

    Args:
        found: all that are looked at together.
        level: chance, at most, that a significant one is found although nothing changed.
        margins: of each, the rise of its share, of 1, up to which it is let pass, significant or not.
        threshold: rise of a share, of 1, above which it is one, significant or not.
    """
    made = list(found)
    adjusted = statistics.holm({str(index): one.p for index, one in enumerate(made)})
    return [
        replace(
            one,
            adjusted=p,
            drifted=gate.beyond(one.rise, threshold) or (p <= level and gate.beyond(one.rise, margin)),
        )
        for one, p, margin in zip(made, adjusted.values(), margins, strict=True)
    ]


def sentences(judged: Iterable[Drift], article: str = "the ") -> list[str]:
    """One sentence a benchmark: the first kind that drifted in full, the others in brackets.

    Args:
        judged: the drifts.
        article: before the name of the reference; "" where that is a proper name.
    """
    most: dict[
        str, dict[str, Drift]
    ] = {}  # by benchmark and kind; of two references, the one from which it rose more
    for one in sorted((one for one in judged if one.drifted), key=lambda one: -one.rise):
        most.setdefault(one.benchmark, {}).setdefault(one.kind, one)
    said = []
    for benchmark, of in sorted(most.items()):
        first, *others = [of[kind] for kind in KINDS if kind in of]
        text = (
            f"{percent(first.after)} of the replies to {benchmark} {KINDS[first.kind]}, {percent(first.before)} in "
            f"{article}{first.against}"
        )
        if others:
            text += f" ({', '.join(f'{o.kind} {percent(o.before)} to {percent(o.after)}' for o in others)})"
        said.append(text)
    return said


def percent(share: float) -> str:
    """A share as people are told it; one that would round to 0 or hide a small rise has a decimal."""
    value = 100 * share
    return (
        f"{value:.0f} %"
        if value == 0 or value >= 9.95 or abs(value - round(value)) < 0.05
        else f"{value:.1f} %"
    )
