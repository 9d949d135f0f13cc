"""A night: the scores of checkpoints, held against the last good night and the pinned baseline, and kept.

What comes of it is one of three: passed; regressed (some benchmark is significantly worse beyond its margin, see
gate.py); not run (a server was down, files were missing), which says nothing about the model. A checkpoint that
regressed on one benchmark and could not run on another has regressed.

Every night stays in the history, also one that did not run. "Last good night" is the latest one of the same
checkpoint's name that passed; nights from before the baseline was pinned no longer count, so a fall that is wanted is
accepted by pinning the checkpoint as baseline.

The last good night's verdicts are those of the code that ran then, the baseline's are made by tonight's: a changed
scoring rule shows against the one and not against the other.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sifthinker import aliases, gate, history, night_report
from sifthinker.night import BASELINE, LAST, Evaluated, Night, Outcome, Target
from sifthinker.store import Damaged, Store, write_json

logger = logging.getLogger(__name__)


def hold(
    store: Store,
    night: Night,
    evaluated: Sequence[Evaluated],
    failed: Mapping[str, str],
    baseline: Evaluated | None = None,
) -> Outcome:
    """Compares, writes the report into `<store>/nights/<id>`, and adds the night to the history; in this order.

    Args:
        store: holds the history, the alias of the baseline and the evaluations of earlier nights.
        night: tonight.
        evaluated: the checkpoints that could be evaluated.
        failed: of those that could not, why, by name.
        baseline: the pinned checkpoint on the same benchmarks.
    """
    rows = history.read(store.root / "history")
    pinned = aliases.read(store, night.config.nightly.baseline)
    targets = [_compared(store, night, rows, tonight, baseline, pinned) for tonight in evaluated]
    targets += [Target(name, None, {"": why}) for name, why in failed.items()]
    _judge(targets, night.config.nightly.level)
    rows += [row for target in targets for row in _rows(night, target)]
    folder = store.root / "nights" / night.id
    outcome = _outcome(targets, folder / "report.html", night.config.evaluate.limit)
    _write(folder, night, targets, outcome, rows, baseline, pinned)
    mine = [row for row in rows if row["night"] == night.id]
    store.share(history.append(store.root / "history", night.id, mine))
    return outcome


def _compared(
    store: Store,
    night: Night,
    rows: Sequence[history.Row],
    tonight: Evaluated,
    baseline: Evaluated | None,
    pinned: Mapping[str, Any] | None,
) -> Target:
    settings = night.config.nightly
    verdicts = tonight.verdicts()
    target = Target(tonight.target, tonight, tonight.missing())
    target.last = _last_good(store, rows, target, pinned["when"] if pinned else 0.0)
    if pinned is None:
        target.notices.append(
            f"No baseline is pinned; `sif promote RUN --as {settings.baseline} --why ...` pins one."
        )
    for name, reference in ((LAST, target.last), (BASELINE, baseline)):
        earlier = reference.verdicts() if reference else {}
        for benchmark in sorted(verdicts.keys() & earlier.keys()):
            margin = settings.margins.get(benchmark, settings.margin)
            made = gate.compare(benchmark, name, earlier[benchmark], verdicts[benchmark], margin)
            if made is None:
                target.notices.append(f"{benchmark} has no question in common with the {name}: not compared.")
            else:
                target.comparisons.append(made)
    return target


def _last_good(store: Store, rows: Sequence[history.Row], target: Target, since: float) -> Evaluated | None:
    """The latest good night whose evaluation is still in the store, whole."""
    for row in history.good(rows, target.name, since):
        stage, _, key = row["evaluation"].partition("/")
        try:
            found = store.find(stage, key)
        except Damaged as damage:
            found = None
            logger.warning("%s", damage)
        if found:
            return Evaluated(target.name, row["model"], row["evaluation"], found.path, True)
        when = f"{row['started']:%Y-%m-%d}"
        target.notices.append(
            f"The good night of {when} cannot be compared with: {row['evaluation']} is gone."
        )
    return None


def _judge(targets: Sequence[Target], level: float) -> None:
    """One family over all that is compared in a night: its level is that of the night."""
    judged = iter(gate.judge([c for target in targets for c in target.comparisons], level))
    for target in targets:
        target.comparisons = [next(judged) for _ in target.comparisons]


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
    if target.tonight:
        worse = {comparison.benchmark for comparison in target.comparisons if comparison.regressed}
        return [
            {**common, **{k: v for k, v in s.items() if k in common}, "regressed": s["benchmark"] in worse}
            for s in target.tonight.scores()
        ]
    benchmarks = dict.fromkeys(source.name for source in night.config.evaluate.benchmarks) or [""]
    why = {
        "metric": "",
        "missing": target.missing[""],
        "unit": "share",
        "n": 0,
        "unparsable": 0,
        "regressed": False,
    }
    return [{**common, **why, "benchmark": name} for name in benchmarks]


def _outcome(targets: Sequence[Target], report: Path, limit: int | None) -> Outcome:
    comparisons = [comparison for target in targets for comparison in target.comparisons]
    worse = [c for c in comparisons if c.regressed]
    missing = [(target.name, name, why) for target in targets for name, why in target.missing.items()]
    several = len(targets) > 1
    said = [
        f"{c.benchmark} fell from {100 * c.before:.1f} to {100 * c.after:.1f} against the {c.against}"
        for c in worse
    ]
    said += [f"{name or target} could not run: {why}" for target, name, why in missing]
    lines = [f"- {text}" for text in said]
    for target in targets:
        if target.comparisons:
            lines += ["", f"### {target.name}" if several else "", gate.table(target.comparisons)]
        lines += ["", *target.notices]
    state = history.REGRESSED if worse else history.NOT_RUN if missing else history.PASSED
    message = "; ".join(said) or (
        f"{len(comparisons)} comparisons, none worse beyond its margin"
        if comparisons
        else "nothing to compare with yet"
    )
    if limit is not None:
        mark = history.quick_look(limit)
        message, lines = f"{message} ({mark})", [f"**This is {mark}.**", "", *lines]
    return Outcome(state, message, "\n".join(lines).strip(), report)


def _write(
    folder: Path,
    night: Night,
    targets: Sequence[Target],
    outcome: Outcome,
    rows: Sequence[history.Row],
    baseline: Evaluated | None,
    pinned: Mapping[str, Any] | None,
) -> None:
    """`report.html` and, for programs, `outcome.json`; the folder appears whole or not at all."""
    html = night_report.render(night, targets, outcome, rows, baseline, pinned)
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
                    "comparisons": [asdict(comparison) for comparison in target.comparisons],
                }
                for target in targets
            },
        },
    )
    temporary = folder / f".report.{uuid.uuid4().hex}"
    temporary.write_text(html, encoding="utf-8")
    temporary.rename(outcome.report)
