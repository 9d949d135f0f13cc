"""A pipeline, planned or carried out: the same function of stages, called with a `Run` that acts or only looks.

Partial reruns are decided here, before anything runs: `start_at`, `stop_after`, `refresh`, `reuse_run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from prefect.logging import get_run_logger

from sifthinker import scenes
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.reporting import bought
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Ref
from tasks.runtime import events, placement, server_away
from tasks.runtime.decide import Decision, FilesMissing, decide, lacks, latest, lookup
from tasks.runtime.make import execute
from tasks.runtime.planned import Planned, cannot_start
from tasks.runtime.refreshed import Refreshed
from tasks.runtime.stage import Stage

Pipeline = Callable[["Run"], None]


@dataclass(frozen=True)
class Partial:
    """Which part of a pipeline runs."""

    start_at: str | None = (
        None  # earlier stages are taken from the store, never run, but for those that fetch
    )
    stop_after: str | None = None  # this stage and those that it is made from; no others
    refresh: tuple[str, ...] = ()  # made again though they are there
    reuse_run: str | None = (
        None  # the stages before `start_at` are this earlier run's, whatever the configuration
    )
    refreshed: Refreshed | None = None  # what was already: it is not made again once more


@dataclass(frozen=True)
class Pending:
    """An artifact that is not there yet, in a plan; or that is not wanted."""

    label: str


class Stopped(Exception):
    """`stop_after` is reached: the rest of the pipeline is left out."""


class Run:
    """Calls `act` once a stage, in the pipeline's order; the result is the stage's artifact."""

    def __init__(
        self,
        config: Config,
        partial: Partial,
        store: Store,
        act: Callable[[Decision, Store], Ref | None],
        record: Callable[[Mapping[str, Ref]], None] = lambda made: None,
        only: Collection[str] | None = None,
        looks: bool = False,
    ) -> None:
        """Starts at the first stage.

        Args:
            config: of the stages.
            partial: which of them run.
            store: of their artifacts.
            act: makes or takes the artifact of a decision; None where it only looks and there is none.
            record: is told all artifacts so far by label, after each stage.
            only: the labels of the stages that are wanted; None: all.
            looks: nothing is made; a stage whose files are not there is planned, and says so.

        Raises:
            UserError: there is no such run to reuse.
        """
        self.config, self.store, self.partial = config, store, partial
        self.plan: list[Planned] = []
        self.decisions: dict[str, Decision] = {}
        self.made: dict[str, Ref] = {}
        self.needs: dict[str, set[str]] = {}  # the stages that each one is made from, by label
        self._labels: dict[Ref | Pending, str] = {}
        self._provided: set[str] = set()  # the stages that made the configuration's own files
        self._awaited: Pending | None = None  # of those, in a plan, the one that has not
        self.fetched: set[str] = set()  # the stages that bring what exists elsewhere
        self._only, self._looks = only, looks
        self._act, self._record = act, record
        self._reached = partial.start_at is None
        self._pinned = _pinned(store, partial) if partial.reuse_run else None

    def __call__(
        self, stage: Stage, label: str = "", config: Config | None = None, /, **inputs: Ref | Pending
    ) -> Ref | Pending:
        """The artifact of a stage.

        Args:
            stage: which one.
            label: its name in the pipeline; "": that of the stage.
            config: for this stage alone; None: the run's.
            inputs: the artifacts that it is made from, by the names that the stage knows them by.

        Raises:
            Stopped: this was the last stage that was asked for.
            StageFailed: it ended without its artifact.
        """
        config = config or self.config
        label = label or stage.name.replace("_", "-")
        self._reached = self._reached or label == self.partial.start_at
        self.needs[label] = {self._labels[ref] for ref in inputs.values() if ref in self._labels}
        self.needs[label] |= set() if stage.fetches else self._provided
        if stage.fetches:
            self.fetched.add(label)
        if self._only is not None and label not in self._only:
            return self._known(Pending(label), label)
        given = {name: ref for name, ref in inputs.items() if isinstance(ref, Ref)}
        pending = [ref.label for ref in inputs.values() if isinstance(ref, Pending)]
        made: Ref | None = None
        if not self._reached and self._pinned is not None and (label in self._pinned or not stage.fetches):
            made = self._take_pinned(label, self._pinned)
        elif pending:  # only ever in a plan
            reason = f"after {', '.join(dict.fromkeys(pending))}"
            self.plan.append(self._unmade(stage, label, config, reason, self._expects(stage, config, given)))
        elif (decision := self._decide(stage, label, config, given)) and self._awaited and not stage.fetches:
            # Its own reasons would be that the files are not there, one by one.
            looked = _planned(label, decision, self._expects(stage, config, given))
            reason = f"after {self._awaited.label}"
            self.plan.append(replace(looked, verdict="runs", reasons=(reason,), rows=None, key=None))
        elif decision:
            self.decisions[label] = decision
            self.plan.append(
                _planned(label, decision, "" if decision.cached else self._expects(stage, config, given))
            )
            if decision.cached or self._reached or stage.fetches:
                made = self._act(decision, self.store)
                if made and decision.order.refresh and self.partial.refreshed:
                    self.partial.refreshed.add(decision.order)
        if made:
            self.made[label] = made
            self._record(self.made)
        if label == self.partial.stop_after:
            raise Stopped
        return self._known(made or Pending(label), label)

    def wanted(self) -> set[str] | None:
        """The stages that `stop_after` is made from, and itself, once all of them were called; None: all are wanted."""
        if self.partial.stop_after not in self.needs:
            return None
        found: set[str] = set()
        frontier = {self.partial.stop_after}
        while frontier:
            label = frontier.pop()
            found.add(label)
            frontier |= self.needs[label] - found
        return found

    def _known(self, ref: Ref | Pending, label: str) -> Ref | Pending:
        """The artifact, whose stage is remembered."""
        self._labels[ref] = label
        return ref

    def _decide(self, stage: Stage, label: str, config: Config, given: Mapping[str, Ref]) -> Decision | None:
        """The decision; None in a look where files of the user's are not there, which the plan then says."""
        try:
            decision = decide(self.store, stage, label, config, given, label in self.partial.refresh)
        except FilesMissing as missing:
            if not self._looks:
                raise
            planned = self._unmade(stage, label, config, "its files are not there", "")
            self.plan.append(replace(planned, lacks=(*missing.lacks, *planned.lacks)))
            return None
        done = self.partial.refreshed
        if decision.order.refresh and done and done.has(decision.order):
            return lookup(self.store, replace(decision.order, refresh=False))
        return decision

    def _unmade(self, stage: Stage, label: str, config: Config, reason: str, expects: str) -> Planned:
        """In a plan: a stage whose key is not known yet."""
        last = latest(self.store, stage.name, label, config.name)
        return Planned(
            label,
            "runs",
            (reason,),
            bought.seconds(last) if last else None,
            expects=expects,
            pool=placement.pool(config, stage.name),
            lacks=tuple(stage.lacks(config)),
        )

    def provide(self, rendered: Ref | Pending) -> None:
        """Adds the files of rendered scenes to the configuration, as if the user had given them."""
        self._provided |= {self._labels[rendered]}
        self._awaited = rendered if isinstance(rendered, Pending) else None
        if isinstance(rendered, Ref):
            folder = self.store.open(rendered).path / "data"
            rendered_ones = [b.model_copy(update={"rendered": True}) for b in scenes.benchmarks(folder)]
            benchmarks = (*rendered_ones, *self.config.evaluate.benchmarks)
            self.config = self.config.model_copy(
                update={
                    "sources": (*scenes.sources(folder), *self.config.sources),
                    "evaluate": self.config.evaluate.model_copy(update={"benchmarks": benchmarks}),
                }
            )

    def _expects(self, stage: Stage, config: Config, given: Mapping[str, Ref]) -> str:
        return stage.expects(config, {name: self.store.open(ref) for name, ref in given.items()})

    def _take_pinned(self, label: str, pinned: Mapping[str, Ref]) -> Ref:
        if label not in pinned:
            raise UserError(f"reuse_run: run {self.partial.reuse_run} has no artifact of {label}")
        try:
            self.store.open(pinned[label])
        except Damaged as damage:
            raise UserError(f"reuse_run: {label} of run {self.partial.reuse_run}: {damage}") from damage
        self.plan.append(
            Planned(label, "pinned", (f"of run {self.partial.reuse_run}",), key=pinned[label].key)
        )
        return pinned[label]


