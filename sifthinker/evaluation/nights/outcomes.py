"""What a night came to, in words: the line that people are told, and the tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sifthinker.config import Nightly
from sifthinker.evaluation import drift, failures, history, power
from sifthinker.evaluation.gate import Comparison, ScoredReply, beyond
from sifthinker.evaluation.nights.records import Outcome, Target

_OPEN = {
    history.INCONCLUSIVE,
    history.WARNED,
}  # outcomes of a checkpoint to which more questions could say more


def warnings(target: Target, replies: Mapping[str, Sequence[ScoredReply]], settings: Nightly) -> list[str]:
    """What a person is told whatever the tests say: falls beyond the margin, and replies that fail in other ways.

    Args:
        target: a checkpoint with its comparisons and drifts, judged.
        replies: its replies by benchmark.
        settings: `unparsable` is the share of unparsable replies that is let pass where nothing is compared.
    """
    said = [
        f"{text} (beyond its margin, not significant)"
        for text in falls(c for c in target.comparisons if c.fell and not c.regressed)
    ]
    said += drift.sentences(target.drifts)
    compared = {comparison.benchmark for comparison in target.comparisons}
    for benchmark, of in replies.items():
        now = sum(failures.UNPARSABLE in reply.failures for reply in of) / max(1, len(of))
        if benchmark not in compared and beyond(now, settings.unparsable):
            said.append(f"{drift.percent(now)} of the replies to {benchmark} are unparsable")
    return said


def falls(comparisons: Iterable[Comparison]) -> list[str]:
    """One sentence a fall; the same fall against two references is one."""
    against: dict[tuple[str, float, float], list[str]] = {}
    for c in comparisons:
        against.setdefault((c.benchmark, c.before, c.after), []).append(c.against)
    return [
        f"{benchmark} fell from {100 * before:.1f} to {100 * after:.1f} against the {' and the '.join(names)}"
        for (benchmark, before, after), names in against.items()
    ]


def outcome(targets: Sequence[Target], report: Path, limit: int | None) -> Outcome:
    """The worst of the checkpoints' outcomes, with all that was found, the worst first."""
    comparisons = [comparison for target in targets for comparison in target.comparisons]
    several = len(targets) > 1
    said = falls(c for c in comparisons if c.regressed)
    said += [
        f"{f'{target.name}: {name}' if name and several else name or target.name} could not run: {why}"
        for target in targets
        for name, why in target.missing.items()
    ]
    said += dict.fromkeys(target.lost for target in targets if target.lost)  # once for all of them
    for target in targets:
        mark = f"{target.name}: " if several else ""
        said += [mark + text for text in target.warnings]
        said += [f"{mark}{name} was not compared: {why}" for name, why in target.uncompared.items()]
    said += unable(comparisons)
    message = "; ".join(said) or _unchanged(comparisons)
    lines = [f"- {text}" for text in said or [message]]
    for target in targets:
        if target.comparisons:
            lines += ["", f"### {target.name}" if several else "", table(target.comparisons), "", LEGEND]
        lines += ["", *target.notices]
    if limit is not None:
        mark = history.quick_look(limit)
        message, lines = f"{message} ({mark})", [f"**This is {mark}.** {history.NO_REFERENCE}", "", *lines]
    found = {target.outcome for target in targets}
    worst = min(found, key=history.WORST_FIRST.index)
    leaves_open = worst != history.REGRESSED and not found.isdisjoint(_OPEN)
    return Outcome(worst, message, "\n".join(lines).strip(), report, leaves_open)


def unable(comparisons: Sequence[Comparison]) -> list[str]:
    """Says which comparisons could not have failed, and why; at most two sentences."""
    said = []
    empty = [c for c in comparisons if not beyond(c.before, c.margin)]
    few = [c for c in comparisons if not c.able and c not in empty]
    if few:
        said.append(
            f"{len(few)} of {len(comparisons)} comparisons could not have failed, whatever was answered "
            f"({_names(few)}): too few right answers before for so many comparisons at this level"
        )
    if empty:
        said.append(
            f"{len(empty)} of {len(comparisons)} comparisons could not have failed, because the score before was "
            f"not above the margin ({_names(empty)})"
        )
    return said


def _names(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(dict.fromkeys(c.benchmark for c in comparisons))


def _unchanged(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "nothing to compare with yet"
    largest = max(comparisons, key=lambda c: c.detectable or 0.0)
    return (
        f"{len(comparisons)} comparisons, none worse beyond its margin; a fall of {finds(largest)} points would have "
        f"been found in any of them, in {power.RATE:.0%} of the cases"
    )


LEGEND = (
    f"finds: the smallest fall, in points, that the comparison finds in {power.RATE:.0%} of the cases; "
    "none: it could not have failed, whatever was answered."
)


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons in Markdown, what regressed first; all of 100.

    Two tables, and what is long at their ends: Prefect's page breaks no line of a table, and cuts it off where the page ends.
    """
    scores = [
        "| benchmark | | before | after | lost / won | p (Holm) | against |",
        "|---|---|---|---|---|---|---|",
    ]
    sure = [
        "| benchmark | difference | 95 % interval | unparsable | margin | finds | against |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in worst_first(comparisons):
        scores.append(
            f"| {c.benchmark} | {'**regressed**' if c.regressed else remark(c)} | {100 * c.before:.1f} | {100 * c.after:.1f} "
            f"| {c.lost} / {c.won} of {c.n} | {c.adjusted:.2g} | {c.against} |"
        )
        sure.append(
            f"| {c.benchmark} | {100 * c.difference:+.1f} | {100 * c.low:+.1f} to {100 * c.high:+.1f} "
            f"| {drift.percent(c.unparsable_after)} | {100 * c.margin:.1f} | {finds(c)} | {c.against} |"
        )
    return "\n".join([*scores, "", *sure])


def worst_first(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """What regressed, then what fell, each by the p-value."""
    return sorted(comparisons, key=lambda c: (not c.regressed, not c.fell, c.adjusted, c.benchmark))


def finds(comparison: Comparison) -> str:
    """The smallest fall that is found, in points."""
    return "none" if comparison.detectable is None else f"{100 * comparison.detectable:.1f}"


def remark(comparison: Comparison) -> str:
    """What is to be seen at once in a table."""
    if comparison.regressed:
        return "regressed"
    remarks = [("fell", comparison.fell), ("could not have failed", not comparison.able)]
    return ", ".join(text for text, applies in remarks if applies)
