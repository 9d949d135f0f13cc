"""TallyQA counting questions with boxes of what is counted, in the schema of GRIT (PAPER.md F2.3).

TallyQA itself has no boxes; `tallyqa_val.jsonl` of yfan1997/GRIT_data has (491 rows), and
zsxm1998/GRIT-TallyQA-Relabeled has the same questions with a box for every counted thing. The release reads the same
rows as a JSON array; both are read here:

    {"question": "How many eyes are visible?", "answer": 2, "image": "VG_100K/2410408.jpg",
     "width": 451, "height": 300, "bboxs": [[136.2, 83.4, 207.91, 148.5], [295.86, 108.9, 342.76, 163.8]],
     "dataset": "tallyqa", "split": "train"}

Boxes are in pixels of the image. The release needs neither width and height (they then come from the image) nor
data set and split ("tallyqa", "train"). `image` is relative to the image folder. Ids are
`<source>/<dataset>/<question_id>`, without a question_id `<source>/<dataset>/row<number>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import images
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Box
from sifthinker.data.sources import fields
from sifthinker.data.sources.fields import Parse, Row

PUBLISHED = "hub: yfan1997/GRIT_data (tallyqa_val.jsonl), zsxm1998/GRIT-TallyQA-Relabeled"
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


def parser(path: Path, images: Path | None, config: config.Source, frame: str) -> Parse:
    """What makes a row of a value of the file."""

    def parse(number: int, value: Mapping[str, Any]) -> Row:
        return _parse(number, value, path.name, config, frame)

    return parse


def _parse(number: int, value: Mapping[str, Any], file: str, source: config.Source, frame: str) -> Row:
    dataset = fields.text(value.get("dataset", "tallyqa"), "dataset")
    image = fields.text(fields.member(value, "image"), "image")
    image = images.confined(images.tidy(image))
    width, height = fields.size(value)
    answer = fields.answer(fields.member(value, "answer"))
    found = _boxes(value, frame)
    _check_count(answer, len(found))
    return Row(
        id=fields.identity(number, value, source.name, dataset),
        source=source.name,
        dataset=dataset,
        split=fields.text(value.get("split", "train"), "split"),
        question=fields.question(fields.member(value, "question")),
        answer=answer,
        images=(image,),
        width=width,
        height=height,
        boxes=found,
        canvas=None,
        frame=frame,
        file=file,
        number=number,
    )


def _boxes(value: Mapping[str, Any], frame: str) -> tuple[Box, ...]:
    if "bboxs" not in value:
        detail = (
            "no field bboxs: TallyQA's own files (train.json, test.json) have no boxes; give GRIT's file "
            f"(tallyqa_val.jsonl) or its relabelled one as `path`: {PUBLISHED}"
        )
        raise BadRow("no-box", detail, "bboxs")
    return fields.some_boxes(value["bboxs"], "bboxs", frame)


def _check_count(answer: str, boxes: int) -> None:
    """Refuses a count that differs from the number of boxes: its chain would end on fewer things than it counts.

    Raises:
        BadRow: "count-mismatch".
    """
    if _COUNT.fullmatch(answer) and int(answer) != boxes:
        detail = (
            f"the answer is {answer}, and there are {boxes} boxes; a counted thing has a box each: mend the row, or give "
            f"the relabelled file as `path`: {PUBLISHED}"
        )
        raise BadRow("count-mismatch", detail, "bboxs")
