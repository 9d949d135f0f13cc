"""In what two evaluations were made otherwise, and what each took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sifthinker.core import tables
from sifthinker.evaluation.comparing.sides import Side
from sifthinker.reporting import bought
from sifthinker.store.lineage import Node


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that decides a result, and is not the same on both sides."""

    stage: str  # its label
    kind: str  # "configuration", "library", "code", "data", "file", "stage"
    what: str
    before: str
    after: str


def differences(one: Side, other: Side) -> list[Difference]:
    """What decides the stages behind two evaluations and is not the same, the earliest stage first.

    A stage that differs only in its inputs is not named: what made these other is.
    """
    earlier, later = _by_label(one), _by_label(other)
    labels = sorted(
        {*earlier, *later}, key=lambda label: (_place(earlier, label), _place(later, label)), reverse=True
    )
    return [found for label in labels for found in _of_stage(label, earlier.get(label), later.get(label))]


def _by_label(side: Side) -> dict[str, Node]:
    """The artifacts of the lineage by the label of their stage, the evaluation first."""
    return {node.label: node for node in reversed(list(side.nodes.values()))} if side.nodes else {}


def _place(nodes: Mapping[str, Node], label: str) -> int:
    """How far from the user's files."""
    labels = list(reversed(list(nodes)))
    return labels.index(label) if label in labels else len(labels)


def _of_stage(label: str, one: Node | None, other: Node | None) -> Iterator[Difference]:
    if one is None or other is None:
        yield Difference(label, "stage", "made", *("no" if node is None else "yes" for node in (one, other)))
        return
    if one.name == other.name:
        return
    if one.manifest is None or other.manifest is None:
        gone = ["gone from the store" if node.manifest is None else "there" for node in (one, other)]
        yield Difference(label, "stage", "artifact", *gone)
        return
    before, after = one.manifest["identity"], other.manifest["identity"]
    config = [_flat(identity.get("config", {})) for identity in (before, after)]
    for name, (was, now) in _changed(*config).items():
        yield Difference(label, "configuration", name, was, now)
    for kind, part in (("library", "libraries"), ("data", "data"), ("file", "files"), ("code", "code")):
        for name, (was, now) in _changed(before.get(part, {}), after.get(part, {})).items():
            short = kind != "library"  # digests say nothing to a person
            yield Difference(label, kind, name, was[:8] if short else was, now[:8] if short else now)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text."""
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = {str(place): item for place, item in enumerate(value)}.items()
    else:
        return {prefix.removesuffix("."): str(value)}
    return {name: text for key, item in items for name, text in _flat(item, f"{prefix}{key}.").items()}


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        name: (str(one.get(name, "not there")), str(other.get(name, "not there")))
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    }


@dataclass(frozen=True, slots=True)
class Effort:
    """What the making of a side took, whenever that was."""

    hours: float  # of all stages behind it and its own
    stages: tuple[tuple[str, float, str], ...]  # label, seconds, and what was bought for it
    replies: int  # of the evaluation
    tokens: int  # that the model wrote in them


def effort(side: Side) -> Effort:
    """Hours and calls of all stages behind an evaluation; a stage that is gone from the store counts none."""
    made = [node for node in reversed(list(side.nodes.values())) if node.manifest is not None]
    stages = tuple(
        (node.label, bought.seconds(node.manifest), _bought(node)) for node in made if node.manifest
    )
    written = [row["completion_tokens"] for row in tables.read(side.predictions, ["completion_tokens"])]
    return Effort(sum(seconds for _, seconds, _ in stages) / 3600, stages, len(written), sum(written))


def _bought(node: Node) -> str:
    notes = bought.notes(node.manifest) if node.manifest else {}
    names = {
        "calls": "calls",
        "prompt_tokens_bought": "prompt tokens",
        "completion_tokens_bought": "completion tokens",
        "judge_calls": "calls of the judge",
        "judge_tokens_bought": "tokens of the judge",
    }
    said = [f"{notes[name]:,} {text}" for name, text in names.items() if notes.get(name)]
    return ", ".join([*said, *([str(notes["cost"])] if notes.get("cost") else [])])
