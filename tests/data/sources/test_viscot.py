"""sources.viscot: real files, the padded square, sizes, formats by content, files that are cut or no JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sifthinker.config import Source
from sifthinker.core import boxes
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import SOURCES, files, viscot

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def conversation(
    pixels: Any = (96, 10, 300, 200), size: tuple[int, int] = (500, 333), **changes: Any
) -> dict[str, Any]:
    """A row as VisCoT's converter writes it."""
    canvas = boxes.to_padded(boxes.from_pixels(pixels, *size), *size)
    row = {
        "dataset": "gqa",
        "split": "train",
        "question_id": 2,
        "image": ["cot/gqa/1.jpg", f"cot/gqa/1.jpg###{[int(v) for v in pixels]}"],
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat is it? {viscot.BOX_SENTENCE}"},
            {"from": "gpt", "value": "[" + ", ".join(f"{v:.3f}" for v in canvas) + "]"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "a window"},
        ],
    }
    return row | changes


def metadata(**changes: Any) -> dict[str, Any]:
    row = {
        "question": "Is it?",
        "answer": "Yes",
        "image": "1.jpg",
        "width": 500,
        "height": 333,
        "bboxs": [[96.0, 10.0, 300.0, 200.0]],
        "dataset": "gqa",
        "split": "train",
    }
    return row | changes


def load(path: Path, **options: Any) -> list[Sample | Reject]:
    source = Source(name="v", format="viscot", path=path, **options)
    return list(SOURCES["viscot"](path, source.images, source))


def write(path: Path, rows: Sequence[Any]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(list(rows), indent=1))
    return path


def sized(
    folder: Path, rows: Sequence[dict[str, Any]], size: tuple[int, int] = (500, 333)
) -> dict[str, Path]:
    """The options that load conversations without images."""
    width, height = size
    entries = {
        row["image"][0]: {"img_path": row["image"][0], "width": width, "height": height} for row in rows
    }
    return {"sizes": write(folder / "sizes.jsonl", list(entries.values()))}


def only(found: Sequence[Sample | Reject]) -> Any:
    assert len(found) == 1
    return found[0]


@needs_data
@pytest.mark.parametrize(("name", "rows"), [("cub", 10_056), ("vsr", 3_376)])
def test_all_rows_of_the_real_metadata_load(name: str, rows: int) -> None:
    found = load(DATA / "viscot" / f"{name}_cot_train.jsonl")
    assert [reject for reject in found if isinstance(reject, Reject)] == []
    assert len(found) == rows
    assert len({sample.id for sample in found}) == rows


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "iou", "below"),
    [("cub", 492, 0.74, 0.002), ("gqa", 978, 0.55, 0.312), ("vsr", 404, 0.67, 0.146)],  # PAPER.md R2.1
)
def test_real_benchmark_boxes_agree_with_the_pixel_boxes_and_the_release_frame_does_not(
    name: str, rows: int, iou: float, below: float
) -> None:
    report = viscot.frame_report(
        DATA / "viscot" / f"benchmark_{name}.json", DATA / "viscot" / f"benchmark_det_{name}.jsonl"
    )
    assert (report["rows compared"], report["rows rejected"]) == (rows, 0)
    assert report["ingested box to ###, pixels"] < 1e-9
    assert (
        report["un-padded conversation box to ###, pixels"] < 1.33
    )  # truncation, and 3 decimals of 640 pixels
    assert report["ingested box to benchmark_det, pixels"] < 1  # truncation
    assert report["release frame, mean IoU"] == pytest.approx(iou, abs=0.005)
    assert report["release frame, share of IoU under 0.5"] == pytest.approx(below, abs=0.001)


