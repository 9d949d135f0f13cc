"""The card of a published data set: `README.md`, as the hub and `datasets` read it.

Its head, in YAML, says which files are the data set, so that `load_dataset` takes the folder as it is. Its text says where
the rows come from, under which licences, what the columns mean, what was counted, what made it, and what is not the real
thing about it. No stage reads the card.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sifthinker import scenes
from sifthinker.core import rejects
from sifthinker.core.errors import UserError
from sifthinker.store import lineage
from sifthinker.store.lineage import Manifests, Node
from sifthinker.store.manifest import Ref
from sifthinker.system.files import read_text

FILE = "README.md"
PARTS = "data/sif-*.parquet"
RENDERED = "apache-2.0"  # scenes are this project's own
_SECTIONS = (
    "scenes",
    "ingest",
    "expand",
    "depth",
    "publish",
)  # of a configuration: what they hold decides rows
_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_COLUMNS = {
    "id": "unique: `<source>/<data set>/<n>`",
    "source": "name of the configured source",
    "dataset": "data set that the row came from (`gqa`, `tallyqa`, ...)",
    "split": "of that data set; all rows here are for training",
    "question": "as the source has it",
    "answer": "the source's reference answer, text",
    "width": "pixels",
    "height": "pixels",
    "boxes": "what answers the question: `[x1, y1, x2, y2]`, each in 0..1 of the picture",
    "image": "the photograph",
    "depth_image": "its depth map in the colours of Spectral_r (red is near), as the policy is shown it",
    "depth_map": "the same, lossless: bytes of a 16-bit grey PNG, 0 = nearest, 65535 = farthest",
    "steps": "where the chain looks, in order: each step is a list of `{box, depth}`; depth is the mean in the box, "
    "0 = nearest, 1 = farthest",
    "chain": "the chain of thought: `<think>(<area>...</area><text>...</text>)+</think><answer>...</answer>`",
    "model": "that wrote the chain, as its server named it",
    "attempts": "calls that the chain took",
    "prompt_tokens": "over all attempts",
    "completion_tokens": "over all attempts",
}


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Attributes:
        config: of the run, as plain values.
        statistics: of `publish.statistics`.
        nodes: what the data set was made from (`lineage.trace`); it itself may be among them.
        files: patterns of Parquet files by the name of a configuration of `load_dataset`; the first is its default.
        licence: of the whole, as the hub names it; "" = what the sources say.
    """

    config: Mapping[str, Any]
    statistics: Mapping[str, Any]
    nodes: Sequence[Node]
    files: Mapping[str, str] = field(default_factory=lambda: {"default": PARTS})
    licence: str = ""


