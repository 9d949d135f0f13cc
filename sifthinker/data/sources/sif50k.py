r"""SIF-50K as its authors published it, and as `sif export` writes it (PAPER.md F2.4): rows that bring their chains.

    {"dataset": "gqa", "image": "../data/gqa/2316539.jpg", "depth_image": "../data/gqa/2316539_d.png", "problem": "{Q}",
     "normalized_solution_round": {"bbox_3d": [[0.542, 0.686, 0.592, 0.786]], "illegal_content": false},
     "response": "window",
     "messages": [{"content": "Original image: <image>\n…{Q} …", "role": "user"},
                  {"content": "<think>\n<area>[{\"bbox_2d\": …, \"depth\": …}]</area>\n<text>…", "role": "assistant"}],
     "images": [the same two paths]}

Both files have this form: all rows for SFT, and the 200 rows for RL. Ids are `<source>/<dataset>/<digest>`, the digest being
that of data set, image name, question and answer. So a row that is there twice is found, and a row of the second file
is found in the first (`publish.rl_file`).

What the boxes are (`frame`, of `bbox_3d` and of the chain alike):

* `padded`, the default: the authors' file. The boxes of VisCoT's data sets are on the square-padded canvas (R2.1), and are
  brought to the image; TallyQA's are of the image.
* `release`: the same file, read as the authors' code reads it: all numbers are of the image. For comparison only.
* `fractions`: 0..1 of the image itself, as `sif export` writes them.

Paths may begin with folders that are not there any more (`../data/`, or those of another machine): an image is looked for
under its whole path, then without the first folder, then without the second, and so on, always inside `images`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import images
from sifthinker.core.errors import BadRow
from sifthinker.data.sources import fields, frames
from sifthinker.data.sources.fields import Parse, Row

MOST_CHAIN = 50_000  # characters of a chain; the authors' have about 1,500
SPLIT = "train"
_SOLUTION = "normalized_solution_round"
_AWAY = re.compile(r"^(?:[A-Za-z]:)?(?:/|\.{1,2}/)*")  # a drive, a root, and ways up


def parser(path: Path, images: Path | None, config: config.Source, frame: str) -> Parse:
    """What makes a row of a value of the file."""

    def parse(number: int, value: Mapping[str, Any]) -> Row:
        return _parse(number, value, path.name, config)

    return parse


def identity(value: Mapping[str, Any], source: str) -> str:
    """The id of a row in a source of that name.

    Raises:
        BadRow: a field that it is made of is missing or has a wrong type.
    """
    dataset, answer = _dataset(value), fields.label(fields.member(value, "response"), "response")
    image = fields.text(fields.member(value, "image"), "image").rpartition("/")[2]
    said = "\0".join((dataset, image, fields.text(fields.member(value, "problem"), "problem"), answer))
    return f"{source}/{dataset}/{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _parse(number: int, value: Mapping[str, Any], file: str, source: config.Source) -> Row:
    dataset = _dataset(value)
    solution = fields.member(value, _SOLUTION)
    if not isinstance(solution, dict):
        raise BadRow(
            "wrong-type", f"{_SOLUTION} must be an object, found {fields.short(solution)}", _SOLUTION
        )
    if solution.get("illegal_content", False) is not False:
        raise BadRow("illegal-content", "the file marks the row's content as illegal; drop it", _SOLUTION)
    frame = frame_of(source.frame, dataset)
    question = fields.question(fields.member(value, "problem"))
    image = fields.text(fields.member(value, "image"), "image")
    return Row(
        id=identity(value, source.name),
        source=source.name,
        dataset=dataset,
        split=SPLIT,
        question=question,
        answer=fields.answer(fields.member(value, "response"), "response"),
        images=_places(image),
        width=0,
        height=0,
        boxes=fields.some_boxes(fields.member(solution, "bbox_3d"), _SOLUTION, frame),
        canvas=None,
        frame=frame,
        file=file,
        number=number,
        chain=_chain(fields.member(value, "messages"), question),
        depth_image=_depth_image(value.get("depth_image")),
    )


def _depth_image(found: Any) -> tuple[str, ...]:
    """Where a row's depth picture may lie; none where it has none.

    Raises:
        BadRow: "not-utf8".
    """
    if not isinstance(found, str) or not found.strip():
        return ()
    fields.encodable(found, "depth_image")
    return _places(found)


def frame_of(declared: str, dataset: str) -> str:
    """What the boxes of a data set's rows are, of `bbox_3d` and of the chain: a frame of `frames.in_pixels`."""
    if declared == frames.UNDECLARED:
        return "fractions" if dataset.lower() == frames.TALLYQA else frames.CANVAS
    return "fractions" if declared == "release" else declared


def _dataset(value: Mapping[str, Any]) -> str:
    return fields.text(fields.member(value, "dataset"), "dataset")


def _places(path: str) -> tuple[str, ...]:
    """Where an image may lie in the image folder: its path, and that without its first folders."""
    parts = images.confined(images.tidy(_AWAY.sub("", path.strip()))).split("/")
    return tuple("/".join(parts[start:]) for start in range(len(parts)))


def _chain(found: Any, question: str) -> str:
    """The assistant's turn of a row's messages.

    Raises:
        BadRow: "wrong-type", "wrong-turns", "question-mismatch", "empty", "not-utf8" or "text-too-long".
    """
    field = "messages"
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        raise BadRow("wrong-type", f"messages must be a list of turns, found {fields.short(found)}", field)
    speakers = [turn.get("role") for turn in found]
    if speakers[-2:] != ["user", "assistant"] or speakers[:-2] not in ([], ["system"]):
        detail = f"turns must be of user and assistant, found {fields.short(speakers)}; mend the row"
        raise BadRow("wrong-turns", detail, field)
    asked, chain = (fields.member(turn, "content") for turn in found[-2:])
    for said in (asked, chain):
        if not isinstance(said, str):
            raise BadRow("wrong-type", f"a turn's content must be text, found {fields.short(said)}", field)
        if len(said) > MOST_CHAIN:
            detail = f"a turn has {len(said):,} characters, at most {MOST_CHAIN:,} are taken; drop the row"
            raise BadRow("text-too-long", detail, field)
        fields.encodable(said, field)
    if question not in asked:
        detail = f"the user's turn does not hold the problem {fields.short(question)}; mend the row"
        raise BadRow("question-mismatch", detail, field)
    if not chain.strip():
        raise BadRow("empty", "the assistant's turn is empty; drop the row", field)
    return str(chain)
