"""Artifacts of earlier code that stand for the present code: looked for, compared and recorded (`sif accept`).

An artifact can be accepted when it was made from what the stage has today (inputs, files, configuration) and only the
means differ: code, libraries, data files of ours. Whoever accepts it says that they do not change the result. The
digest of its content stays what it was, so that nothing after it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sifthinker.config import Config, Scenes
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Manifest, Ref
from sifthinker.store.runs import runs
from tasks.runtime import identity
from tasks.runtime.decide import Decision
from tasks.runtime.pipeline import Partial, Pipeline, Run

# Fields that decide a result and were in no key of the old form. The run that made an artifact has recorded them.
UNRECORDED = {"grpo.generation", "evaluate.server", "ingest.max_pixels"}


@dataclass(frozen=True)
class Outcome:
    """What became of one stage."""

    label: str
    verdict: str  # "accepted", "cached", "refused", or "waits" for a stage before it
    said: str  # which artifact stands for which key, or why none does


class Accepting:
    """Accepts what can be accepted while a pipeline is looked at, so that upstream comes first."""

    def __init__(self, store: Store, why: str, who: str, only: str | None) -> None:
        """Starts with nothing accepted.

        Args:
            store: of the artifacts.
            why: the reason, for the record.
            who: accepts them.
            only: the label of the one stage that is accepted; None: every one that can be.
        """
        self.store, self.why, self.who, self.only = store, why, who, only
        self.records = runs(store)
        self.outcomes: dict[str, Outcome] = {}

    def __call__(self, decision: Decision, _: Store) -> Ref | None:
        """For `Run`: the artifact of a stage, if there is one by now."""
        label = decision.order.label
        if decision.artifact:
            self._ended(label, "cached", "in the store")
            return decision.artifact.ref
        if self.only not in (None, label):
            return None  # another stage is to be accepted
        found, said = self._candidate(decision)
        if found is None:
            self._ended(label, "refused", said)
            return None
        place, key = decision.order.place, decision.order.key
        self.store.accept(place, key, found["key"], f"{self.why} ({said})", self.who)
        self._ended(label, "accepted", f"{found['key']} stands for {key} from now on ({said})")
        artifact = self.store.find(place, key)
        assert artifact, "its files were looked at when it was chosen"
        return artifact.ref

    def _ended(self, label: str, verdict: str, said: str) -> None:
        self.outcomes[label] = Outcome(label, verdict, said)

    def _candidate(self, decision: Decision) -> tuple[Manifest | None, str]:
        """The newest whole artifact that differs in nothing but its means, and how it differs; or why there is none."""
        order = decision.order
        for manifest in self.store.manifests(order.place):
            if manifest["label"] != order.label:
                continue
            made_with = _recorded(self.records, manifest)
            if obstacles(manifest["identity"], order.identity, made_with):
                continue
            try:
                self.store.open(Ref(stage=manifest["stage"], key=manifest["key"], digest=manifest["digest"]))
            except Damaged:
                continue
            return manifest, "; ".join(identity.differences(manifest["identity"], order.identity))
        return None, "; ".join(decision.reasons)


def accept(pipeline: Pipeline, config: Config, store: Store, label: str, why: str, who: str) -> str:
    """Records that the latest artifact of a stage that differs only in its means stands for the present code.

    Returns:
        What was recorded, in a sentence.

    Raises:
        UserError: the stage is unknown, needs no acceptance, cannot be looked up yet, or differs in more.
    """
    outcomes = {outcome.label: outcome for outcome in _looked_at(pipeline, config, store, why, who, label)}
    if label not in outcomes:
        raise UserError(f"accept: {label} is no stage; stages: {', '.join(outcomes)}")
    outcome = outcomes[label]
    match outcome.verdict:
        case "accepted":
            return f"{label}: {outcome.said}"
        case "cached":
            raise UserError(f"accept: {label} is cached already")
        case "waits":
            raise UserError(
                f"accept: {label} waits for stages that would run themselves; accept or run those first"
            )
    raise UserError(
        f"accept: {label} has no earlier artifact that differs in code, libraries or our data files alone: "
        f"{outcome.said}"
    )


def accept_all(pipeline: Pipeline, config: Config, store: Store, why: str, who: str) -> list[Outcome]:
    """The same for every stage of a pipeline, in its order."""
    return _looked_at(pipeline, config, store, why, who, None)


def obstacles(
    old: Mapping[str, Any], new: Mapping[str, Any], made_with: Mapping[str, Any] | None
) -> list[str]:
    """Why an artifact cannot stand for another identity: what differs besides the means.

    A configuration field that the earlier key did not have counts as equal if the run that made the artifact recorded
    today's value, or, where that run did not know the field either, if today's value is its default. With no record
    of that run the fields of `UNRECORDED` are left to whoever accepts; the reason that is recorded names them.

    Args:
        old: identity of the artifact.
        new: identity that it would stand for.
        made_with: the configuration of the run that made it, by dotted field; None: there is no record.
    """
    found = identity.ingredients_changed(old, new)
    before, after = identity.flatten(old["config"]), identity.flatten(new["config"])
    defaults = identity.flatten(Config(scenes=Scenes()).model_dump(mode="json"))
    for field in sorted(before.keys() | after.keys()):
        if field in before or field not in defaults:
            if before.get(field) != after.get(field) or (field in before) != (field in after):
                found.append(f"config {field}")
        elif made_with is not None and field in made_with:
            if made_with[field] != after[field]:
                found.append(f"config {field}: {made_with[field]} -> {after[field]}")
        elif not (made_with is None and field in UNRECORDED) and defaults[field] != after[field]:
            found.append(f"config {field} is new and not at its default: {after[field]}")
    return found


def _looked_at(
    pipeline: Pipeline, config: Config, store: Store, why: str, who: str, only: str | None
) -> list[Outcome]:
    accepting = Accepting(store, why, who, only)
    looking = Run(config, Partial(), store, accepting)
    pipeline(looking)
    return [
        accepting.outcomes.get(planned.label) or Outcome(planned.label, "waits", "; ".join(planned.reasons))
        for planned in looking.plan
    ]


def _recorded(records: list[dict[str, Any]], manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of the run that made an artifact, by dotted field: of the first that has it."""
    name = (manifest["stage"], manifest["key"])
    having = [
        record
        for record in records
        if name in [(ref["stage"], ref["key"]) for ref in record["stages"].values()]
    ]
    return identity.flatten(min(having, key=lambda record: record["started"])["config"]) if having else None