def plan(pipeline: Pipeline, config: Config, partial: Partial, store: Store) -> list[Planned]:
    """What a run would do, without doing it.

    Raises:
        UserError: the partial rerun asks for what cannot be: stages that this run has not, or a start whose inputs are not
            there.
    """
    looking = _look(pipeline, config, partial, store)
    wanted = looking.wanted() or {planned.label for planned in looking.plan}
    _check_ends(pipeline, config, partial, store, [planned.label for planned in looking.plan])
    if partial.start_at:
        reached = [planned.label for planned in looking.plan].index(partial.start_at)
        before = looking.plan[:reached]
        missing = [
            p for p in before if p.verdict == "runs" and p.label not in looking.fetched and p.label in wanted
        ]
        if missing:
            raise UserError(cannot_start(partial.start_at, missing))
    found = [planned for planned in looking.plan if planned.label in wanted]
    _check_refresh(partial, found)
    return found


def _check_ends(
    pipeline: Pipeline, config: Config, partial: Partial, store: Store, reached: Sequence[str]
) -> None:
    """Refuses a start or a stop that is no stage, and a stop before the start; `reached` are the stages up to the stop."""
    asked = {"start_at": partial.start_at, "stop_after": partial.stop_after}
    missed = {field: label for field, label in asked.items() if label and label not in reached}
    if not missed:
        return
    stages = labels(pipeline, config, store)
    for field, label in missed.items():
        if label not in stages:
            raise UserError(f"{field}: {label} is no stage of this flow; stages: {', '.join(stages)}")
    raise UserError(
        f"stop_after: {partial.stop_after} stands before start_at: {partial.start_at}, so nothing would run; stages: "
        f"{', '.join(stages)}"
    )


