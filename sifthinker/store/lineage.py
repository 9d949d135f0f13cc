"""What an artifact was made from, back to the users' files and the pre-trained weights.

The chain is read from the manifests alone. An artifact that is gone from the store is a gap in it.
`sifthinker.reporting.lineage_picture` draws it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import sha256
from sifthinker.store.manifest import Ref

SHORT = 10  # hex digits of a key or a digest that are shown
Manifests = Callable[[str, str], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Node:
    """An artifact in the chain."""

    name: str  # <stage>/<key>
    digest: str
    manifest: Mapping[str, Any] | None  # None: gone from the store, and what it was made from is not known
    inputs: tuple[tuple[str, str], ...]  # what it was to its maker ("base"), and its name

    @property
    def label(self) -> str:
        """Of its stage in the flow; of one that is gone, the stage."""
        return str(self.manifest["label"]) if self.manifest else self.name.partition("/")[0]

    @property
    def key(self) -> str:
        """Its key in the store."""
        return self.name.partition("/")[2]

    @property
    def is_model(self) -> bool:
        """Whether it holds weights."""
        named = [*self.manifest["files"], *self.manifest.get("external", ())] if self.manifest else []
        return any(name.endswith(".safetensors") or name == "path" for name in named)

    @property
    def made(self) -> str:
        """When, and how long it took."""
        if self.manifest is None:
            return "gone from the store"
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.manifest["made"]))
        return f"{at}, {self.manifest['seconds']:,.1f} s"

    @property
    def rows(self) -> str:
        """How many rows came in, were kept and were rejected."""
        if self.manifest is None:
            return ""
        rows = self.manifest["rows"]
        lost = sum(rows["rejected"].values())
        return f"{rows['in']:,} in, {rows['kept']:,} kept" + (f", {lost:,} rejected" if lost else "")

    @property
    def code(self) -> str:
        """The digest of all modules that it was made with, and torch where it was there."""
        if self.manifest is None:
            return ""
        code = sha256(self.manifest["identity"]["code"])[:SHORT]
        torch = self.manifest["versions"].get("torch")
        return f"code {code}" + (f", torch {torch}" if torch else "")

    @property
    def doubts(self) -> str:
        """What about it was not the real thing."""
        notes = self.manifest["notes"] if self.manifest else {}
        said = {
            "toy": "random toy",
            "miniature": "miniature",
            "standin": "answers of the stand-in",
        }
        return ", ".join(text for name, text in said.items() if notes.get(name))


def named(store: Store, text: str) -> Ref | None:
    """The artifact of <stage>/<key>, whose key may be cut short; None where the text is of another form.

    Raises:
        UserError: the store has none of that name, or several.
    """
    if not re.fullmatch(r"[a-z_]+(\.parts)?/[0-9a-f]+", text):
        return None
    stage, _, start = text.partition("/")
    keys = [str(m["key"]) for m in store.manifests(stage) if str(m["key"]).startswith(start)]
    if not keys and (manifest := store.manifest(stage, start)):  # on the remote alone
        keys = [str(manifest["key"])]
    if len(keys) != 1:
        found = (
            f"fits {', '.join(keys)}; write more of it" if keys else "is not in the store; see `sif status`"
        )
        raise UserError(f"artifact {text}: {found}")
    manifest = store.manifest(stage, keys[0])
    assert manifest
    return Ref(stage=stage, key=keys[0], digest=manifest["digest"])


def trace(manifests: Manifests, ref: Ref) -> dict[str, Node]:
    """The artifact and everything that it was made from, by name: what is made from others before them, it itself first.

    Args:
        manifests: the manifest of a stage and a key, None where there is none (`Store.manifest`).
        ref: of the artifact.
    """
    nodes: dict[str, Node] = {}
    ahead = [ref]
    while ahead:
        ref = ahead.pop(0)
        name = f"{ref.stage}/{ref.key}"
        if name in nodes:
            continue
        try:
            manifest = manifests(ref.stage, ref.key)
        except ValueError:  # not JSON: as good as gone
            manifest = None
        given = {role: Ref(**of) for role, of in manifest["inputs"].items()} if manifest else {}
        inputs = tuple((role, f"{of.stage}/{of.key}") for role, of in given.items())
        nodes[name] = Node(name, ref.digest, manifest, inputs)
        ahead += given.values()
    depth: dict[str, int] = {}

    def below(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((below(of) for _, of in nodes[name].inputs), default=0)
        return depth[name]

    return {name: nodes[name] for name in sorted(nodes, key=below, reverse=True)}


def tree(nodes: Mapping[str, Node]) -> Iterator[tuple[str, Node | None]]:
    """Lines of a tree, and the node of each; one that stands above already is named again without its own inputs."""
    seen: set[str] = set()

    def lines(name: str, role: str, first: str, rest: str) -> Iterator[tuple[str, Node | None]]:
        node = nodes[name]
        what = f"{role}: {node.label}" if role else node.label
        if name in seen:
            yield f"{first}{what} {node.key[:SHORT]} (above)", None
            return
        seen.add(name)
        yield f"{first}{what} {node.key[:SHORT]}", node
        files = node.manifest["identity"].get("files", {}) if node.manifest else {}
        last = len(node.inputs) + len(files) - 1
        for number, (role_, input_) in enumerate(node.inputs):
            end = number == last
            yield from lines(
                input_, role_, f"{rest}{'└─ ' if end else '├─ '}", f"{rest}{'   ' if end else '│  '}"
            )
        for number, (file, digest) in enumerate(files.items(), len(node.inputs)):
            yield f"{rest}{'└─ ' if number == last else '├─ '}file {file}: {digest[:SHORT]}", None

    yield from lines(next(iter(nodes)), "", "", "")


def table(nodes: Mapping[str, Node]) -> str:
    """The same in Markdown, a row an artifact."""
    head = ["| artifact | from | made | rows | with | digest |", "|---|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| **{node.label}** `{node.name}` | {', '.join(dict.fromkeys(nodes[of].label for _, of in node.inputs))} "
            f"| {node.made} | {node.rows} | {'; '.join(filter(None, (node.code, node.doubts)))} "
            f"| `{node.digest[:SHORT]}` |"
            for node in nodes.values()
        ]
    )