@needs_data
@pytest.mark.parametrize("name", ["photos_conversations.json", "photos_cot_train.jsonl"])
def test_the_photographs_load_in_both_forms_with_the_same_boxes(name: str) -> None:
    samples = [
        s for s in load(DATA / "photos" / name, images=DATA / "photos" / "images") if isinstance(s, Sample)
    ]
    assert len(samples) == 20
    truth = [json.loads(line) for line in (DATA / "photos" / "photos_cot_train.jsonl").open()]
    for sample, row in zip(samples, truth, strict=True):
        assert (sample.question, sample.answer, sample.image) == (
            row["question"],
            row["answer"],
            row["image"],
        )
        assert (sample.width, sample.height) == (row["width"], row["height"])
        assert len(sample.image_sha256) == 64
        pixels = boxes.to_pixels(sample.boxes[0], sample.width, sample.height)
        truth_box = (
            boxes.hull(row["bboxs"]) if "conversations" in name else row["bboxs"][0]
        )  # VisCoT's converter
        assert pixels == pytest.approx(truth_box, abs=1)


def test_a_conversation_becomes_a_sample_with_the_pixel_box(tmp_path: Path) -> None:
    row = conversation()
    assert only(load(write(tmp_path / "a.json", [row]), **sized(tmp_path, [row]))) == Sample(
        id="v/gqa/2",
        source="v",
        dataset="gqa",
        split="train",
        question="What is it?",
        answer="a window",
        image="gqa/1.jpg",
        image_sha256="",
        width=500,
        height=333,
        boxes=((96 / 500, 10 / 333, 300 / 500, 200 / 333),),
    )


def test_the_release_frame_takes_the_conversation_box_as_it_is(tmp_path: Path) -> None:
    row = conversation()
    path = write(tmp_path / "a.json", [row])
    sample = only(load(path, frame="release", **sized(tmp_path, [row])))
    assert sample.boxes[0] == pytest.approx(json.loads(row["conversations"][1]["value"]))


sides = st.integers(20, 3000)


@given(width=sides, height=sides, data=st.data())
def test_whatever_the_converter_writes_is_not_a_disagreement(
    width: int, height: int, data: st.DataObject
) -> None:
    x1, y1 = data.draw(st.floats(0, width - 10)), data.draw(st.floats(0, height - 10))
    x2, y2 = data.draw(st.floats(x1 + 9, width)), data.draw(st.floats(y1 + 9, height))
    row = conversation((x1, y1, x2, y2), (width, height))
    canvas = tuple(json.loads(row["conversations"][1]["value"]))
    written = tuple(float(int(v)) for v in (x1, y1, x2, y2))
    viscot.fields._check_canvas(canvas, (written,), width, height)


def test_a_conversation_box_that_disagrees_is_a_reject_with_both_values(tmp_path: Path) -> None:
    row = conversation(image=["cot/gqa/1.jpg", "cot/gqa/1.jpg###[99, 10, 300, 200]"])  # 3 pixels off
    reject = only(load(write(tmp_path / "a.json", [row]), **sized(tmp_path, [row])))
    assert reject.reason == "box-mismatch"
    assert (reject.id, reject.file, reject.row, reject.field) == ("v/gqa/2", "a.json", 0, "conversations")
    assert "[96.0, 10" in reject.detail and "[99.0, 10.0, 300.0, 200.0]" in reject.detail


def test_several_boxes_stay_several(tmp_path: Path) -> None:
    bboxs = [[0, 0, 50, 50], [100, 0, 250, 333]]
    sample = only(load(write(tmp_path / "a.jsonl", [metadata(bboxs=bboxs)])))
    assert sample.boxes == ((0.0, 0.0, 0.1, 50 / 333), (0.2, 0.0, 0.5, 1.0))


