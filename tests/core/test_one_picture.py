"""One picture: what every stage, server, judge and reader gets of a file are the same pixels.

Each test asks one of those who see a picture what it sees, of files with every orientation and of every mode.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image
from transformers.image_utils import load_image

from sifthinker import config
from sifthinker.annotation import annotate
from sifthinker.core import depth_maps, drawing, images, tables
from sifthinker.core.records import WHOLE, Annotation, DepthMap, Region, Sample
from sifthinker.data import depth_estimation, publish
from sifthinker.evaluation import ask, asking
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Answer
from sifthinker.evaluation.benchmarks.selection import Selection, open_benchmark
from sifthinker.llm import judge
from sifthinker.llm.ledger import Reply
from sifthinker.models import generation
from sifthinker.training import rows, scoring
from tests.ingested import ingest
from tests.odd_pictures import MODES, ORIENTED, Pixels, oriented, saved

LIMIT = 1_000_000  # pixels
CONFIG = config.Config(scenes=config.Scenes())
REPLY = Reply("<answer>A</answer>", "stop", "m", 1, 1)
CASES = [pytest.param((kind, turn), id=f"{kind}-{turn}") for kind in ORIENTED for turn in range(1, 9)]
CASES += [pytest.param((mode, 0), id=mode) for mode in MODES]


class Seen:
    """A file in a folder, the sample that ingest makes of it, and what everyone should see."""

    def __init__(self, folder: Path, data: bytes, pixels: Pixels) -> None:
        self.folder, self.file, self.pixels = folder, data, pixels
        (folder / "a.img").write_bytes(data)
        self.height, self.width = pixels.shape[:2]
        row = {"question": "What?", "answer": "A", "image": "a.img", "bboxs": [[1, 1, 9, 9]]}
        (folder / "rows.json").write_text(json.dumps([row]))
        source = config.Source(name="test", format="tallyqa", path=folder / "rows.json", images=folder)
        (found,) = ingest([source], config.Ingest())
        assert isinstance(found, Sample)
        self.sample = found
        self.digest = hashlib.sha256(data).hexdigest()

    @property
    def png(self) -> bytes:
        return saved(Image.fromarray(np.ascontiguousarray(self.pixels)))

    def row(self) -> dict[str, Any]:
        """The row of SIF-50K, as publish makes it."""
        slope = np.tile(np.linspace(0, 1, self.height, dtype=np.float32)[:, None], (1, self.width))
        maps = [DepthMap(self.digest, self.width, self.height, depth_maps.encode(slope))]
        chain = Annotation(self.sample.id, ((Region(WHOLE, 0.5),),), "<think></think>", "m", 1, 1, 1, ())
        (made,) = publish.rows(
            [self.sample], [asdict(chain)], maps, images.ImageLibrary({"test": self.folder}, LIMIT)
        )
        assert isinstance(made, dict)
        return made

    def job(self, name: str) -> Selection:
        """A benchmark with one question about the file."""
        question = {"image": "a.img", "text": "What?\n(A) one\n(B) two\n", "label": "A", "question_id": 0}
        (self.folder / "test_questions.jsonl").write_text(json.dumps({**question, "category": "c"}))
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A"}]
        asked = {"dataset": "gqa", "question_id": 1, "image": ["a.img"], "conversations": turns}
        (self.folder / "gqa.json").write_text(json.dumps([asked]))
        source = config.Benchmark(
            name=name, path=self.folder, images=self.folder, split="gqa" * (name == "viscot")
        )
        job, rejects = open_benchmark(source, BENCHMARKS[name], None, 0)
        assert not rejects
        return job


@pytest.fixture
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Seen:
    kind, turn = request.param
    return Seen(tmp_path, *(oriented(kind, turn) if turn else MODES[kind]))


everyone = pytest.mark.parametrize("seen", CASES, indirect=True)


def decoded(data: bytes) -> Pixels:
    """As a program does that knows nothing of orientations and modes."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        assert getattr(image, "n_frames", 1) == 1
        return np.asarray(image)


def sent(url: str) -> bytes:
    head, _, body = url.partition(",")
    data = base64.b64decode(body)
    assert head == f"data:image/{(Image.open(io.BytesIO(data)).format or '').lower()};base64"
    return data


@everyone
def test_ingest_and_the_reader_of_the_parquet(seen: Seen, tmp_path: Path) -> None:
    assert (seen.sample.width, seen.sample.height) == (seen.width, seen.height)
    assert seen.sample.image_sha256 == seen.digest
    tables.write(tmp_path / "sif.parquet", tables.SIF, [seen.row()])
    (row,) = pq.read_table(tmp_path / "sif.parquet").to_pylist()
    assert np.array_equal(decoded(row["image"]["bytes"]), seen.pixels)
    assert (row["width"], row["height"]) == (seen.width, seen.height)
    own = row["image"]["bytes"] == seen.file  # then it is named as the user's, else as what it is
    assert row["image"]["path"] == ("a.img" if own else "a.png")


@everyone
def test_the_depth_model(seen: Seen) -> None:
    ((digest, data),) = images.ImageLibrary({"test": seen.folder}, LIMIT).distinct([seen.sample])
    assert digest == seen.digest
    found, expected = (depth_estimation._prepare((digest, file), 112) for file in (data, seen.png))
    assert isinstance(found, depth_estimation._Prepared) and isinstance(expected, depth_estimation._Prepared)
    assert (found.width, found.height) == (seen.width, seen.height)
    assert np.array_equal(found.pixels, expected.pixels)


