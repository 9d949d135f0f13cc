"""The paper's tables in the report, from small files of all benchmarks that are really scored."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext

import pytest

from sifthinker import config
from sifthinker.core import scores
from sifthinker.evaluation import evaluate
from sifthinker.evaluation.benchmarks import BENCHMARKS, ovdeval
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.reporting import paper_results, paper_tables, report
from tests.evaluation.benchmarks import published_files
from tests.evaluation.benchmarks import test_all_benchmarks as built

RESOLVED = {"evaluate": {"judge": {"model": "doubao-1.5-vision-pro"}}}


def score(**values):
    made = {
        "model": "tiny",
        "benchmark": "vstar",
        "metric": "direct_attributes",
        "official": 0.25,
        "strict": 0.2,
    }
    made |= {
        "n": 8,
        "unparsable": 2,
        "low": 0.1,
        "high": 0.5,
        "unit": "share",
        "limit": None,
        "missing": None,
    }
    return made | {"rendered": False, "box_frame": "image", "think": True} | values


def row(tables, label):
    [found] = [row for table in tables for row in table["rows"] if row["label"] == label]
    return found


def test_every_number_of_the_paper_stands_in_a_row_of_its_table():
    shown = [
        (table["number"], number["model"], number["value"])
        for table in paper_tables.tables([], {})
        for of in table["rows"]
        for number in of["paper"]
    ]
    published = [
        (n.table, n.model, n.value * (100 if n.unit == "share" else 1))
        for n in paper_results.NUMBERS
        if n.table in paper_tables.TITLES
    ]
    assert sorted(shown) == sorted(published)
    assert {of.benchmark for of in paper_tables.ROWS} == set(BENCHMARKS) - {"sif"}


def test_a_row_without_a_score_says_why():
    found = paper_tables.tables(
        [
            score(benchmark="sat", metric="", missing="SAT_static.parquet is not there"),
            score(rendered=True),
            score(
                benchmark="mmbench", metric="", missing="the answers to 3 questions are hidden: submit it.tsv"
            ),
            score(benchmark="mmbench", metric="dev", strict=0.5),
        ],
        {},
    )
    assert [one["why"] for one in row(found, "SAT, static")["ours"]] == ["SAT_static.parquet is not there"]
    assert row(found, "POPE")["ours"] == [{"model": "", "score": None, "why": "not evaluated"}]
    assert row(found, "V*, attributes")["ours"][0]["why"] == "only a rendered look-alike was asked"
    assert (
        row(found, "MMBench, test")["ours"][0]["why"]
        == "the answers to 3 questions are hidden: submit it.tsv"
    )
    assert row(found, "MMBench, dev")["ours"][0]["score"]["strict"] == 50.0


@pytest.mark.parametrize(
    ("values", "label", "said"),
    [
        ({"limit": 40}, "V*, attributes", "a seeded sample of at most 40 questions"),
        ({"box_frame": "resized"}, "V*, attributes", "boxes read in the frame resized"),
        (
            {"max_pixels": 262_144, "shrunk": 0.98, "shrunk_to": 0.244},
            "V*, attributes",
            "at most 262,144 pixels of a picture are seen (model.max_pixels): 98 % of the pictures were shrunk, at the median "
            "to 24 % of their side",
        ),
        (
            {"max_pixels": 262_144, "shrunk": None, "shrunk_to": None},  # in tiles
            "V*, attributes",
            "at most 262,144 pixels of a picture are seen (model.max_pixels)",
        ),
        ({"think": False}, "V*, attributes", "asked plainly, without a chain"),
        (
            {"benchmark": "refcoco", "metric": "refcoco_val+google"},
            "RefCOCO val, Acc@0.5",
            "UNC's or UMD's split and Google's 5,000 objects together",
        ),
        (
            {"benchmark": "sat", "metric": "static, file's order"},
            "SAT, static",
            "asked as: static, file's order",
        ),
        ({"benchmark": "pope", "metric": "average"}, "POPE", "the release asks these questions plainly"),
        ({"benchmark": "viscot", "metric": "average"}, "VisCoT-s", "judged by doubao-1.5-vision-pro"),
    ],
)
def test_what_differs_in_the_measurement_stands_in_the_row(values, label, said):
    found = row(paper_tables.tables([score(**values)], RESOLVED), label)
    assert said in "; ".join(found["differs"])
    assert found["ours"][0]["score"]["strict"] == 20.0


@pytest.mark.parametrize(
    "values", [{"max_pixels": 262_144, "shrunk": 0.0}, {"max_pixels": None, "shrunk": None}, {}]
)
def test_pictures_that_were_not_shrunk_are_no_difference(values):
    assert "pixels" not in "; ".join(
        row(paper_tables.tables([score(**values)], {}), "V*, attributes")["differs"]
    )


def test_the_report_says_how_pictures_were_seen(tmp_path):
    seen = {"max_pixels": 50_176, "shrunk": 0.5, "shrunk_to": 0.8}
    report.write(tmp_path / "report.html", report.Facts(stages=[], scores=[score(**seen)]))
    section = (tmp_path / "report.html").read_text().partition('<section id="scores">')[2]
    assert "The model sees at most 50,176 pixels of a picture" in section and "50 % shrunk to 80 %" in section
    report.write(tmp_path / "report.html", report.Facts(stages=[], scores=[score()]))
    assert "pixels of a picture" not in (tmp_path / "report.html").read_text()


def test_several_models_stand_in_one_row():
    found = paper_tables.tables([score(model="base", strict=0.1), score(model="sft", strict=0.3)], {})
    shown = [(one["model"], one["score"]["strict"]) for one in row(found, "V*, attributes")["ours"]]
    assert shown == [("base", 10.0), ("sft", pytest.approx(30.0))]


def test_rendered_look_alikes_are_labelled_and_no_number_of_the_paper_stands_beside_them(tmp_path):
    facts = report.Facts(stages=[], scores=[score(rendered=True)])
    report.write(tmp_path / "report.html", facts)
    page = (tmp_path / "report.html").read_text()
    section = page.partition('<section id="scores">')[2].partition("</section>")[0]
    assert "rendered look-alike: scenes in this benchmark" in section and "not comparable" in section
    assert "79.1" not in section and "Qwen2.5-VL-7B" not in section
    assert "vstar (rendered look-alike)" in report.page(facts)
    real = report.Facts(stages=[], scores=[score()])
    report.write(tmp_path / "report.html", real)
    section = (tmp_path / "report.html").read_text().partition('<section id="scores">')[2]
    assert "rendered look-alike" not in section and "79.1" in section


def test_the_tables_of_all_benchmarks_from_built_files_that_were_asked_and_scored(tmp_path, monkeypatch):
    """Every second question is answered rightly, by a table of replies in place of a model."""
    sources, replies = [], {}
    for name in sorted(set(BENCHMARKS) - {"sif"}):
        source = published_files.written(tmp_path / name, name, "")
        sources.append(source)
        questions = [q for q in BENCHMARKS[name].load(source) if isinstance(q, Question)]
        for place, question in enumerate(questions):
            replies[question.text] = built.perfect(name, question) if place % 2 == 0 else "no chain"

    def answer(request):
        text = request.messages[0]["content"][-1]["text"]
        return replies[max((known for known in replies if f"\n{known} Please first output" in text), key=len)]

    monkeypatch.setattr(evaluate.llm, "Client", built.Server(answer))
    monkeypatch.setattr(ovdeval, "DRAWS", 3)  # intervals take longest
    out = tmp_path / "out"
    out.mkdir()
    evaluate.evaluate(
        nullcontext(evaluate.Served("http://127.0.0.1:1", "model", "label", "digest")),
        config.Model(),
        config.Evaluate(benchmarks=sources),
        tmp_path / "ledger",
        built.depths,
        out,
        built.Server(built.judge),
    )
    report.write(
        tmp_path / "report.html",
        report.Facts(
            stages=[],
            title="paper",
            scores=scores.read_with_model(out),
            predictions=out / "predictions.parquet",
            config=RESOLVED,
        ),
    )
    page = (tmp_path / "report.html").read_text()
    section = page.partition('<section id="paper">')[2].partition("</section>")[0]
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", section))
    assert [f"Table {n}: {title}" in text for n, title in paper_tables.TITLES.items()] == [True] * 4
    made = {(s["benchmark"], s["metric"]): s for s in json.loads((out / "scores.json").read_text())["scores"]}
    for of in paper_tables.ROWS:
        metric = next((metric for metric in of.metrics if (of.benchmark, metric) in made), None)
        if metric is None:
            assert of.label == "MMBench, test"  # its file has dev's questions
            continue
        value = made[of.benchmark, metric]["strict"] * (
            100 if made[of.benchmark, metric]["unit"] == "share" else 1
        )
        part = text.partition(f" {of.label} ")[2]
        assert part.split()[2] == f"{value:.1f}", of.label  # model, official, strict