@pytest.mark.parametrize(
    ("bbox", "kept"),
    [
        ([34.0, 33.0, 472.0, 359.0], [34, 33, 472, 333]),  # CUB's worst, 26 pixels below: 92 % is inside
        ([495.0, 0.0, 501.0, 10.0], [495, 0, 500, 10]),  # one pixel, of a box so small that it is much of it
        ([-0.4, 0.0, 20.0, 20.0], [0, 0, 20, 20]),
        ([400.0, 0.0, 520.0, 100.0], None),  # 83 % is inside
        ([500.0, 0.0, 501.0, 10.0], None),  # nothing is
        ([600.0, 0.0, 700.0, 10.0], None),
    ],
)
def test_a_box_slightly_beyond_the_image_is_clipped_and_more_is_a_reject(
    tmp_path: Path, bbox: list[float], kept: list[float] | None
) -> None:
    found = only(load(write(tmp_path / "a.jsonl", [metadata(bboxs=[bbox])])))
    if kept is None:
        assert (found.reason, found.row) == ("box-outside", 1)
    else:
        assert found.boxes == (boxes.from_pixels(kept, 500, 333),)


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("cot/gqa/1.jpg", "gqa/1.jpg"),
        ("cot/gqa/1.jpg", "1.jpg"),  # `images` is the folder of the data set
        ("cot/v7w/v7w_1.jpg", "visual7w/v7w_1.jpg"),  # the archive's name of the folder
        ("cot/cub/098.Scott_Oriole/1.jpg", "cub/098.Scott_Oriole/1.jpg"),  # the release loses this one
        ("vsr/1.jpg", "vsr/1.jpg"),
    ],
)
def test_an_image_path_is_found_where_the_archive_has_it(tmp_path: Path, written: str, on_disk: str) -> None:
    (tmp_path / "images" / on_disk).parent.mkdir(parents=True)
    Image.new("RGB", (500, 333)).save(tmp_path / "images" / on_disk)
    row = conversation(image=[written, f"{written}###[96, 10, 300, 200]"])
    assert only(load(write(tmp_path / "a.json", [row]), images=tmp_path / "images")).image == on_disk


def test_conversations_without_any_sizes_are_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the source `images` or `sizes`"):
        load(write(tmp_path / "a.json", [conversation()]))


def test_a_frame_report_of_the_wrong_files_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    row = conversation()
    path, sizes = write(tmp_path / "a.json", [row]), sized(tmp_path, [row])["sizes"]
    with pytest.raises(UserError, match="is not question"):
        viscot.frame_report(path, sizes)
    sizes.write_text(sizes.read_text().replace("}", ', "question_id": 2}'))
    with pytest.raises(UserError, match="entry 0: bbox"):
        viscot.frame_report(path, sizes)


def test_a_wrong_sizes_file_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [conversation()])
    with pytest.raises(UserError, match=r"sizes\.jsonl, row 1: no field 'img_path'"):
        load(path, sizes=write(tmp_path / "sizes.jsonl", [{"width": 1}]))


@pytest.mark.parametrize(
    "written", ["cot/gqa//1.jpg", "cot//gqa/1.jpg", "./cot/gqa/1.jpg", "cot/./gqa/1.jpg"]
)
def test_a_path_with_an_empty_place_is_the_path_without_it(tmp_path: Path, written: str) -> None:
    (tmp_path / "images" / "gqa").mkdir(parents=True)
    Image.new("RGB", (500, 333)).save(tmp_path / "images" / "gqa" / "1.jpg")
    row = conversation()
    row["image"] = [path.replace("cot/gqa/1.jpg", written) for path in row["image"]]
    path = write(tmp_path / "a.json", [row])
    assert only(load(path, images=tmp_path / "images")).image == "gqa/1.jpg"
    assert only(load(path, **sized(tmp_path, [conversation()]))).width == 500  # of the sizes' own spelling
    path = write(tmp_path / "b.jsonl", [metadata(image=written.partition("cot/")[2])])
    if not written.startswith("cot//"):  # which leaves a path from the root
        assert only(load(path, images=tmp_path / "images")).image == "gqa/1.jpg"


