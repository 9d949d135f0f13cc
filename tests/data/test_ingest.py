"""ingest: every row ends as one sample or one reject, and which are taken depends on seed and id only."""

import copy
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sifthinker.config import Ingest, Source
from sifthinker.core import images
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject, Sample, sample
from sifthinker.core.tables import REJECTS, SAMPLES, read, write
from sifthinker.data.ingest_work import part
from sifthinker.data.sources import SOURCES
from tests.ingested import ingest

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
METADATA: dict[str, Any] = {
    "question": "Is it?",
    "answer": "Yes",
    "image": "good.png",
    "width": 40,
    "height": 30,
    "bboxs": [[4, 3, 20, 15]],
    "dataset": "gqa",
    "split": "train",
}
CONVERSATION: dict[str, Any] = {
    "dataset": "vsr",
    "split": "train",
    "question_id": 7,
    "image": ["cot/vsr/good.png", "cot/vsr/good.png###[4, 3, 20, 15]"],
    "conversations": [
        {
            "from": "human",
            "value": "<image>\nWhere? Please provide the bounding box coordinate of the region",
        },
        {"from": "gpt", "value": "[0.100, 0.200, 0.500, 0.500]"},  # 40x30: 5 pixels above and below
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": "There"},
    ],
}


def without(row: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != field}


def turns(index: int, value: Any) -> dict[str, Any]:
    row = copy.deepcopy(CONVERSATION) | {"question_id": 8}
    row["conversations"][index]["value"] = value
    return row


def marked(text: str) -> dict[str, Any]:
    return CONVERSATION | {"image": ["cot/vsr/good.png", text]}


