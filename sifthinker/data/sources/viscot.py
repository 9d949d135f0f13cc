r"""Visual-CoT (VisCoT), in the two forms its users have; which one a row is in is decided by the row.

Conversations (`viscot_363k.json`, benchmark `<name>.json`; a JSON array):

    {"dataset": "flickr30k", "split": "train", "question_id": 2,
     "image": ["cot/flickr30k/1021439420.jpg", "cot/flickr30k/1021439420.jpg###[303, 96, 486, 289]"],
     "conversations": [
       {"from": "human", "value": "<image>\n{Q} Please provide the bounding box coordinate of the region that
                                   can help you answer the question better."},
       {"from": "gpt", "value": "[0.606, 0.358, 0.972, 0.744]"},
       {"from": "human", "value": "<image>"},
       {"from": "gpt", "value": "{A}"}]}

The box after ### is in pixels and is the one that is kept. The box of turn 1 is on the image padded to a
square; it is un-padded and compared (`_row._check_canvas`). The release reads it as if it were on the image
(PAPER.md R2.1); `frame: release` does that too, without comparing. The rows hold no image size: it comes
from the image, or from `sizes`, a benchmark_det file:

    {"img_path": "cot/gqa/2316539.jpg", "expression": "{Q}", "bbox": [217, 343, 242, 393], "height": 500,
     "width": 391, "question_id": 7, "split": "val"}

Metadata (`<name>_cot_train.jsonl`; one row a line, `image` relative to the data set's folder):

    {"question": "{Q}", "answer": "{A}", "image": "000000068878.jpg", "width": 640, "height": 640,
     "bboxs": [[34.41, 379.87, 608.34, 615.23]], "dataset": "vsr", "split": "train"}

Ids are `<source>/<dataset>/<question_id>`, where a row has no question_id `<source>/<dataset>/row<number>`
(line from 1, index from 0). question_id counts within a data set; of rows with the same one in one data set the
first good one is kept.

Where images lie: `cot/gqa/x.jpg` and the metadata image `x.jpg` of gqa are `<images>/gqa/x.jpg`, or
`<images>/x.jpg` where that does not exist, so `images` is `cot_image_data` or the folder of one data set. Only a
leading `cot/` stands for the folder (the release drops every "cot", also Scott_Oriole's). v7w is looked for in
`visual7w` too and the other way round; textcap's images are textvqa's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from sifthinker import config
from sifthinker.core import boxes, images
from sifthinker.core.errors import BadRow, UserError
from sifthinker.core.records import Box, Reject
from sifthinker.data.sources import fields, frames
from sifthinker.data.sources.fields import Parse, Row
from sifthinker.data.sources.files import rows

BOX_SENTENCE = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)
_TURNS = ["human", "gpt", "human", "gpt"]
_FOLDERS = {  # other names of a data set's folder
    "v7w": ("visual7w",),
    "visual7w": ("v7w",),
    "textcap": ("textvqa",),
}


def parser(path: Path, images: Path | None, config: config.Source, frame: str) -> Parse:
    """What makes a row of a value of the file.

    Raises:
        UserError: `config.sizes` is not a benchmark_det file; from what is returned, neither `images` nor `config.sizes`
            is there to tell the sizes of conversations.
    """
    sizes = _sizes(config.sizes) if config.sizes else {}

    def parse(number: int, value: Mapping[str, Any]) -> Row:
        if "question" in value or "bboxs" in value:
            return _metadata(number, value, path.name, config, frame)
        if "conversations" not in value:
            detail = (
                "neither a question with bboxs nor conversations, so the row is of neither form; add them or drop the row; "
                f"found {sorted(value)[:12]}"
            )
            raise BadRow("missing-field", detail, "conversations")
        if images is None and not sizes:
            raise UserError(f"{path}: conversations hold no image sizes; give the source `images` or `sizes`")
        return _conversation(number, value, path.name, config, sizes, images is None)

    return parse


def read(path: Path, config: config.Source) -> Iterator[Row | Reject]:
    """The rows of a file without images.

    Raises:
        UserError: see `parser`; the file cannot be read.
    """
    parse = parser(path, None, config, frames.recognised(path, config.frame))
    return fields.checked(rows(path), parse, config.name, path.name)


def frame_report(path: Path, sizes: Path) -> dict[str, float]:
    """Compares the conversation boxes of a benchmark file with its pixel boxes and its benchmark_det file.

    Figures by what they are. Differences are of the worst edge of all rows, in pixels: of what is ingested and of
    the un-padded conversation box (three decimals) to the box after ### (whole pixels), and of what is ingested to
    the box of benchmark_det, which is not truncated. Pixel boxes count as far as they are inside the image.

    Raises:
        UserError: a file cannot be read, or there is no row to compare.
    """
    source = config.Source(name="frame", format="viscot", path=path, sizes=sizes)
    truth = [value for _, value in rows(sizes)]  # row by row the questions of `path`
    kept = canvas = exact = 0.0
    overlaps: list[float] = []
    rejected = 0
    for row in read(path, source):
        sample = row if isinstance(row, Reject) else fields.finish(row, None)
        if isinstance(row, Reject) or isinstance(sample, Reject) or row.canvas is None:
            rejected += 1
            continue
        width, height = sample.width, sample.height
        if row.number >= len(truth) or not row.id.endswith(f"/{truth[row.number].get('question_id')}"):
            raise UserError(
                f"{sizes}: entry {row.number} is not question {row.id} of {path}; give its own file"
            )
        ingested = boxes.to_pixels(boxes.hull(sample.boxes), width, height)
        written = boxes.hull(row.boxes)
        unpadded = boxes.to_pixels(boxes.from_padded(row.canvas, width, height), width, height)
        kept = max(kept, _distance(ingested, _inside(written, width, height)))
        canvas = max(canvas, _distance(unpadded, written))
        try:
            det = fields.box(truth[row.number].get("bbox"), "bbox")
        except BadRow as error:
            raise UserError(f"{sizes}: entry {row.number}: {error.detail}") from error
        exact = max(exact, _distance(ingested, _inside(det, width, height)))
        overlaps.append(boxes.iou(row.canvas, boxes.hull(sample.boxes)))
    if not overlaps:
        raise UserError(f"{path}: no row with a box to compare ({rejected} rejected)")
    return {
        "rows compared": len(overlaps),
        "rows rejected": rejected,
        "ingested box to ###, pixels": round(kept, 3),
        "un-padded conversation box to ###, pixels": round(canvas, 3),
        "ingested box to benchmark_det, pixels": round(exact, 3),
        "release frame, mean IoU": round(sum(overlaps) / len(overlaps), 4),
        "release frame, share of IoU under 0.5": round(sum(o < 0.5 for o in overlaps) / len(overlaps), 4),
    }


def _distance(a: Box, b: Box) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _inside(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def _sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Width and height of every image of a benchmark_det file, by `_key` of its path."""
    sizes: dict[str, tuple[int, int]] = {}
    for number, value in rows(path):
        try:
            if isinstance(value, BadRow):
                raise value
            if not isinstance(value, dict):
                raise BadRow("wrong-type", "not a JSON object")
            image = fields.text(fields.member(value, "img_path"), "img_path")
            size = fields.size(value)
        except BadRow as error:
            raise UserError(
                f"{path}, row {number}: {error.detail}; `sizes` is a benchmark_det file"
            ) from error
        if sizes.setdefault(_key(image), size) != size:
            raise UserError(
                f"{path}, row {number}: {image} is {size} here and {sizes[_key(image)]} before; mend it"
            )
    return sizes


