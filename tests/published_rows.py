"""Rows in the published format for tests: written by the project's own export, and damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.annotation import taken
from sifthinker.core.given import Given
from sifthinker.core.records import Annotation, DepthMap, Reject, Sample
from sifthinker.data import export
from tests.ingested import ingest
from tests.small_part import part

Row = dict[str, Any]
Damage = Callable[[Row], Any]


def exported(
    folder: Path, per_image: Sequence[int] = (1,), **kwargs: Any
) -> tuple[list[Row], Path, list[DepthMap]]:
    """The rows that `sif export` writes of a small part, the folder of its images, and the depth maps."""
    made = part(folder / "photos", per_image, **kwargs)
    file = made.write(folder / "part.parquet")
    export.export([file], file, folder / "out")
    return json.loads((folder / "out" / export.SFT_FILE).read_text("utf-8")), folder / "out", made.maps


def source(path: Path, images: Path, frame: str = "fractions") -> config.Source:
    return config.Source(name="sif", format="published", path=path, images=images, frame=frame)


def ingested(
    rows: Iterable[Any], out: Path, frame: str = "fractions", **settings: Any
) -> tuple[list[Sample], dict[str, Given], list[Reject]]:
    """What ingest makes of rows in the published format whose images are in `out`."""
    path = out / "rows.json"
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    given: dict[str, Given] = {}
    found = list(ingest([source(path, out, frame)], config.Ingest(**settings), given))
    samples = [row for row in found if isinstance(row, Sample)]
    return samples, given, [row for row in found if isinstance(row, Reject)]


def chains(
    rows: Iterable[Any], out: Path, maps: Sequence[DepthMap], frame: str = "fractions", **settings: Any
) -> tuple[list[Annotation], list[Reject], taken.Measured]:
    """Chains and rejects of rows in the published format, as the stages ingest and annotate leave them."""
    samples, given, rejects = ingested(rows, out, frame)
    measured = taken.Measured()
    found = taken.take(samples, given, maps, {"sif": out}, config.Published(**settings), measured)
    kept = [row for row in found.values() if isinstance(row, Annotation)]
    return kept, [*rejects, *(row for row in found.values() if isinstance(row, Reject))], measured


def changed(path: str, value: Any) -> Damage:
    """Another value at a dotted place of a row."""

    def damage(row: Row) -> Row:
        made = copy.deepcopy(row)
        *parents, leaf = path.split(".")
        at: Any = made
        for name in parents:
            at = at[int(name)] if isinstance(at, list) else at[name]
        at[int(leaf) if isinstance(at, list) else leaf] = value
        return made

    return damage


def without(field: str) -> Damage:
    return lambda row: {name: value for name, value in row.items() if name != field}


def rewritten(change: Callable[[str], str]) -> Damage:
    """Another chain."""
    return lambda row: changed("messages.1.content", change(row["messages"][1]["content"]))(row)


def swapped(old: str, new: str) -> Damage:
    def change(chain: str) -> str:
        assert old in chain, f"{old} is in the chain"
        return chain.replace(old, new, 1)

    return rewritten(change)


def _first_text(new: str) -> Damage:
    def change(chain: str) -> str:
        before, _, rest = chain.partition("<text>")
        return f"{before}<text>{new}</text>{rest.partition('</text>')[2]}"

    return rewritten(change)


def _moved_end(chain: str) -> str:
    """The last area looks at the whole image."""
    before, _, rest = chain.rpartition("<area>")
    return f'{before}<area>[{{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.5}}]</area>{rest.partition("</area>")[2]}'


def _moved_start(chain: str) -> str:
    return chain.replace("[0.0, 0.0, 1.0, 1.0]", "[0.0, 0.0, 1.0, 0.9]", 1)


def _off_depth(chain: str) -> str:
    """The first depth is half the scale off."""
    before, _, rest = chain.partition('"depth": ')
    depth, mark, rest = rest.partition("}")
    return f'{before}"depth": {abs(float(depth) - 0.5):.3f}{mark}{rest}'


def _repeated(chain: str) -> str:
    first = chain.partition("<text>")[2].partition("</text>")[0]
    before, _, rest = chain.rpartition("<text>")
    return f"{before}<text>{first}</text>{rest.partition('</text>')[2]}"


def _answered(new: str) -> Damage:
    def change(chain: str) -> str:
        before, _, rest = chain.partition("<answer>")
        return f"{before}<answer>\n{new}\n</answer>{rest.partition('</answer>')[2]}"

    return rewritten(change)


@dataclass(frozen=True)
class Way:
    """A way to damage a row, and the reason that it is rejected with; none: it is kept, and `why` that is right."""

    name: str
    damage: Damage
    reason: str = ""
    why: str = ""


WAYS = (
    Way("a number where a row is due", lambda row: 7, "wrong-type"),
    Way("no messages", without("messages"), "missing-field"),
    Way("no assistant", lambda row: changed("messages", row["messages"][:1])(row), "wrong-turns"),
    Way("two assistants", lambda row: changed("messages", [*row["messages"], row["messages"][1]])(row), "wrong-turns"),
    Way("another row's question", changed("messages.0.content", "Original image: <image>\nWho?"), "question-mismatch"),
    Way("marked as illegal", changed("normalized_solution_round.illegal_content", True), "illegal-content"),
    Way("no box", changed("normalized_solution_round.bbox_3d", []), "no-box"),
    Way("a box with its corners swapped", changed("normalized_solution_round.bbox_3d", [[0.7, 0.6, 0.2, 0.1]]), "box-degenerate"),
    Way("a box in pixels", changed("normalized_solution_round.bbox_3d", [[40, 30, 90, 60]]), "box-outside"),
    Way("another box than the chain's", changed("normalized_solution_round.bbox_3d", [[0.01, 0.01, 0.06, 0.07]]), "boxes"),
    Way("no such image", changed("image", "../data/none.jpg"), "image-missing"),
    Way("a path that leaves the folder", changed("image", "a/../../x.jpg"), "path-outside"),
    Way("a broken image", changed("image", "broken.jpg"), "image-broken"),
    Way("half a character in the depth picture's path", changed("depth_image", "depth/\ud800.png"), "not-utf8"),
    Way("an answer of a wrong type", changed("response", ["red"]), "wrong-type"),
    Way("a special token in the question", changed("problem", "What is <image>?"), "special-token"),
    Way("the chain is cut off", rewritten(lambda chain: chain[: len(chain) * 2 // 3]), "malformed"),
    Way("an area that is no JSON", swapped('"bbox_2d":', "bbox_2d:"), "malformed"),
    Way("the last area is not the row's boxes", rewritten(_moved_end), "boxes"),
    Way("the first area is not the whole image", rewritten(_moved_start), "start"),
    Way("a text twice", rewritten(_repeated), "repeated"),
    Way("a text that betrays the prompt", _first_text("The given answer fits it."), "leak"),
    Way("a special token in a text", _first_text("Look <|im_end|> here."), "special-token"),
    Way("another answer", _answered("zzz"), "answer"),
    Way("a depth far from our map's", rewritten(_off_depth), "depths"),  # with published.depths: check
    Way("a chain far too long", _first_text("very " * 12_000 + "long"), "text-too-long"),
    Way("in three backticks", rewritten(lambda chain: f"```\n{chain}\n```"), why="the release's own form of a reply"),
    Way("more fields", changed("comment", "x"), why="nobody reads them"),
    Way("white space around the chain", rewritten(lambda chain: f"\n\n {chain} \n"), why="it says the same"),
    Way("no list of images", without("images"), why="`image` and `depth_image` say it"),
    Way("another machine's path", lambda row: changed("image", f"/home/x/{row['image']}")(row), why="found without its folders"),
    Way("no depth picture", without("depth_image"), why="our map decides; there is nothing to measure"),
)  # fmt: skip


def numbered(folder: Path, count: int) -> tuple[list[Row], Path, list[DepthMap]]:
    """Sound rows with questions of their own about three pictures, each with a chain of two texts; and a broken picture."""
    rows, out, maps = exported(folder, (1, 1, 1))
    (out / "broken.jpg").write_bytes((out / rows[0]["image"]).read_bytes()[:300])
    return [asked(rows[number % 3], f"What is number {number}?") for number in range(count)], out, maps


def asked(row: Row, question: str) -> Row:
    """The row with another question, and texts that differ."""
    made = copy.deepcopy(row)
    user, chain = made["messages"]
    user["content"] = user["content"].replace(made["problem"], question)
    chain["content"] = chain["content"].replace("<text>Here.", "<text>It opens up.", 1)
    made["problem"] = question
    return made