def text(facts: Facts) -> str:
    """The card. Equal facts give equal text."""
    head = yaml.safe_dump(_head(facts), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---\n\n# {_title(facts)}",
        f"{facts.statistics['rows']:,} questions about pictures. Each has a chain of thought that looks at the picture in "
        "steps, with boxes and their depths, and a depth map. The format is that of SIF-50K "
        "([SIFThinker](https://arxiv.org/abs/2508.06259)). This is a reproduction, and not the authors' data.",
        _doubts(facts),
        "## Opening it\n\n```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("<this folder or repository>", split="train")\n```',
        "## Sources and licences\n\n" + _sources(facts),
        "## Columns\n\n" + _table(("column", "what"), _COLUMNS.items()),
        "## Statistics\n\n" + _statistics(facts.statistics),
        "## How it was made\n\n" + _made(facts),
        "## Limits\n\n" + _limits(facts),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def behind(manifests: Manifests, refs: Iterable[Ref]) -> list[Node]:
    """Everything that some artifacts were made from, they themselves too: what is made from others before those."""
    nodes: dict[str, Node] = {}
    for ref in refs:
        nodes |= lineage.trace(manifests, ref)
    return list(nodes.values())


def licence(config: Mapping[str, Any]) -> str:
    """The licence of the whole as the hub names it: the sources' if they have one, "other" if several, "" if unknown."""
    named = {origin[-1] for origin in _origins(config).values()}
    if not named or "" in named:
        return ""
    (first, *others) = named
    return "other" if others or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", first) else first


def read_head(folder: Path) -> dict[str, Any]:
    """The YAML head of the card in a folder.

    Raises:
        UserError: there is no card, or no head in it.
    """
    file = folder / FILE
    if not file.exists():
        raise UserError(f"{folder}: has no card ({FILE}); `sif push --to FOLDER` writes a folder with one")
    found = re.match(r"---\n(.*?)\n---\n", read_text(file), re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: the head is no YAML: {error}") from error
    if not isinstance(head, dict):
        raise UserError(
            f"{file}: begins with no YAML head between two lines of ---; write one with `license:`"
        )
    return head


def _head(facts: Facts) -> dict[str, Any]:
    rows = facts.statistics["rows"]
    size = next(
        (
            name
            for most, name in zip(_SIZES, ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M"), strict=True)
            if rows < most
        ),
        "n>1M",
    )
    known = facts.licence or licence(facts.config)
    return {
        "pretty_name": _title(facts),
        **({"license": known} if known else {}),
        **({"license_name": "see-the-sources"} if known == "other" else {}),
        "task_categories": ["visual-question-answering"],
        "tags": ["chain-of-thought", "visual-grounding", "depth", "sifthinker"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": name,
                **({"default": True} if number == 0 else {}),
                "data_files": [{"split": "train", "path": pattern}],
            }
            for number, (name, pattern) in enumerate(facts.files.items())
        ],
    }


def _title(facts: Facts) -> str:
    return f"SIF-50K, reproduced: {facts.config['name']}"


def _doubts(facts: Facts) -> str:
    said = [f"* `{node.label}`: {node.doubts}." for node in facts.nodes if node.doubts]
    if facts.config.get("scenes"):
        said.append("* `scenes`: pictures, questions and boxes are rendered, not photographed.")
    if not said:
        return ""
    return (
        "> **This data set was made with stand-ins.** It shows that the pipeline works, and teaches little.\n\n"
        + "\n".join(said)
    )


def _origins(config: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """Format, file and licence of each source by its name; "" for a licence that the configuration does not say."""
    found = {
        source["name"]: (source["format"], Path(source["path"]).name, source.get("licence") or "")
        for source in config.get("sources") or ()
    }
    if config.get("scenes"):
        found |= {
            source.name: ("rendered scenes", source.path.name, RENDERED) for source in scenes.sources(Path())
        }
    return found


def _sources(facts: Facts) -> str:
    origins = _origins(facts.config)
    rows = []
    for name, count in facts.statistics.get("source", {}).items():
        kind, file, said = origins.get(name, ("", "", ""))
        rows.append((name, f"{count:,}", kind, file, said or "**not stated**"))
    parts = [_table(("source", "rows", "format", "file", "licence"), rows)]
    if any(origin[0] != "rendered scenes" for origin in origins.values()):
        parts.append(
            "A licence here covers what the source publishes. Pictures may be under the terms of whoever took them."
        )
    if any(row[-1] == "**not stated**" for row in rows):
        parts.append("Set `sources[].licence` in the configuration, or name one with `sif push --licence`.")
    return "\n\n".join(parts)


def _statistics(found: Mapping[str, Any]) -> str:
    names = {
        "dataset": "rows by data set",
        "answers": "answers by kind",
        "truth_boxes": "rows by number of boxes",
        "chain_steps": "rows by number of steps",
        "attempts": "rows by calls that the chain took",
        "model": "rows by annotator",
    }
    lines = [
        (title, ", ".join(f"{value}: {count:,}" for value, count in found[name].items()))
        for name, title in names.items()
        if found.get(name)
    ]
    lines.append(("tokens", f"{found['prompt_tokens']:,} prompt, {found['completion_tokens']:,} completion"))
    return _table(("what", "how many"), lines)


def _made(facts: Facts) -> str:
    config = facts.config
    settings: dict[str, Any] = {name: config[name] for name in _SECTIONS if config.get(name) is not None}
    api = (config.get("annotate") or {}).get("api") or {}
    settings["annotate"] = {"api": {"model": api.get("model")}}
    if config.get("sources"):
        settings["sources"] = [
            {"name": each["name"], "format": each["format"], "path": Path(each["path"]).name}
            for each in config["sources"]
        ]
    stages = [
        (node.label, f"{rows['in']:,}", f"{rows['kept']:,}", rejects.counted(rows["rejected"]))
        for node in sorted(facts.nodes, key=lambda node: node.manifest["made"] if node.manifest else 0.0)
        if node.manifest and (rows := node.manifest["rows"])["in"]
    ]
    return "\n\n".join(
        [
            f"```sh\nsif run --config {config['name']}.yaml --stop-after publish\n```",
            "`" + config["name"] + ".yaml` has, besides the folders and the address of the annotator:",
            f"```yaml\nname: {config['name']}\n{yaml.safe_dump(settings, sort_keys=True, allow_unicode=True)}```",
            _table(("stage", "rows in", "kept", "rejected"), stages),
        ]
    )


def _limits(facts: Facts) -> str:
    models = ", ".join(facts.statistics.get("model", {})) or "no model"
    return "\n".join(
        [
            f"* The chains were written by {models}. A chain was kept where its boxes, depths and answer agree with the row; "
            "what it says beyond that nobody has checked.",
            "* Depths are estimated from one picture and are relative: 0 and 1 are the nearest and the farthest point of that "
            "picture, in no unit of length.",
            "* Steps before the last are drawn by a rule around the row's boxes. They are no record of where a person looked.",
        ]
    )


def _table(head: Sequence[str], rows: Any) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(
        lines
        + [
            "| " + " | ".join(str(cell).replace("|", r"\|").replace("\n", " ") for cell in row) + " |"
            for row in rows
        ]
    )