def _check_refresh(partial: Partial, plan: Sequence[Planned]) -> None:
    verdicts = {planned.label: planned.verdict for planned in plan}
    for label in partial.refresh:
        if label not in verdicts:
            raise UserError(f"refresh: {label} is no stage of this run; stages: {', '.join(verdicts)}")
        if verdicts[label] == "pinned":
            raise UserError(
                f"refresh: {label} stands before start_at, so it is taken from run {partial.reuse_run}; start at {label}, or "
                "leave it out of refresh"
            )


def labels(pipeline: Pipeline, config: Config, store: Store) -> list[str]:
    """The stages of a whole run.

    Raises:
        UserError: it cannot be planned.
    """
    return list(_look(pipeline, config, Partial(), store).needs)


def _look(pipeline: Pipeline, config: Config, partial: Partial, store: Store) -> Run:
    looking = Run(
        config,
        partial,
        store,
        lambda decision, _: decision.artifact.ref if decision.artifact else None,
        looks=True,
    )
    with suppress(Stopped):
        pipeline(looking)
    return looking


def carry_out(
    pipeline: Pipeline, config: Config, partial: Partial, store: Store, run_id: str, name: str
) -> dict[str, Ref]:
    """Runs a pipeline and returns the artifact of every stage it reached; keeps a record for `reuse_run`.

    Raises:
        StageFailed: a stage ended without its artifact.
        ServerAway: the Prefect server is gone between two stages.
    """
    path = runs.file(store, run_id)
    record: dict[str, Any] = {"id": run_id, "name": name, "started": time.time()}
    record["config"] = config.model_dump(mode="json")

    def keep(made: Mapping[str, Ref], state: str = runs.RUNNING) -> None:
        stages = {label: ref.model_dump() for label, ref in made.items()}
        store.record(path, {**record, "state": state, "stages": stages})

    only = _look(pipeline, config, partial, store).wanted() if partial.stop_after else None

    def make(decision: Decision, store: Store) -> Ref:
        server_away.wait()
        order = decision.order
        there = placement.pool(order.config, order.stage.name) or ""
        if not decision.cached:
            at = {"label": order.label, "stage": order.place, "key": order.key, "since": time.time()}
            record["at"] = at
            keep(acting.made)
        with events.stage(order.label, decision.cached, there) as made:
            ref = execute(decision, store)
            made(store.manifest(ref.stage, ref.key))
        record.pop("at", None)
        return ref

    acting = Run(config, partial, store, make, keep, only)
    keep({})
    state = "failed"
    try:
        for uploaded in store.push_pending():
            get_run_logger().info("%s: uploaded now; an earlier run could not", uploaded)
        pipeline(acting)
        state = "finished"
    except Stopped:
        state = f"stopped after {partial.stop_after}"
    finally:
        try:
            keep(acting.made, state)
        except OSError as error:
            if state != "failed":
                raise
            # The stage's own error says more; where this run stopped is seen by its record from before.
            get_run_logger().warning("%s cannot be written: %s", path, error)
    return acting.made


def _pinned(store: Store, partial: Partial) -> dict[str, Ref]:
    if not partial.start_at:
        raise UserError("reuse_run: needs start_at, the first stage that is not taken from that run")
    assert partial.reuse_run, "asked before"

    def before(run: Mapping[str, Any]) -> dict[str, Any]:
        return dict(takewhile(lambda stage: stage[0] != partial.start_at, run["stages"].items()))

    # Of runs of one name, one that failed early is not what is meant.
    most = max((len(before(run)) for run in runs.named(store, partial.reuse_run)), default=0)
    whole: Callable[[Mapping[str, Any]], dict[str, Any] | None] = lambda run: (  # noqa: E731
        made if len(made := before(run)) == most else None
    )
    if run := runs.only(store, partial.reuse_run, whole, "reuse_run"):
        return {label: Ref(**ref) for label, ref in run["stages"].items()}
    latest_ones = ", ".join(f"{run['name']} ({run['id']})" for run in runs.runs(store)[:5])
    raise UserError(f"reuse_run: no run {partial.reuse_run} in {store.root}; latest: {latest_ones or 'none'}")


def _planned(label: str, decision: Decision, expects: str) -> Planned:
    if found := decision.artifact:
        accepted = (
            () if found.ref.key == decision.order.key else (f"accepted for this code: {found.ref.key}",)
        )
        kept = found.manifest["rows"]["kept"]
        return Planned(label, "cached", accepted, rows=kept, key=decision.order.key, made=found.ref)
    there = placement.pool(decision.order.config, decision.order.stage.name)
    return Planned(
        label,
        "runs",
        decision.reasons,
        decision.estimate,
        expects=expects,
        pool=there,
        key=decision.order.key,
        lacks=lacks(decision.order),
    )