# The broken row (an object, or the bytes of its line), the reason and the field it must be rejected with.
BROKEN: list[tuple[Any, str, str]] = [
    (b"not json", "not-json", ""),
    (b'{"question": "Is it?",}', "not-json", ""),
    (b"[" * 5000, "not-json", ""),
    (b'{"question": "\xff\xfe"}', "not-utf8", ""),
    (METADATA | {"question": "\ud800"}, "not-utf8", "question"),  # half a character, escaped
    ([1, 2], "wrong-type", ""),
    (None, "wrong-type", ""),
    (without(METADATA, "question"), "missing-field", "question"),
    (without(METADATA, "image"), "missing-field", "image"),
    (without(METADATA, "dataset"), "missing-field", "dataset"),
    (METADATA | {"question": 5}, "wrong-type", "question"),
    (METADATA | {"answer": True}, "wrong-type", "answer"),
    (METADATA | {"image": ["good.png"]}, "wrong-type", "image"),
    (METADATA | {"width": "40"}, "wrong-type", "width"),
    (METADATA | {"height": 0}, "wrong-type", "height"),
    (METADATA | {"bboxs": "4 3 20 15"}, "wrong-type", "bboxs"),
    (METADATA | {"bboxs": [[4, 3, 20]]}, "wrong-type", "bboxs"),
    (METADATA | {"bboxs": [[4, 3, float("nan"), 15]]}, "wrong-type", "bboxs"),
    (METADATA | {"split": None}, "wrong-type", "split"),
    (METADATA | {"question": " \n"}, "empty", "question"),
    (METADATA | {"answer": ""}, "empty", "answer"),
    (METADATA | {"question": "<image> Is it?"}, "special-token", "question"),
    (without(METADATA, "bboxs"), "no-box", "bboxs"),
    (METADATA | {"bboxs": []}, "no-box", "bboxs"),
    (METADATA | {"bboxs": [[4, 3, 4, 15]]}, "box-degenerate", "bboxs"),
    (METADATA | {"bboxs": [[20, 15, 4, 3]]}, "box-degenerate", "bboxs"),  # corners swapped
    (METADATA | {"bboxs": [[4, 3, 90, 15]]}, "box-outside", "bboxs"),
    (METADATA | {"image": "../good.png"}, "path-outside", "image"),
    (METADATA | {"image": "/good.png"}, "path-outside", "image"),
    (METADATA | {"image": "link.png"}, "path-outside", "image"),
    (METADATA | {"image": "none.png"}, "image-missing", "image"),
    (METADATA | {"image": "cut.png"}, "image-broken", "image"),
    (METADATA | {"image": "large.png", "width": 100, "height": 100}, "image-too-large", "image"),
    (METADATA | {"width": 50}, "size-mismatch", "width"),
    (METADATA | {"dataset": "docvqa"}, "excluded", "dataset"),
    (METADATA | {"question_id": 1}, "duplicate-id", "question_id"),
    (METADATA | {"question_id": [1]}, "wrong-type", "question_id"),
    (without(CONVERSATION, "conversations"), "missing-field", "conversations"),
    (CONVERSATION | {"conversations": CONVERSATION["conversations"][:2]}, "wrong-turns", "conversations"),
    (CONVERSATION | {"conversations": "Where?"}, "wrong-type", "conversations"),
    (turns(0, None), "wrong-type", "question"),
    (turns(1, "somewhere"), "wrong-type", "conversations"),
    (turns(1, "[0.3, 0.2, 0.5, 0.5]"), "box-mismatch", "conversations"),
    (marked("cot/vsr/good.png"), "no-box", "image"),
    (marked("cot/vsr/other.png###[4, 3, 20, 15]"), "image-mismatch", "image"),
    (marked("cot/vsr/good.png###[4, 3"), "wrong-type", "image"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    Image.new("RGB", (40, 30)).save(root / "good.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "outside.png")
    Image.new("RGB", (100, 100)).save(root / "large.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:60])
    return root


def lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def viscot(path: Path, images: Path | None = None, name: str = "v") -> Source:
    return Source(name=name, format="viscot", path=path, images=images)


def split(results: Iterable[Sample | Reject]) -> tuple[list[Sample], list[Reject]]:
    found = list(results)
    return [one for one in found if isinstance(one, Sample)], [
        one for one in found if isinstance(one, Reject)
    ]


def many(count: int, dataset: str = "gqa", **changes: Any) -> list[dict[str, Any]]:
    return [METADATA | {"question_id": i, "dataset": dataset} | changes for i in range(count)]


def test_a_file_of_broken_rows_of_all_kinds_ends_in_as_many_named_rejects(
    tmp_path: Path, folder: Path
) -> None:
    good = [METADATA | {"question_id": 1}, CONVERSATION]
    path = lines(tmp_path / "rows.jsonl", [*good, *(row for row, _, _ in BROKEN)])
    samples, rejects = split(ingest([viscot(path, folder)], Ingest(max_pixels=5_000)))
    assert len(BROKEN) >= 30
    assert [one.id for one in samples] == ["v/gqa/1", "v/vsr/7"]
    found = {one.row: (one.reason, one.field) for one in rejects}
    assert found == {line: (reason, field) for line, (_, reason, field) in enumerate(BROKEN, 3)}
    assert len(rejects) == len(BROKEN)
    for one in rejects:
        assert (one.stage, one.file, one.source) == ("ingest", "rows.jsonl", "v")
        assert len(one.detail) > 15
    assert write(tmp_path / "rejects.parquet", REJECTS, rejects) == len(BROKEN)
    write(tmp_path / "samples.parquet", SAMPLES, samples)
    assert [sample(row) for row in read(tmp_path / "samples.parquet")] == samples


@pytest.mark.parametrize("kind", [n for n, (row, _, _) in enumerate(BROKEN) if not isinstance(row, bytes)])
def test_a_broken_row_of_an_array_is_rejected_for_the_same_reason(
    tmp_path: Path, folder: Path, kind: int
) -> None:
    row, reason, field = BROKEN[kind]
    (tmp_path / "rows.json").write_text(json.dumps([METADATA | {"question_id": 1}, row]))
    samples, rejects = split(ingest([viscot(tmp_path / "rows.json", folder)], Ingest(max_pixels=5_000)))
    assert len(samples) == 1
    assert [(one.reason, one.field, one.row) for one in rejects] == [(reason, field, 1)]


def test_bytes_that_are_not_utf8_in_an_array_are_a_matter_of_their_row(tmp_path: Path, folder: Path) -> None:
    text = json.dumps([METADATA | {"question": "@"}, METADATA]).encode().replace(b"@", b"\xe9t\xe9")
    (tmp_path / "rows.json").write_bytes(text)
    samples, (reject,) = split(ingest([viscot(tmp_path / "rows.json", folder)], Ingest()))
    assert len(samples) == 1
    assert (reject.reason, reject.field, reject.row) == ("not-utf8", "question", 0)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.just([]),
    st.just([[1, 2, 3, 4]]),
)


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_row_ends_in_anything_but_a_sample_or_a_reject(
    data: st.DataObject, tmp_path: Path
) -> None:
    row: Any = copy.deepcopy(
        data.draw(st.sampled_from([METADATA, CONVERSATION | {"width": 40, "height": 30}]))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = row
        while True:  # somewhere in the row
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
                place[key] = copy.deepcopy(data.draw(leaves))
                break
            place = place[key]
    path = lines(tmp_path / "rows.jsonl", [row])
    samples, rejects = split(ingest([viscot(path, tmp_path)], Ingest()))
    assert len(samples) + len(rejects) == 1
    write(tmp_path / "samples.parquet", SAMPLES, samples)
    write(tmp_path / "rejects.parquet", REJECTS, rejects)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_the_photographs_of_both_files_give_26_samples_and_each_image_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: Counter[str] = Counter()
    whole = images.read

    def counted(root: Path, relative: str, max_pixels: int) -> tuple[bytes, int, int, str]:
        found = whole(root, relative, max_pixels)
        opened[relative] += 1
        return found

    monkeypatch.setattr(images, "read", counted)
    photos = DATA / "photos"
    sources = [
        viscot(photos / "photos_conversations.json", photos / "images", "photos"),
        Source(
            name="counts", format="tallyqa", path=photos / "photos_tallyqa.json", images=photos / "images"
        ),
    ]
    samples, rejects = split(ingest(sources, Ingest()))
    assert (len(samples), rejects) == (26, [])
    assert [one.id for one in samples] == sorted(one.id for one in samples)
    assert (
        max(opened.values()) <= 2
    )  # once as cot/photos/x.jpg, once as x.jpg: two rows cannot be known to be one


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_of_the_real_metadata_the_caps_take_a_sample_and_name_what_they_leave() -> None:
    sources = [viscot(DATA / "viscot" / f"{name}_cot_train.jsonl", name=name) for name in ("cub", "vsr")]
    samples, rejects = split(ingest(sources, Ingest(cap=3_000, total=5_000)))
    assert len(samples) == 5_000 and len(samples) + len(rejects) == 13_432
    assert {one.reason for one in rejects} == {"not-sampled"}
    assert all(
        "ingest.cap = 3000 rows of" in one.detail or "ingest.total = 5000" in one.detail for one in rejects
    )
    seeds = [split(ingest(sources[1:], Ingest(cap=1_000, seed=seed)))[0] for seed in (0, 1)]
    assert len({one.id for one in seeds[0]} & {one.id for one in seeds[1]}) < 400  # about 1000 * 1000 / 3376
    assert (
        max(int(one.id.rpartition("row")[2]) for one in samples if one.dataset == "cub") > 9_900
    )  # not the first


@given(cap=st.integers(1, 12), total=st.integers(1, 25), seed=st.integers(0, 5), order=st.randoms())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_taken_depends_on_neither_the_order_of_files_nor_of_rows(
    tmp_path: Path, cap: int, total: int, seed: int, order: random.Random
) -> None:
    rows = [*many(9, "a"), *many(14, "b"), *many(3, "c")]
    first = viscot(lines(tmp_path / "first.jsonl", rows), name="first")
    second = viscot(lines(tmp_path / "second.jsonl", many(4, "b")), name="second")
    config = Ingest(cap=cap, total=total, seed=seed)
    samples, rejects = split(ingest([first, second], config))
    assert len(samples) + len(rejects) == 30
    assert len(samples) == min(total, sum(min(cap, rows) for rows in (9, 18, 3)))
    order.shuffle(rows)
    lines(tmp_path / "first.jsonl", rows)
    assert split(ingest([second, first], config))[0] == samples


def test_the_place_of_a_bad_image_goes_to_the_next_in_line(tmp_path: Path, folder: Path) -> None:
    rows = many(40)
    for row in rows[::2]:
        row["image"] = "none.png"
    samples, rejects = split(ingest([viscot(lines(tmp_path / "rows.jsonl", rows), folder)], Ingest(cap=15)))
    assert len(samples) == 15
    assert Counter(one.reason for one in rejects)["not-sampled"] + len(samples) < 40
    # Images of rows that are not taken are not looked at: the last reject for an image precedes the cap.
    reasons = [one.reason for one in rejects]
    assert reasons == sorted(reasons)  # all "image-missing", then all "not-sampled"
    everything, _ = split(ingest([viscot(tmp_path / "rows.jsonl", folder)], Ingest()))
    assert {one.id for one in samples} <= {one.id for one in everything}


@pytest.mark.parametrize(
    ("bad", "reason", "opened"),
    [
        ({"bboxs": [[4, 3, 90, 15]]}, "box-outside", False),
        ({"bboxs": [[4, 3, 90, 15]]}, "box-outside", True),
        ({"answer": ""}, "empty", True),
        ({"width": 0, "height": 0}, "wrong-type", False),
        ({"image": "none.png"}, "image-missing", True),
        ({"image": "cut.png"}, "image-broken", True),
    ],
)
def test_of_rows_with_one_id_the_first_good_one_is_kept(
    tmp_path: Path, folder: Path, bad: dict[str, Any], reason: str, opened: bool
) -> None:
    row = METADATA | {"question_id": 1}
    path = lines(tmp_path / "rows.jsonl", [row | bad, row | bad, row, row])
    source = viscot(path, folder if opened else None)
    for found in (ingest([source], Ingest()), SOURCES["viscot"](path, source.images, source)):
        (kept,), rejects = split(found)
        assert kept.id == "v/gqa/1"
        assert {one.row: one.reason for one in rejects} == {1: reason, 2: reason, 4: "duplicate-id"}
        assert all("row 3 has id v/gqa/1 too" in one.detail for one in rejects if one.row == 4)


def test_a_cap_is_filled_from_what_is_good_however_the_images_are_batched(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*many(60, "a"), *many(30, "b")]
    for row in rows[::3]:
        row["image"] = "none.png"
    source = viscot(lines(tmp_path / "rows.jsonl", rows), folder)
    whole, _ = split(ingest([source], Ingest(cap=25, total=40)))
    for batch in (1, 2, 7, 1000):
        monkeypatch.setattr("sifthinker.data.ingest.BATCH", batch)
        samples, rejects = split(ingest([source], Ingest(cap=25, total=40)))
        assert samples == whole and len(samples) == 40
        assert len(rejects) == 50


def test_a_cut_file_stops_the_ingest_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([METADATA])[:-5])
    with pytest.raises(UserError, match=r"rows\.json: cut off: the file ends at byte"):
        list(ingest([viscot(tmp_path / "rows.json")], Ingest()))


def test_samples_of_one_image_are_in_one_part_and_parts_are_even(tmp_path: Path, folder: Path) -> None:
    (one, two), _ = split(ingest([viscot(lines(tmp_path / "rows.jsonl", many(2)), folder)], Ingest()))
    assert part(one, 7) == part(two, 7) and 0 <= part(one, 7) < 7
    rows = [METADATA | {"question_id": i, "image": f"{i}.jpg"} for i in range(2_000)]
    samples, _ = split(ingest([viscot(lines(tmp_path / "rows.jsonl", rows))], Ingest()))  # no digests
    sizes = Counter(part(sample, 4) for sample in samples)
    assert set(sizes) == {0, 1, 2, 3} and min(sizes.values()) > 400
