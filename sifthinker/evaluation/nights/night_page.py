"""The page of a night: what the gate says, scores with intervals, trends over the nights, replies that changed.

One HTML file without script or network, as report.py's; everything in it that comes from data is escaped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sifthinker.core.images import data_url
from sifthinker.core.scores import factor, of_100, unparsable_rate
from sifthinker.evaluation import drift, history, power
from sifthinker.evaluation.gate import Comparison
from sifthinker.evaluation.nights import changed_replies, outcomes, trends
from sifthinker.evaluation.nights.records import (
    BOTH,
    LAST,
    Earlier,
    Evaluated,
    Night,
    Outcome,
    Target,
    references,
)
from sifthinker.reporting import pages
from sifthinker.reporting.score_gaps import apart


def render(night: Night, targets: Sequence[Target], outcome: Outcome, held_against: Earlier) -> str:
    """The page; equal arguments give equal text.

    Args:
        night: when, and with which configuration.
        targets: the checkpoints with their comparisons, judged.
        outcome: of the whole night.
        held_against: with this night in the history.
    """
    rows, baseline = held_against.rows, held_against.baseline
    return pages.render(
        "night.html.jinja",
        night=night,
        outcome=outcome,
        settings=night.config.nightly,
        limit=night.config.evaluate.limit,
        pinned=held_against.pinned,
        pages=[_page(night, target, rows, baseline) for target in targets],
        compared=sum(len(target.comparisons) for target in targets),
        regressed=sum(comparison.regressed for target in targets for comparison in target.comparisons),
        able=sum(comparison.able for target in targets for comparison in target.comparisons),
        nights=len({row["night"] for row in rows}),
        percent=drift.percent,
        unable=outcomes.unable([c for target in targets for c in target.comparisons]),
        finds=outcomes.finds,
        rate=power.RATE,
        clip=changed_replies.CLIP,
    )


def _page(
    night: Night, target: Target, rows: Sequence[history.Row], baseline: Evaluated | None
) -> dict[str, Any]:
    """What the template shows of one checkpoint."""
    mine = [row for row in rows if row["target"] == target.name]
    changes = _changes(night, target, baseline)
    trend = trends.trends(mine, baseline.scores() if baseline else [])
    worst = outcomes.worst_first(target.comparisons)
    # One scale for all differences, symmetric about 0: rows can be compared by eye.
    scale = 1.1 * max([0.05, *(max(abs(c.low), abs(c.high), c.margin) for c in worst)])
    return {
        "target": target,
        "comparisons": [(c, _bar(c, scale)) for c in worst],
        "scores": _scores(target, baseline),
        "trend": (data_url(trend[0], "image/png"), trend[1]) if trend else None,
        "changes": changes,
        "drifts": [one for one in target.drifts if one.drifted or one.before or one.after],
        "lost": sum(change["lost"] for change in changes),
        "won": sum(change["won"] for change in changes),
        "apart": apart(target.tonight.scores(), target.tonight.predictions) if target.tonight else [],
    }


def _changes(night: Night, target: Target, baseline: Evaluated | None) -> list[dict[str, Any]]:
    """The replies with another score, by benchmark: against the reference from which it fell the most surely.

    Where it fell from none, that is the last good night, or the baseline where there is no such night.
    """
    if target.tonight is None:
        return []
    found = {
        name: changed_replies.find(reference.predictions, target.tonight.predictions)
        for name, reference in references(target.last, baseline).items()
    }
    found[BOTH] = found.get(LAST, [])  # the baseline has the same scores where a comparison is against both
    made = []
    shown_against: dict[str, Comparison] = {}
    # A stable sort: of two references that tell the same, the last good night comes first.
    for c in sorted(target.comparisons, key=lambda c: (not c.regressed, not c.fell)):
        shown_against.setdefault(c.benchmark, c)
    for benchmark, comparison in shown_against.items():
        changed = [flip for flip in found[comparison.against] if flip.after["benchmark"] == benchmark]
        shown = changed_replies.shown(changed, night.config.nightly.flips, night.config.evaluate.benchmarks)
        made.append(
            {
                "benchmark": benchmark,
                "against": comparison.against,
                "lost": comparison.lost,
                "won": comparison.won,
                "more": len(changed) - len(shown),
                "flips": [changed_replies.card(flip) for flip in shown],
            }
        )
    return made


def _bar(comparison: Comparison, scale: float) -> dict[str, float]:
    """Positions in per cent on a scale from -`scale` to `scale`."""

    def at(value: float) -> float:
        return 50 + 50 * value / scale

    low = at(comparison.low)
    width = at(comparison.high) - low
    return {"low": low, "width": width, "middle": at(comparison.difference), "margin": at(-comparison.margin)}


def _scores(target: Target, baseline: Evaluated | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """By benchmark its metrics, of 100, with the scores of the last good night and of the baseline beside.

    Scores by other rules are not set beside tonight's: they would differ for the rules, not for the model.
    """
    rules = target.tonight.rules() if target.tonight else {}
    before, pinned = (_by_metric(found, rules) for found in (target.last, baseline))
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for score in target.tonight.scores() if target.tonight else []:
        name = score["benchmark"], score["metric"]
        grouped[score["benchmark"]].append(
            {
                **of_100(score),
                "last": _times(before.get(name), factor(score["unit"])),
                "pinned": _times(pinned.get(name), factor(score["unit"])),
                "unparsable_rate": unparsable_rate(score),
            }
        )
    return list(grouped.items())


def _by_metric(evaluated: Evaluated | None, rules: Mapping[str, int]) -> dict[tuple[str, str], float | None]:
    """The strict scores of the benchmarks that were scored by these rules."""
    scores = evaluated.scores() if evaluated else []
    return {
        (s["benchmark"], s["metric"]): s["strict"] for s in scores if s["rules"] == rules.get(s["benchmark"])
    }


def _times(value: float | None, by: int) -> float | None:
    return None if value is None else value * by