def _key(image: str) -> str:
    return images.tidy(image).replace("cot/visual7w/", "cot/v7w/", 1)


def _metadata(number: int, value: Mapping[str, Any], file: str, source: config.Source, frame: str) -> Row:
    dataset = fields.text(fields.member(value, "dataset"), "dataset")
    image = fields.text(fields.member(value, "image"), "image")
    width, height = fields.size(value)
    return Row(
        id=fields.identity(number, value, source.name, dataset),
        source=source.name,
        dataset=dataset,
        split=fields.text(fields.member(value, "split"), "split"),
        question=fields.question(fields.member(value, "question")),
        answer=fields.answer(fields.member(value, "answer")),
        images=_places(dataset, image),
        width=width,
        height=height,
        boxes=fields.some_boxes(value.get("bboxs"), "bboxs", frame),
        canvas=None,
        frame=frame,
        file=file,
        number=number,
    )


def _conversation(
    number: int,
    value: Mapping[str, Any],
    file: str,
    source: config.Source,
    sizes: Mapping[str, tuple[int, int]],
    unopened: bool,
) -> Row:
    dataset = fields.text(fields.member(value, "dataset"), "dataset")
    split = fields.text(fields.member(value, "split"), "split")
    image, pixels = _image(fields.member(value, "image"))
    question, canvas, answer = _turns(fields.member(value, "conversations"))
    width, height = sizes.get(_key(image), (0, 0))
    if unopened and not width:
        raise BadRow(
            "size-missing", f"{image} is not in {source.sizes}; give its size or the images", "image"
        )
    leading, _, rest = images.tidy(image).partition("/")
    folder, _, name = rest.partition("/")
    return Row(
        id=fields.identity(number, value, source.name, dataset),
        source=source.name,
        dataset=dataset,
        split=split,
        question=question,
        answer=answer,
        images=_places(folder, name) if leading == "cot" and name else _places("", image),
        width=width,
        height=height,
        boxes=pixels,
        canvas=canvas,
        frame=source.frame,
        file=file,
        number=number,
    )