def test_a_row_of_neither_form_is_a_reject_and_the_file_is_read_on(tmp_path: Path) -> None:
    """Without images, `{}` was taken for a conversation, and the whole file was refused for want of sizes."""
    first, wrong, last = load(write(tmp_path / "a.jsonl", [metadata(), {}, metadata()]))
    assert isinstance(first, Sample) and isinstance(last, Sample)
    assert (wrong.reason, wrong.field, wrong.row) == ("missing-field", "conversations", 2)
    with pytest.raises(UserError, match="conversations hold no image sizes"):
        load(write(tmp_path / "b.json", [conversation()]))


def test_question_ids_count_within_a_data_set_and_a_repeated_one_is_a_reject(tmp_path: Path) -> None:
    rows = [conversation(), conversation(dataset="vsr"), conversation(split="val")]
    found = load(write(tmp_path / "a.json", rows), **sized(tmp_path, rows))
    assert [one.id for one in found] == ["v/gqa/2", "v/vsr/2", ""]
    assert isinstance(found[2], Reject)
    assert (found[2].reason, found[2].row) == ("duplicate-id", 2)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("form", ["array", "lines"])
def test_the_format_is_decided_by_content(tmp_path: Path, name: str, form: str) -> None:
    rows = [metadata(), metadata(question="And now?")]
    text = json.dumps(rows) if form == "array" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text("\ufeff" + text)  # editors leave a byte order mark
    assert [type(one) for one in load(tmp_path / name)] == [Sample, Sample]


def test_an_array_is_read_the_same_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [{"a": "déjà vu — 图片"}, 12345, [], {}, "x]", None, [[1, 2], {"b": "\\"}], 1.5e3]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
    for size in range(1, 40):
        monkeypatch.setattr(files, "CHUNK", size)
        assert list(files.rows(path)) == list(enumerate(values))


WHOLE = json.dumps([metadata(), metadata(question="2?")])
HALF = WHOLE.index('"2?"')


@pytest.mark.parametrize(
    ("text", "good", "message"),
    [
        (WHOLE[:HALF], 1, f"ends at byte {HALF} "),  # cut inside a row
        (WHOLE[: HALF + 2], 1, f"ends at byte {HALF + 2} "),  # cut inside a text
        (WHOLE[:-1], 2, f"ends at byte {len(WHOLE) - 1} "),  # only the last bracket is missing
        (WHOLE[:HALF] + "}" + WHOLE[HALF:], 1, f"not JSON at byte {HALF}, row 1"),
        (WHOLE.replace("}, {", "} {"), 1, f"not JSON at byte {WHOLE.index('}, {') + 2}, row 0"),
        (WHOLE + "]", 2, f"not JSON at byte {len(WHOLE)}"),
        ("[" * 100_000, 0, "not JSON at byte 1"),
        ("hello", 0, "not JSON: found b'hello' at byte 0"),
        ('{\n "rows": []\n}', 0, "at byte 0, expected a JSON array"),
        ("", 0, "it is empty"),
    ],
)
def test_a_file_that_is_cut_or_no_json_is_an_error_with_the_byte_after_its_good_rows(
    tmp_path: Path, text: str, good: int, message: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    source = Source(name="v", format="viscot", path=tmp_path / "a.json")
    found: list[Sample | Reject] = []
    with pytest.raises(UserError) as error:
        for one in SOURCES["viscot"](source.path, None, source):
            found.append(one)
    assert [type(one) for one in found] == [Sample] * good
    assert message in str(error.value) and "a.json" in str(error.value)


def test_a_lines_file_that_is_cut_is_an_error_with_the_byte_after_its_good_rows(tmp_path: Path) -> None:
    line = json.dumps(metadata())
    (tmp_path / "a.jsonl").write_text(line + "\n" + line[:40])
    source = Source(name="v", format="viscot", path=tmp_path / "a.jsonl")
    read = SOURCES["viscot"](source.path, None, source)
    assert isinstance(next(read), Sample)
    with pytest.raises(UserError, match=f"ends at byte {len(line) + 41} inside line 2"):
        next(read)


def test_a_missing_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "none.json")
