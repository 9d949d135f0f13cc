"""The page of a night: what the gate says, scores with intervals, trends over the nights, replies that changed.

One HTML file without script or network, as report.py's; everything in it that comes from data is escaped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sifthinker.core import drawing
from sifthinker.core.images import data_url
from sifthinker.core.scores import Score, factor, of_100, unparsable_rate
from sifthinker.evaluation import history, power
from sifthinker.evaluation.gate import Comparison
from sifthinker.evaluation.nights import changed_replies, outcomes
from sifthinker.evaluation.nights.changed_replies import Flip
from sifthinker.evaluation.nights.records import Evaluated, Night, Outcome, Target, references
from sifthinker.reporting import pages, plots
from sifthinker.reporting.score_gaps import apart

NIGHTS = 60  # shown in a trend
CLIP = 1200  # characters of a reply
_AROUND = timedelta(hours=12)  # left free at both ends of a trend
MARKS = {  # in a trend: colour, whether it is filled, size
    history.PASSED: (plots.BLUE, True, 10),
    history.REGRESSED: (plots.RED, True, 26),
    history.WARNED: (plots.ORANGE, True, 26),
    history.INCONCLUSIVE: (plots.BLUE, False, 26),
}
_OPEN = (history.WARNED, history.INCONCLUSIVE)  # outcomes of a night that mark all its points


def render(
    night: Night,
    targets: Sequence[Target],
    outcome: Outcome,
    rows: Sequence[history.Row],
    baseline: Evaluated | None,
    pinned: Mapping[str, Any] | None,
) -> str:
    """The page; equal arguments give equal text.

    Args:
        night: when, and with which configuration.
        targets: the checkpoints with their comparisons, judged.
        outcome: of the whole night.
        rows: the history with this night.
        baseline: the pinned checkpoint's evaluation.
        pinned: the alias record of the baseline: who, when, why.
    """
    return pages.render(
        "night.html.jinja",
        night=night,
        outcome=outcome,
        settings=night.config.nightly,
        limit=night.config.evaluate.limit,
        pinned=pinned,
        pages=[_page(night, target, rows, baseline) for target in targets],
        compared=sum(len(target.comparisons) for target in targets),
        regressed=sum(comparison.regressed for target in targets for comparison in target.comparisons),
        able=sum(comparison.able for target in targets for comparison in target.comparisons),
        nights=len({row["night"] for row in rows}),
        unable=outcomes.unable([c for target in targets for c in target.comparisons]),
        finds=outcomes.finds,
        rate=power.RATE,
        clip=CLIP,
    )


def _page(
    night: Night, target: Target, rows: Sequence[history.Row], baseline: Evaluated | None
) -> dict[str, Any]:
    """What the template shows of one checkpoint."""
    mine = [row for row in rows if row["target"] == target.name]
    changes = _changes(night, target, baseline)
    trend = trends(mine, baseline.scores() if baseline else [])
    worst = outcomes.worst_first(target.comparisons)
    # One scale for all differences, symmetric about 0: rows can be compared by eye.
    scale = 1.1 * max([0.05, *(max(abs(c.low), abs(c.high), c.margin) for c in worst)])
    return {
        "target": target,
        "comparisons": [(c, _bar(c, scale)) for c in worst],
        "scores": _scores(target, baseline),
        "trend": (data_url(trend[0], "image/png"), trend[1]) if trend else None,
        "changes": changes,
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
                "flips": [_flip(flip) for flip in shown],
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
    """By benchmark its metrics, of 100, with the scores of the last good night and of the baseline beside."""
    before = _by_metric(target.last)
    pinned = _by_metric(baseline)
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


def _by_metric(evaluated: Evaluated | None) -> dict[tuple[str, str], float | None]:
    return {(s["benchmark"], s["metric"]): s["strict"] for s in evaluated.scores()} if evaluated else {}


def _times(value: float | None, by: int) -> float | None:
    return None if value is None else value * by


def _flip(flip: Flip) -> dict[str, Any]:
    replies = []
    for when, row in (("before", flip.before), ("now", flip.after)):
        replies.append(
            {
                "when": when,
                "read_as": row["read_as"],
                "unparsable": row["unparsable"],
                "strict": row["strict"],
                "reply": row["reply"][:CLIP],
                "clipped": max(0, len(row["reply"]) - CLIP),
                "colours": [drawing.colour(number) for number in range(len(changed_replies.steps(row)))],
            }
        )
    pictures = [data_url(picture) for picture in flip.pictures] or ["", ""]
    row, truth = flip.after, changed_replies.truth(flip.after["reference"])
    return {
        "lost": flip.lost,
        "id": row["id"],
        "question": row["question"],
        "reference": "; ".join(", ".join(f"{v:.3f}" for v in box) for box in truth) or row["reference"],
        "replies": list(zip(replies, pictures, strict=True)),
    }


def trends(rows: Sequence[history.Row], baseline: Sequence[Score]) -> tuple[bytes, int] | None:
    """PNG of the strict scores of one checkpoint over the nights, of 100, and its width on a page.

    Blue with its 95 % interval, and a mark a night: red where the benchmark regressed, orange in a night that warned,
    hollow in one that was inconclusive. A grey cross at the foot where it could not run; dashed the baseline. None when
    no night has a score.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    nights = sorted({(row["started"], row["night"]) for row in rows})[-NIGHTS:]
    since = nights[0][0] if nights else None
    recent = [row for row in rows if since and row["started"] >= since]
    series = _series(recent)
    if not series:
        return None
    missed = {(row["started"], row["benchmark"]) for row in recent if row["missing"]}
    pinned = {(s["benchmark"], s["metric"]): s["strict"] for s in baseline}
    figure, all_axes = plots.panels(len(series), 3.5, 2.05)
    for axes, ((benchmark, metric), points) in zip(all_axes, series.items(), strict=True):
        times = factor(points[0]["unit"])
        when = [row["started"] for row in points]
        value = [row["strict"] * times for row in points]
        low = [_or(row["low"], row["strict"]) * times for row in points]
        high = [_or(row["high"], row["strict"]) * times for row in points]
        axes.fill_between(when, low, high, color=plots.BLUE, alpha=0.18, linewidth=0)
        axes.plot(when, value, color=plots.BLUE, linewidth=1.5, zorder=2)
        for mark, of in _marked(points).items():
            colour, filled, size = MARKS[mark]
            axes.scatter(
                [row["started"] for row in of],
                [row["strict"] * times for row in of],
                s=size,
                facecolors=colour if filled else "white",
                edgecolors=colour,
                linewidths=1.2,
                zorder=3,
            )
        if reference := pinned.get((benchmark, metric)):
            axes.axhline(reference * times, color=plots.GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for day, name in missed:
            if name in (benchmark, ""):
                axes.scatter(
                    [day], [0.04], transform=axes.get_xaxis_transform(), marker="x", s=16, c=plots.GREY
                )
        axes.set_xlim(nights[0][0] - _AROUND, nights[-1][0] + _AROUND)
        locator = AutoDateLocator(minticks=2, maxticks=5)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.xaxis.get_offset_text().set(color=plots.GREY, fontsize=7)
        plots.style(axes, f"{benchmark}  {metric}", "y")
    return plots.png(figure), round(figure.get_figwidth() * plots.PAGE_DPI)


def _marked(points: Sequence[history.Row]) -> dict[str, list[history.Row]]:
    """The points of a trend by their mark, a key of `MARKS`: the benchmark's own fall, or what became of its night."""
    found: dict[str, list[history.Row]] = {}
    for row in points:
        mark = history.REGRESSED if row["regressed"] else row["outcome"]
        found.setdefault(mark if row["regressed"] or mark in _OPEN else history.PASSED, []).append(row)
    return found


def _series(rows: Sequence[history.Row]) -> dict[tuple[str, str], list[history.Row]]:
    """The scored rows of each metric that gets a picture."""
    return {
        name: [r for r in rows if (r["benchmark"], r["metric"]) == name and r["strict"] is not None]
        for name in history.headlines(rows)
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
