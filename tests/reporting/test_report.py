import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sifthinker.core import tables
from sifthinker.evaluation import scoring
from sifthinker.reporting import paper_results, report
from tests import nights
from tests.small_part import part

HOSTILE = '<img src=x onerror="alert(1)"><script src=//evil.example>'


def _stage(stage, rows_in, rejected=None, **more):
    rejected = rejected or {}
    rows = {"in": rows_in, "kept": rows_in - sum(rejected.values()), "rejected": rejected}
    return {
        "stage": stage,
        "key": f"key-of-{stage}",
        "digest": "d" * 64,
        "seconds": 1.5,
        "rows": rows,
        **more,
    }


def _score(**values):
    score = {"model": "tiny", "benchmark": "vstar", "metric": "overall", "official": 0.25, "strict": 0.2}
    score |= {"n": 8, "unparsable": 2, "low": 0.1, "high": 0.5, "unit": "share", "limit": None}
    return score | values


FACTS = report.Facts(
    title="smoke",
    stages=[
        _stage("ingest", 30, {"box-outside": 3, "image-missing": 1}),
        _stage("merge", 1, label="merge (sft)", notes={"difference": 0.01}),
    ],
    scores=[
        _score(metric="direct_attributes", official=0.391),
        _score(benchmark="sat", metric="", official=None, n=0, missing="SAT_static.parquet is not there"),
        _score(benchmark="refcoco", metric="refcoco+_testB", limit=8),
        _score(benchmark="spatialbench", metric="counting", official=-12.5, low=-30.0, unit="points"),
        _score(benchmark="spatialbench", metric="average", official=31.5, low=20.0, high=40.0, unit="points"),
    ],
    config={"name": "smoke", "grpo": {"learning_rate": 0.00001}},
    versions={"torch": "2.13.0"},
    commit="0123abcd",
    standins=["The models are random: they learn nothing, their scores are chance."],
)


def _text(tmp_path, facts):
    report.write(tmp_path / "report.html", facts)
    html = (tmp_path / "report.html").read_text("utf-8")
    return html, re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.split("</style>")[1]))


def _full(tmp_path, **kwargs):
    parquet = part(tmp_path / "photos", **kwargs).write(tmp_path / "part.parquet")
    history = tmp_path / "history.jsonl"
    history.write_text(json.dumps({"step": 1, "loss": 1.0, "rewards/format/mean": 0.5}) + "\n")
    completions = tmp_path / "completions.parquet"
    rewards = {"format": 1.0, "answer": None, "grounding": 0.25, "depth": 0.0}
    rows = [{"step": n, "id": "photos/gqa/0.0", "text": f"said {n} {HOSTILE}", **rewards} for n in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), completions)
    return dataclasses.replace(
        FACTS, dataset=[parquet], histories={"sft": history}, completions=completions, examples=2
    )


def test_every_stage_reason_and_statement_is_there(tmp_path):
    html, text = _text(tmp_path, FACTS)
    for expected in (
        "smoke",
        "learn nothing, their scores are chance",
        "ingest 30 26 4",
        "merge (sft)",
        "difference: 0.01",
        "box-outside 3 10.0 %",
        "image-missing 1 3.3 %",
        "0123abcd",
        "learning_rate: 1.0e-05",
    ):
        assert expected in text
    assert "key-of-ingest" in html


def test_the_lineage_of_the_final_model_is_a_picture_of_the_page(tmp_path):
    assert "What the final model was made from" not in _text(tmp_path, FACTS)[0]
    html, text = _text(tmp_path, dataclasses.replace(FACTS, lineage=b"a picture"))
    assert "What the final model was made from" in text
    assert f"data:image/png;base64,{base64.b64encode(b'a picture').decode()}" in html


def test_rows_that_do_not_add_up_are_pointed_out(tmp_path):
    assert "does not add up" not in _text(tmp_path, FACTS)[1]
    broken = _stage("expand", 5)
    broken["rows"]["kept"] = 4
    assert "does not add up" in _text(tmp_path, report.Facts(stages=[broken]))[1]


