"""Small inputs that broke tools of this kind, from public reports: `cases/` of the shared data, where that is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker import llm
from sifthinker.annotation import acceptance
from sifthinker.config import Api, Benchmark, Ingest, Source
from sifthinker.core import drawing, images
from sifthinker.core.records import Region, Reject, Sample
from sifthinker.evaluation.benchmarks import BENCHMARKS, choices, refcoco, replies
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.evaluation.benchmarks.selection import open_benchmark
from tests import evil
from tests.ingested import ingest

MADE_WHOLE = {"image/jpeg", "image/png", "image/webp", "image/gif"}  # what the endpoints take


@pytest.fixture
def cases(shared: Path) -> Path:
    return shared / "cases"


def scene() -> Image.Image:
    pixels = np.full((100, 160, 3), 200, np.uint8)
    pixels[60:] = (110, 90, 70)
    pixels[20:60, 24:56] = (200, 30, 30)
    pixels[40:80, 96:136] = (30, 60, 200)
    return Image.fromarray(pixels)


def asked(client: llm.Client, count: int = 1) -> list[llm.Reply | llm.Failure]:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(count)]
    return client.ask_all(llm.Request(message, 0.7, 100) for message in messages)


def kept(rows: Path, folder: Path) -> list[Sample]:
    scene().save(folder / "a.jpg")
    source = Source(name="t", format="tallyqa", path=rows, images=folder)
    return [found for found in ingest([source], Ingest()) if not isinstance(found, Reject)]


def test_a_phone_s_photograph_is_served_as_it_was_ingested(tmp_path: Path) -> None:
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    scene().save(tmp_path / "a.png", exif=exif)
    photo = images.read(tmp_path, "a.png", 10**7)
    seen = load_image(images.data_url(photo.data, images.media_type(photo.data)))
    assert seen.size == (photo.width, photo.height) == (100, 160)


def test_a_grey_picture_of_16_bits_keeps_its_greys(tmp_path: Path) -> None:
    grey = np.asarray(scene().convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    data = images.read(tmp_path, "a.png", 10**7).data
    shown = drawing.annotated(data, [], 10**6, 90)
    for seen, most in ((images.rgb(data), 3), (Image.open(io.BytesIO(shown)), 5)):
        assert abs(np.asarray(seen.convert("L")).astype(int) - grey).mean() < most


@pytest.mark.parametrize("form", ["MPO", "TIFF", "BMP"])
def test_a_judge_gets_pictures_of_types_that_it_takes(tmp_path: Path, form: str) -> None:
    scene().save(tmp_path / "a.jpg", format=form)
    try:
        data = images.read(tmp_path, "a.jpg", 10**7).data
    except images.BadImage as error:
        assert error.reason == "image-format"
    else:
        assert images.media_type(data) in MADE_WHOLE


def test_a_reply_in_parts_is_joined(cases: Path, tmp_path: Path) -> None:
    parts = json.loads((cases / "03-content-parts" / "reply.json").read_text())
    with (
        evil.serving(lambda *_: (200, {}, evil.chat(parts))) as server,
        llm.Client(Api(retries=1), tmp_path / "calls", server.url) as client,
    ):
        [reply] = asked(client)
    assert isinstance(reply, llm.Reply) and reply.text == "The mug is blue."


@pytest.mark.parametrize("name", ["backticks", "empty", "reasoned"])
def test_reasoning_before_a_chain_is_put_aside(cases: Path, name: str) -> None:
    row = Sample(
        "s/d/1", "s", "d", "train", "What colour is the mug?", "blue", "a.jpg", "0" * 64, 100, 80,
        ((0.2, 0.2, 0.5, 0.5),),
    )  # fmt: skip
    regions = ((Region((0.0, 0.0, 1.0, 1.0), 0.512),), (Region((0.2, 0.2, 0.5, 0.5), 0.3),))
    reply = (cases / "05-think-before-chain" / f"{name}.txt").read_text()
    assert isinstance(acceptance.check(reply, regions, row), acceptance.Accepted)


def test_an_error_in_a_200_ends_the_stage_with_its_words(tmp_path: Path) -> None:
    empty = {"error": {"message": "Insufficient credits, top up the account", "code": 402}}
    with (
        evil.serving(lambda *_: (200, {}, json.dumps(empty).encode())) as server,
        llm.Client(Api(retries=1), tmp_path / "calls", server.url) as client,
    ):
        with pytest.raises(llm.Unauthorized, match="Insufficient credits"):
            asked(client)
        assert len(server.asked) == 1


def test_a_budget_holds_where_no_usage_is_reported(tmp_path: Path) -> None:
    with (
        evil.serving(lambda *_: (200, {}, evil.chat("x" * 400, usage=None))) as server,
        llm.Client(Api(budget_tokens=1000, concurrency=2), tmp_path / "calls", server.url) as client,
    ):
        with pytest.raises(llm.BudgetSpent):
            asked(client, 50)
        assert len(server.asked) < 50


def test_a_field_that_is_refused_stops_before_rows_are_lost(tmp_path: Path) -> None:
    refusal = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def answer(_: int, body: bytes) -> evil.Answer:
        error = {"message": refusal, "type": "invalid_request_error", "param": "max_tokens"}
        return (
            (400, {}, json.dumps({"error": error}).encode())
            if b'"max_tokens"' in body
            else (200, {}, evil.chat())
        )

    with (
        evil.serving(answer) as server,
        llm.Client(Api(), tmp_path / "calls", server.url) as client,
        pytest.raises(llm.Unauthorized, match="token_limit_field"),
    ):
        asked(client, 20)


def test_a_token_of_a_picture_in_a_question_is_rejected(cases: Path, tmp_path: Path) -> None:
    assert kept(cases / "17-picture-token-in-question" / "rows.json", tmp_path) == []


def test_boxes_in_fractions_are_not_read_as_pixels(cases: Path, tmp_path: Path) -> None:
    try:
        assert kept(cases / "27-boxes-in-fractions" / "rows.json", tmp_path) == []
    except ValueError as error:
        assert "frame" in str(error)


@pytest.mark.parametrize("name", ["19-rejected-option-read", "21-chinese-replies", "22-boxed-and-json"])
def test_a_choice_is_read_as_a_person_reads_it(cases: Path, name: str) -> None:
    for row in json.loads((cases / name / "replies.json").read_text(encoding="utf-8")):
        options = [(letter, text) for letter, text in row["options"]]
        read = choices.choice(row["reply"], options).value
        got = next(filter(None, options[int(read)])) if read else None
        assert got == row["read"] or (got is None and row.get("or_unread")), row["reply"]


def test_boxes_in_pixels_are_told_from_fractions(cases: Path) -> None:
    reference = json.dumps([0.25, 0.25, 0.5, 0.5])
    question = Question("x", "g", "t", "i", reference, width=640, height=480)
    reply = (cases / "23-native-boxes" / "reply.txt").read_text()
    verdict = refcoco.strict(question, replies.read(reply, False))
    assert verdict.score == 1.0 or "pixel" in verdict.unparsable


def test_a_folder_of_links_into_the_hub_s_cache_is_read(tmp_path: Path) -> None:
    hub = tmp_path / "hub" / "datasets--a--vstar"
    snapshot, blobs = hub / "snapshots" / "0f", hub / "blobs"
    (snapshot / "direct_attributes").mkdir(parents=True)
    blobs.mkdir()
    scene().save(blobs / "d1", "JPEG")
    text = "What colour is the box?\n(A) red\n(B) green\nAnswer with the option's letter from the given choices directly."
    row = {"image": "direct_attributes/a.jpg", "text": text, "label": "A", "question_id": 0}
    (blobs / "q").write_text(json.dumps({**row, "category": "direct_attributes"}) + "\n")
    (snapshot / "direct_attributes" / "a.jpg").symlink_to("../../../blobs/d1")
    (snapshot / "test_questions.jsonl").symlink_to("../../blobs/q")
    source = Benchmark(name="vstar", path=snapshot, images=snapshot)
    selection, rejects = open_benchmark(source, BENCHMARKS["vstar"], None, 0)
    [found] = selection.questions()
    assert not rejects and not isinstance(found, Reject)
