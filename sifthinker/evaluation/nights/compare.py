"""A night: the scores of checkpoints, held against the last good night and the pinned baseline, and kept.

What comes of it is the first of these that is true:

* regressed: some benchmark is significantly worse beyond its margin, see gate.py;
* not run: a server was down, or files, weights or the pinned baseline were missing, which says nothing about the model;
* inconclusive: some comparison could not have failed whatever was answered, because too few questions were asked, or
  could not be made although an earlier night had its benchmark;
* warned: every comparison could have failed and none did, but something fell by more than its margin, or replies fail in
  other ways than before (drift.py);
* passed.

A fall beyond the margin and a drift of the kinds of failure are told in any case, whatever the outcome. A checkpoint's
first night has nothing to be compared with and passes, unless its replies are unparsable.

Every night stays in the history, also one that did not run. "Last good night" is the latest one of the same
checkpoint's name that passed and was no quick look; nights from before the baseline was pinned no longer count, so a fall that is wanted is
accepted by pinning the checkpoint as baseline.

The last good night's verdicts are those of the code that ran then, the baseline's are made by tonight's. A benchmark that
was scored by another version of its rules (`benchmarks.question.RULES`) then is not compared: the rules changed, and not
the model.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sifthinker.config import Nightly
from sifthinker.evaluation import drift, gate, history, power
from sifthinker.evaluation.gate import Paired, ScoredReply
from sifthinker.evaluation.nights import night_page, outcomes
from sifthinker.evaluation.nights.records import BOTH, Earlier, Evaluated, Night, Outcome, Target, references
from sifthinker.store import aliases
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged
from sifthinker.system.files import whole, write_json

logger = logging.getLogger(__name__)


def hold(
    store: Store,
    night: Night,
    evaluated: Sequence[Evaluated],
    failed: Mapping[str, str],
    baseline: Evaluated | None = None,
    lost: str = "",
) -> Outcome:
    """Compares, writes the report into `<store>/nights/<id>`, and adds the night to the history; in this order.

    Args:
        store: holds the history, the alias of the baseline and the evaluations of earlier nights.
        night: tonight.
        evaluated: the checkpoints that could be evaluated.
        failed: of those that could not, why, by name.
        baseline: the pinned checkpoint on the same benchmarks.
        lost: why it could not be evaluated, where one is pinned.
    """
    pinned = aliases.read(store, night.config.nightly.baseline)
    earlier = Earlier(history.read(store.root / "history"), baseline, pinned)
    replies = {tonight.target: tonight.scored() for tonight in evaluated}
    pairs: list[Paired] = []
    targets = [
        _compared(store, night, earlier, tonight, replies[tonight.target], pairs) for tonight in evaluated
    ]
    targets += [Target(name, None, {"": why}) for name, why in failed.items()]
    for target in targets:
        target.lost = f"{night.config.nightly.baseline} could not run: {lost}" if lost else ""
    _judge(targets, pairs, night.config.nightly)
    for target in targets:
        target.warnings = outcomes.warnings(target, replies.get(target.name, {}), night.config.nightly)
    rows = [*earlier.rows, *(row for target in targets for row in _rows(night, target))]
    folder = store.root / "nights" / night.id
    outcome = outcomes.outcome(targets, folder / "report.html", night.config.evaluate.limit)
    mine = [row for row in rows if row["night"] == night.id]
    shared = (outcome.report, folder / "outcome.json", store.root / "history" / f"{night.id}.parquet")
    with store.sharing(*shared, strict=False):  # a remote that is away changes no verdict
        _write(folder, night, targets, outcome, replace(earlier, rows=rows))
        history.append(store.root / "history", night.id, mine)
    return outcome


def _compared(
    store: Store,
    night: Night,
    earlier: Earlier,
    tonight: Evaluated,
    replies: Mapping[str, Sequence[ScoredReply]],
    pairs: list[Paired],
) -> Target:
    """A checkpoint against its references; what was compared is added to `pairs`, in the order of the comparisons."""
    settings = night.config.nightly
    target = Target(tonight.target, tonight, tonight.missing())
    since = earlier.pinned["when"] if earlier.pinned else 0.0
    target.last = _last_good(store, earlier.rows, target, since)
    if earlier.pinned is None:
        target.notices.append(
            f"No baseline is pinned; `sif promote RUN --as {settings.baseline} --why ...` pins one."
        )
    found: dict[str, Paired] = {}  # by benchmark, with the reference before
    for name, reference in references(target.last, earlier.baseline).items():
        scored = reference.scored()
        then, now = reference.rules(), tonight.rules()
        for benchmark in sorted(replies.keys() & scored.keys()):
            if then[benchmark] != now[benchmark]:
                target.notices.append(
                    f"{benchmark}: the {name} was scored by version {then[benchmark]} of the scoring rules, this night by "
                    f"version {now[benchmark]}: not compared."
                )
                continue
            margin = settings.margins.get(benchmark, settings.margin)
            before, after = scored[benchmark], replies[benchmark]
            paired = gate.pair(before, after)
            if paired is None:
                target.notices.append(f"{benchmark} has no question in common with the {name}: not compared.")
                continue
            if benchmark in found and found[benchmark].equals(paired):
                _against_both(target, benchmark)
                continue
            found[benchmark] = paired
            unpaired = len(before) + len(after) - 2 * len(paired.old)
            target.comparisons.append(gate.compare_pairs(benchmark, name, paired, unpaired, margin))
            target.drifts += drift.drifts(benchmark, name, paired)
            pairs.append(paired)
    _uncompared(target, replies.keys(), history.benchmarks(earlier.rows, target.name, since))
    return target


def _against_both(target: Target, benchmark: str) -> None:
    """Notes that the baseline says of a benchmark what the last good night says: the comparison is made once."""
    target.comparisons = [
        replace(c, against=BOTH) if c.benchmark == benchmark else c for c in target.comparisons
    ]
    target.drifts = [
        replace(one, against=BOTH) if one.benchmark == benchmark else one for one in target.drifts
    ]


def _uncompared(target: Target, tonight: Collection[str], earlier: Collection[str]) -> None:
    """Notes the benchmarks that were compared with nothing.

    One that is there for the first time gets a notice. Where the reference is lost, the night is inconclusive.
    """
    for benchmark in sorted(set(tonight) - {c.benchmark for c in target.comparisons}):
        if benchmark in earlier:
            target.uncompared[benchmark] = (
                "no reference is left that has its questions; pin a baseline to go on from here"
            )
        elif target.comparisons:
            target.notices.append(f"{benchmark} is there for the first time: compared with nothing.")


def evaluation_of(store: Store, row: history.Row) -> Evaluated | None:
    """The evaluation of a row of the history; None where it is gone from the store, or damaged."""
    stage, _, key = row["evaluation"].partition("/")
    try:
        found = store.find(stage, key)
    except Damaged as damage:
        logger.warning("%s", damage)
        return None
    return Evaluated(row["target"], row["model"], row["evaluation"], found.path, True) if found else None


def _last_good(store: Store, rows: Sequence[history.Row], target: Target, since: float) -> Evaluated | None:
    """The latest good night whose evaluation is still in the store, whole."""
    for row in history.good(rows, target.name, since):
        if found := evaluation_of(store, row):
            return found
        when = f"{row['started']:%Y-%m-%d}"
        target.notices.append(
            f"The good night of {when} cannot be compared with: {row['evaluation']} is gone."
        )
    return None


def _judge(targets: Sequence[Target], pairs: Sequence[Paired], settings: Nightly) -> None:
    """Judges all comparisons of a night as one family, so that the level is that of the whole night.

    The kinds of failure are a family of their own: what they find is a warning and fails no night.
    """
    level = settings.level
    judged = gate.judge([c for target in targets for c in target.comparisons], level)
    found = iter(
        replace(c, detectable=power.detectable(paired, c.margin, level / len(pairs)))
        for c, paired in zip(judged, pairs, strict=True)
    )
    for target in targets:
        target.comparisons = [next(found) for _ in target.comparisons]
    kinds = [one for target in targets for one in target.drifts]
    margins = [settings.margins.get(one.benchmark, settings.margin) for one in kinds]
    drifted = iter(drift.judge(kinds, level, margins, settings.unparsable))
    for target in targets:
        target.drifts = [next(drifted) for _ in target.drifts]


def _rows(night: Night, target: Target) -> list[dict[str, Any]]:
    common = {
        **dict.fromkeys(history.NIGHTS.names),
        "night": night.id,
        "started": night.started,
        "name": night.config.name,
        "target": target.name,
        "model": target.tonight.model if target.tonight else "",
        "evaluation": target.tonight.evaluation if target.tonight else "",
        "replayed": bool(target.tonight and target.tonight.replayed),
        "outcome": target.outcome,
    }
    limit = night.config.evaluate.limit
    if target.tonight:
        worse = {comparison.benchmark for comparison in target.comparisons if comparison.regressed}
        return [
            {
                **common,
                **{k: v for k, v in s.items() if k in common},
                "limit": limit,
                "regressed": s["benchmark"] in worse,
            }
            for s in target.tonight.scores()
        ]
    benchmarks = dict.fromkeys(source.name for source in night.config.evaluate.benchmarks) or [""]
    why = {
        "metric": "",
        "missing": target.missing[""],
        "unit": "share",
        "n": 0,
        "unparsable": 0,
        "limit": limit,
        "regressed": False,
    }
    return [{**common, **why, "benchmark": name} for name in benchmarks]


def _write(
    folder: Path,
    night: Night,
    targets: Sequence[Target],
    outcome: Outcome,
    held_against: Earlier,
) -> None:
    """`report.html` and, for programs, `outcome.json`; each file appears whole."""
    html = night_page.render(night, targets, outcome, held_against)
    write_json(
        folder / "outcome.json",
        {
            "night": night.id,
            "started": night.started.isoformat(),
            "outcome": outcome.outcome,
            "message": outcome.message,
            "level": night.config.nightly.level,
            "limit": night.config.evaluate.limit,
            "targets": {
                target.name: {
                    "outcome": target.outcome,
                    "missing": target.missing,
                    "uncompared": target.uncompared,
                    "warnings": target.warnings,
                    "comparisons": [asdict(comparison) for comparison in target.comparisons],
                    "failures": [asdict(one) for one in target.drifts],
                }
                for target in targets
            },
        },
    )
    with whole(outcome.report) as temporary:
        temporary.write_text(html, encoding="utf-8")