def test_scores_stand_beside_the_papers_numbers(tmp_path):
    _, text = _text(tmp_path, FACTS)
    for expected in (
        "direct_attributes tiny 39.1 20.0 10.0 – 50.0 8 25.0 % 79.1 Qwen2.5-VL-7B Table 2; SEAL 74.8",
        "limited to 8 25.0 % not published",
        "counting tiny -12.5 0.2 -30.0 – 0.5",
        "average tiny 31.5 0.2 20.0 – 40.0 8 25.0 % 64.3 Bunny-LLaMA3-8B Table 1; SpatialBot 59.6",
        "74.6 Qwen2.5-VL-7B",
        "Not run. SAT_static.parquet is not there",
    ):
        assert expected in text


def test_scores_more_than_a_point_apart_are_pointed_out_with_replies(tmp_path):
    rows = [nights.row("vstar", i, 1.0) for i in range(4)]
    rows[1] |= {"official": 0.0, "answer": "Answer: B", "strict": 1.0}
    tables.write(tmp_path / "predictions.parquet", scoring.PREDICTIONS, rows)
    scores = [_score(official=0.75, strict=1.0), _score(benchmark="sat", official=0.5, strict=0.495)]
    facts = dataclasses.replace(FACTS, scores=scores, predictions=tmp_path / "predictions.parquet")
    _, text = _text(tmp_path, facts)
    assert "vstar, overall: official -25.0 points" in text
    assert "Which one is it, in picture 1? (A) left (B) right Answer: B B B 0 1" in text
    assert "in picture 0?" not in text and "sat, overall" not in text


def test_examples_curves_and_completions_are_shown(tmp_path):
    html, text = _text(tmp_path, _full(tmp_path, text="A cat sits here."))
    assert text.count("What is it?") == 2 + report.COMPLETIONS
    assert text.count("A cat sits here.") == 4, "two steps in each of two examples"
    assert html.count("data:image/png;base64,") == 1
    assert html.count("data:image/jpeg;base64,") == 2 * (2 + 2), "photograph, depth, a panel a step"
    assert "format 1.00 answer n/a grounding 0.25 depth 0.00" in text
    assert "said 0" in text
    assert "said 8" in text, "from the first to the last"


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("place", ["text", "question", "answer", "dataset"])
def test_hostile_text_is_shown_and_does_nothing(tmp_path, place):
    hostile = (
        "<script a=b>alert(1)" if place == "dataset" else HOSTILE.split(">")[0] + ">"
    )  # passes a strict chain
    html, _ = _text(tmp_path, _full(tmp_path, **{place: hostile}))
    tags = Tags()
    tags.feed(html)
    assert "&lt;img src=x onerror=" in html, "it is there, as text"
    for tag, attributes in tags.found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#"), "no address outside the file"


def test_a_chain_that_cannot_be_read_is_shown_as_it_is(tmp_path):
    facts = _full(tmp_path)
    rows = part(tmp_path / "photos", (1,)).rows()
    rows[0]["chain"] = "<think><script>alert(1)</script>"
    tables.write(facts.dataset[0], tables.SIF, rows)
    html, text = _text(tmp_path, facts)
    assert "cannot be read as one" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_report_of_nothing_says_so(tmp_path):
    _, text = _text(tmp_path, report.Facts(stages=[]))
    for expected in ("No data set was published", "Nothing was trained", "Nothing was evaluated"):
        assert expected in text
    assert "stand-ins" not in text


def test_equal_facts_give_equal_bytes(tmp_path):
    facts = _full(tmp_path)
    assert _text(tmp_path, facts)[0] == _text(tmp_path, facts)[0]


def test_no_published_number_stands_twice():
    keys = [(n.table, n.benchmark, n.metric, n.model) for n in paper_results.NUMBERS]
    assert len(set(keys)) == len(keys)
    assert all(0 < n.value < (1 if n.unit == "share" else 100) for n in paper_results.NUMBERS)


def test_the_page_for_the_ui_has_scores_curves_and_chains_as_pictures_and_escapes_what_models_say(tmp_path):
    page = report.page(_full(tmp_path))
    assert "> The models are random: they learn nothing, their scores are chance." in page
    assert "`direct_attributes` | 39.1 |" in page
    assert "SAT_static.parquet is not there" in page
    pictures = re.findall(r"!\[[^\]]*\]\(data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)\)", page)
    assert [kind for kind, _ in pictures] == ["png", "jpeg", "jpeg"]  # a training's curves, two chains
    for _, data in pictures:
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert len(page) < 1_000_000
    assert HOSTILE not in page