def _places(folder: str, name: str) -> tuple[str, ...]:
    """Where an image of a data set may lie in the image folder, likeliest first."""
    name = images.confined(images.tidy(name))
    folder = images.tidy(folder)
    if not folder:
        return (name,)
    images.confined(folder)
    return (*(f"{known}/{name}" for known in (folder, *_FOLDERS.get(folder, ()))), name)


def _image(found: Any) -> tuple[str, tuple[Box, ...]]:
    """Path and pixel boxes of a conversation's `image`."""
    if not isinstance(found, list) or not found:
        raise BadRow("wrong-type", f"image must be [path, path###box], found {fields.short(found)}", "image")
    image = fields.text(found[0], "image")
    path, mark, written = (
        fields.text(found[1], "image").partition("###") if len(found) > 1 else (image, "", "")
    )
    if not mark:
        raise BadRow("no-box", "image holds no box after ###; add one or drop the row", "image")
    if len(found) > 2 or path != image:
        raise BadRow(
            "image-mismatch", f"image names more than one picture: {fields.short(found)}; mend it", "image"
        )
    value = _json(written, "image")
    several = isinstance(value, list) and bool(value) and isinstance(value[0], list)
    return image, fields.some_boxes(value if several or value == [] else [value], "image")


def _turns(found: Any) -> tuple[str, Box, str]:
    """Question, box on the canvas and answer of the four turns."""
    field = "conversations"
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        raise BadRow(
            "wrong-type", f"conversations must be a list of turns, found {fields.short(found)}", field
        )
    if (speakers := [turn.get("from") for turn in found]) != _TURNS:
        raise BadRow(
            "wrong-turns", f"turns must be from {_TURNS}, found {fields.short(speakers)}; mend the row", field
        )
    question, canvas, _, answer = (fields.member(turn, "value") for turn in found)
    if isinstance(question, str):
        question = question.strip().removeprefix("<image>").removesuffix(BOX_SENTENCE)
    return (
        fields.question(question),
        fields.box(_json(fields.text(canvas, field), field), field),
        fields.answer(answer),
    )


def _json(written: str, field: str) -> Any:
    try:
        return orjson.loads(written)
    except ValueError as error:
        raise BadRow(
            "wrong-type", f"{field}: a box is [x1, y1, x2, y2], found {fields.short(written)}", field
        ) from error