@everyone
def test_the_trainers(seen: Seen) -> None:
    shown, _ = rows.conversation(seen.row(), depth_input=True)["images"]  # of SFT and of GRPO
    assert shown.mode == "RGB"
    assert np.array_equal(np.asarray(shown), seen.pixels)


@everyone
def test_the_annotator(seen: Seen) -> None:
    """A JPEG with boxes, sized down where it is large, of the same picture."""
    steps = ((Region((0.1, 0.2, 0.6, 0.7), 0.5),),)
    library = images.ImageLibrary({"test": seen.folder}, 1_000_000)
    for settings in (config.Annotate(), config.Annotate(max_pixels=3136 // 8 * 8, jpeg_quality=70)):
        _, (url,) = annotate.Annotator(library, None, settings).pictures(seen.sample, steps)
        boxes = [region.box for region in steps[0]]
        drawn = drawing.annotated(seen.png, boxes, settings.max_pixels, settings.jpeg_quality)
        assert np.array_equal(decoded(sent(url)), decoded(drawn))


@everyone
def test_the_judges_of_grpo_and_of_evaluation(seen: Seen, tmp_path: Path) -> None:
    """What annotate sends by default: a JPEG without boxes, sized down where it is large."""
    expected = decoded(drawing.annotated(seen.png, [], judge.MAX_PIXELS, judge.QUALITY))
    settings = config.Grpo(judge=config.Api(base_url="http://127.0.0.1:9/v1", model="m"))
    scorer = scoring.Scorer(Dataset.from_list([seen.row()]), settings, tmp_path, tmp_path / "ledger", None)
    url = scorer.subject(seen.sample.id).image_url
    assert url.startswith("data:image/jpeg;base64,")
    assert np.array_equal(decoded(sent(url)), expected)

    job = seen.job("viscot")
    ((question, digest),) = [item for item in job.questions() if isinstance(item, tuple)]
    asked: list[str] = []

    def answers(requests: Iterable[Any]) -> Iterator[Reply]:
        for request in requests:
            asked.append(json.dumps(request.messages))
            yield replace(REPLY, text='{"score": 1}')

    one = (asking.Asked(question, digest, ""), REPLY, Answer("A"))
    client: Any = SimpleNamespace(answers=answers, api=settings.judge)
    assert len(list(asking.judged(job, iter([one]), client))) == 1
    (url,) = [
        text[text.index("data:") : text.index('"', text.index("data:"))] for text in asked if "data:" in text
    ]
    assert np.array_equal(decoded(sent(url)), expected)


def test_a_judge_gets_what_annotate_sends() -> None:
    assert (config.Annotate().max_pixels, config.Annotate().jpeg_quality) == (judge.MAX_PIXELS, judge.QUALITY)


@everyone
def test_the_served_policy_in_evaluation_and_for_ask(seen: Seen) -> None:
    """Without loss, through our own server and as transformers' and vLLM's would open it."""
    asked: deque[Any] = deque()

    def answers(requests: Iterable[Any]) -> Iterator[Reply]:
        for request in requests:
            asked.append(request)
            yield REPLY

    client: Any = SimpleNamespace(answers=answers)
    model = config.Model(depth_input=False)
    job = seen.job("vstar")
    assert len(list(asking.Asking(client, seen.folder, model, config.Evaluate()).answers(job, []))) == 1
    (url,) = [part["image_url"]["url"] for part in asked[0].messages[0]["content"] if "image_url" in part]
    assert np.array_equal(decoded(sent(url)), seen.pixels)
    assert np.array_equal(np.asarray(load_image(url)), seen.pixels)
    assert np.array_equal(decoded(ask.picture(seen.folder / "a.img", CONFIG)), seen.pixels)


@everyone
def test_our_server_takes_a_stranger_s_file_for_the_same_picture(seen: Seen) -> None:
    shown = generation.picture({"type": "image", "url": images.data_url(seen.file, "image/anything")})
    assert shown["image"].mode == "RGB"
    assert np.array_equal(np.asarray(shown["image"]), seen.pixels)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a.png", "file:///etc/hostname", "/etc/hostname", "data:,x", "é"]
)
def test_our_server_opens_no_addresses_and_no_files_for_others(url: str) -> None:
    with pytest.raises(images.BadImage, match=r"image-(url|format)"):
        generation.picture({"type": "image", "url": url})


def test_what_is_upright_8_bit_rgb_stays_the_user_s_own_bytes() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data, _ = oriented(kind, 1)  # with EXIF that says so
        assert images.photo(data, LIMIT).data is data


def test_a_re_written_picture_keeps_the_profile_of_its_colours_and_nothing_else() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"
    data = saved(Image.new("RGB", (9, 5)), "JPEG", exif=exif, icc_profile=b"a profile", comment=b"private")
    made = images.photo(data, LIMIT).data
    with Image.open(io.BytesIO(made)) as image:
        assert image.info == {"icc_profile": b"a profile"}
        assert not image.getexif()
    assert b"private" not in made and b"home" not in made
