"""sources.tallyqa: the GRIT schema, as an array and as lines, with sizes in the file or from the image."""

import json
from pathlib import Path

import pytest

from sifthinker.config import Source
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import SOURCES

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
ROW = {
    "question": "How many eyes are visible?",
    "answer": 2,
    "image": "VG_100K/2410408.jpg",
    "width": 400,
    "height": 300,
    "bboxs": [[100, 75, 200, 150], [300, 75, 400, 150]],
}


def load(path: Path, images: Path | None = None) -> list[Sample | Reject]:
    source = Source(name="counts", format="tallyqa", path=path, images=images)
    return list(SOURCES["tallyqa"](path, images, source))


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_the_counting_questions_of_the_photographs_load_with_a_box_for_each_thing() -> None:
    found = load(DATA / "photos" / "photos_tallyqa.json", DATA / "photos" / "images")
    assert len(found) == 6
    for one in found:
        assert isinstance(one, Sample)
        assert one.dataset == "tallyqa" and int(one.answer) == len(one.boxes)
        assert one.width and one.image_sha256


@pytest.mark.parametrize("form", ["array", "lines"])
def test_a_row_becomes_a_sample(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW]) if form == "array" else json.dumps(ROW))
    assert load(path) == [
        Sample(
            id=f"counts/tallyqa/row{0 if form == 'array' else 1}",
            source="counts",
            dataset="tallyqa",
            split="train",
            question="How many eyes are visible?",
            answer="2",
            image="VG_100K/2410408.jpg",
            image_sha256="",
            width=400,
            height=300,
            boxes=((0.25, 0.25, 0.5, 0.5), (0.75, 0.25, 1.0, 0.5)),
        )
    ]


def test_a_row_without_size_and_image_is_a_reject_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{k: v for k, v in ROW.items() if k not in ("width", "height")}]))
    (reject,) = load(path)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.row, reject.field) == ("size-missing", 0, "width")


def rejects(tmp_path: Path, *rows: dict[str, object]) -> list[tuple[str, str]]:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    return [(one.reason, one.field) for one in load(path) if isinstance(one, Reject)]


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (2, []),
        ("2", []),
        (3, ["count-mismatch"]),  # GRIT's own file has such rows
        (1, ["count-mismatch"]),
        (0, ["count-mismatch"]),
        ("two", []),  # no number to compare
    ],
)
def test_a_count_is_the_number_of_its_boxes(tmp_path: Path, answer: object, reasons: list[str]) -> None:
    assert [reason for reason, _ in rejects(tmp_path, ROW | {"answer": answer})] == reasons


def test_the_original_file_names_the_wanted_one(tmp_path: Path) -> None:
    own = {
        "image": "VG_100K/1.jpg",
        "answer": 2,
        "data_source": "amt",
        "question": "How many?",
        "issimple": True,
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps([own, own]))
    found = load(path)
    assert [one.reason for one in found if isinstance(one, Reject)] == ["no-box"] * 2
    for one in found:
        assert isinstance(one, Reject)
        assert "tallyqa_val.jsonl" in one.detail and "GRIT-TallyQA-Relabeled" in one.detail


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"question": "q" * 10_001}, "text-too-long", "question"),
        ({"answer": "a" * 10_001}, "text-too-long", "answer"),
        ({"bboxs": [[0, 0, 9, 9]] * 101}, "too-many-boxes", "bboxs"),
        ({"bboxs": []}, "no-box", "bboxs"),
        ({"image": None}, "wrong-type", "image"),
        ({"image": ""}, "empty", "image"),
        ({"image": []}, "wrong-type", "image"),
    ],
)
def test_what_no_annotator_can_be_paid_for_is_rejected_before(
    tmp_path: Path, change: dict[str, object], reason: str, field: str
) -> None:
    assert rejects(tmp_path, ROW | change) == [(reason, field)]
    assert rejects(tmp_path, {k: v for k, v in ROW.items() if k != "image"}) == [("missing-field", "image")]
