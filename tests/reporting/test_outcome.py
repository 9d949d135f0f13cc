"""What the report begins with: the models side by side, and the model's own replies."""

import dataclasses
import io
import re

import pytest
from PIL import Image

from sifthinker.core import tables
from sifthinker.evaluation import history
from sifthinker.evaluation.shown import SHOWN
from sifthinker.reporting import outcome, report


def score(benchmark: str, metric: str, strict: float | None, **more):
    """A score as `scores.read_with_model` gives it."""
    found = {"model": "demo", "benchmark": benchmark, "metric": metric, "official": strict, "strict": strict}
    found |= {"n": 100, "unparsable": 0, "refused": 0, "rules": 2, "rejected": 0, "low": 0.1, "high": 0.9}
    return found | {"unit": "share", "limit": None, "missing": None, "box_frame": "image"} | more


def test_models_stand_side_by_side_in_the_order_of_the_training():
    made = outcome.side_by_side(
        {
            "grpo": [score("vstar", "overall", 0.6), score("pope", "accuracy", 0.7)],
            "base": [score("vstar", "overall", 0.25)],
        }
    )
    assert made["columns"] == ["Base", "GRPO"]
    vstar, pope = made["rows"]
    assert [cell["strict"] for cell in vstar["cells"]] == [25.0, 60.0]
    assert pope["cells"][0] is None and pope["cells"][1]["strict"] == 70.0
    assert vstar["cells"][0]["low"] == 10.0


@pytest.mark.parametrize(
    ("benchmark", "metrics", "first"),
    [
        ("pope", ["random accuracy", "accuracy random", "random f1", "average"], ["average"]),
        ("mme", ["existence", "count", "position", "cognition", "perception"], ["cognition", "perception"]),
        ("sif", ["answer", "boxes", "depth", "format", "answer/gqa"], ["answer", "boxes", "depth", "format"]),
        ("sif sampled", ["answer", "format", "format/gqa"], ["answer", "format"]),
        ("mine", ["a", "b", "c", "d", "overall"], ["a", "b", "c", "d", "overall"]),  # no benchmark of ours
    ],
)
def test_a_benchmark_of_many_metrics_shows_those_that_its_entry_names(benchmark, metrics, first):
    scores = [score(benchmark, metric, 0.5) for metric in metrics]
    facts = report.Facts(stages=[], scores=scores, headlines=history.headlines(scores))
    rows = [line.split(" | ") for line in report.page(facts).split("\n\n")[1].splitlines()[2:]]
    shown = [(name.removeprefix("| "), metric.removesuffix("<br>points")) for name, metric, *_ in rows]
    assert shown == [(benchmark, f"`{metric}`") for metric in first]


def test_without_headlines_all_metrics_are_shown_but_parts_of_others():
    scores = [score("mine", metric, 0.5) for metric in ("answer", "answer/gqa", "boxes")]
    assert [row["metric"] for row in outcome.side_by_side({"grpo": scores})["rows"]] == ["answer", "boxes"]


def test_the_short_page_of_the_ui_has_them_side_by_side_with_intervals():
    facts = report.Facts(
        stages=[],
        scores=[
            score("vstar", "overall", 0.6),
            score("refcoco", "a|<b>@1", 0.5, rendered=True, unparsable=7),
            score("sat", "accuracy", 0.5, low=None, high=None),
        ],
        before={"base": [score("vstar", "overall", 0.25)]},
    )
    lines = report.page(facts).splitlines()
    head = lines.index("| benchmark | metric | Base | GRPO | Paper |")
    assert lines[head - 2] == "Strict scores of 100, with 95 % intervals."
    vstar, refcoco, sat = lines[head + 2 : head + 5]
    assert vstar.startswith("| vstar | `overall` | **25.0**<br>10.0 – 90.0 | **60.0**<br>10.0 – 90.0 | ")
    assert refcoco == (
        "| refcoco<br>rendered look-alike | `a\\|<b>@1` | not scored | **50.0**<br>10.0 – 90.0<br>7 % unparsable "
        "| other questions |"
    )
    assert sat.startswith("| sat | `accuracy` | not scored | **50.0** | ")
    assert all(
        line.replace("\\|", "").count("|") == lines[head].count("|") for line in lines[head : head + 5]
    )
    assert head < lines.index("| benchmark | metric | official | strict | questions | unparsable |")
    assert outcome.markdown(outcome.side_by_side({})) == ""


def test_mmes_points_are_not_of_100(tmp_path):
    points = {"unit": "points", "low": 1540.0, "high": 1660.0}
    mme = score("mme", "perception", 1600.5, **points)
    facts = report.Facts(stages=[], scores=[mme, score("pope", "accuracy", 0.7)])
    lines = report.page(facts).splitlines()
    assert lines[0] == "Strict scores of 100 (MME: points), with 95 % intervals."
    assert any(
        line.startswith("| mme | `perception`<br>points | **1600.5**<br>1540.0 – 1660.0 |") for line in lines
    )
    assert "| mme | `perception` points | 1600.5 | 1600.5 | 100 | 0 % |" in lines
    assert "| pope | `accuracy` | 70.0 | 70.0 | 100 | 0 % |" in lines
    report.write(tmp_path / "report.html", facts)
    html = (tmp_path / "report.html").read_text("utf-8")
    first, scores = html.split('id="outcome"')[1].split('id="replies"')[0], html.split('id="scores"')[1]
    assert "of 100 (MME: points), with" in first and "perception, points" in first
    assert "All of 100; MME in points." in scores and 'perception <span class="quiet">points' in scores
    assert first.count('class="interval"') == 1, "a bar from 0 to 100 is drawn for the other metric alone"
    assert scores.split('id="dataset"')[0].count('class="interval"') == 1
    report.write(
        tmp_path / "report.html", dataclasses.replace(facts, scores=[score("pope", "accuracy", 0.7)])
    )
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "(MME: points)" not in html and "All of 100. " in html


def test_what_was_not_scored_has_no_row():
    assert outcome.side_by_side({"grpo": [score("sat", "", None, missing="no file")]})["rows"] == []


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "JPEG")
    return out.getvalue()


def shown(path, counts):
    """Replies of each benchmark: so many right and wrong ones."""
    rows = [
        {
            "benchmark": benchmark,
            "id": f"{benchmark}/{kind}/{number}",
            "question": "<b>Which?</b>",
            "reference": "B",
            "reply": "<think>...</think><answer>B</answer>",
            "answer": "B" if kind == "right" else "",
            "read_as": "B",
            "unparsable": "" if kind == "right" else "no-answer",
            "strict": 1.0 if kind == "right" else 0.0,
            "picture": picture(),
        }
        for benchmark, kinds in counts.items()
        for kind, count in kinds.items()
        for number in range(count)
    ]
    tables.write(path, SHOWN, rows)
    return path


def test_replies_are_right_and_wrong_ones_in_turns_by_benchmark(tmp_path):
    file = shown(tmp_path / "shown.parquet", {"a": {"right": 3, "wrong": 3}, "b": {"right": 3, "wrong": 1}})
    found = outcome.replies(file, 6)
    assert [row["id"] for row in found["right"]] == ["a/right/0", "b/right/0", "a/right/1"]
    assert [row["id"] for row in found["wrong"]] == ["a/wrong/0", "b/wrong/0", "a/wrong/1"]
    assert found["wrong"][0]["said"] == "nothing that could be read (no-answer)"


@pytest.mark.parametrize(
    ("reference", "answer", "read_as", "right", "said"),
    [
        ("B", "the B", "B", "B", "the B"),
        (
            "[0.125, 0.25, 0.5, 1.0]",
            "no",
            "[[0.1, 0.2, 0.5, 0.9]]",
            "box 0.125, 0.250, 0.500, 1.000",
            "box 0.100, 0.200, 0.500, 0.900",
        ),
        ('{"answer": "cube", "boxes": [[0, 0, 1, 1]]}', "cube", "", "cube", "cube"),
        ("3", "three", "3", "3", "three"),
        ("[broken", "x", "", "[broken", "x"),
    ],
)
def test_references_and_readings_are_shown_plainly(tmp_path, reference, answer, read_as, right, said):
    file = shown(tmp_path / "shown.parquet", {"a": {"right": 1}})
    [row] = tables.read(file)
    tables.write(file, SHOWN, [row | {"reference": reference, "answer": answer, "read_as": read_as}])
    [found] = outcome.replies(file, 2)["right"]
    assert (found["reference"], found["said"]) == (right, said)


@pytest.mark.parametrize(("right", "wrong"), [(5, 0), (0, 5), (1, 5), (5, 1)])
def test_where_there_are_few_of_one_kind_the_other_fills_up(tmp_path, right, wrong):
    file = shown(tmp_path / "shown.parquet", {"a": {"right": right, "wrong": wrong}})
    found = outcome.replies(file, 4)
    assert (len(found["right"]) + len(found["wrong"])) == 4


def test_the_report_begins_with_them_and_says_when_where_and_at_what_cost(tmp_path):
    file = shown(tmp_path / "shown.parquet", {"vstar": {"right": 1, "wrong": 1}})
    rows = {"in": 1, "kept": 1, "rejected": {}}
    stage = {"stage": "annotate", "key": "k", "digest": "d", "seconds": 90.0, "rows": rows, "made": 0.0}
    paid = {
        "calls": 1200,
        "prompt_tokens_bought": 10,
        "completion_tokens_bought": 5,
        "cost": "1.5 CNY, 0.25 USD",
    }
    facts = report.Facts(
        stages=[
            stage | {"notes": paid},
            stage
            | {
                "stage": "grpo",
                "notes": {"judge_calls": 1200, "judge_tokens_bought": 15, "cost": paid["cost"]},
            },
            stage | {"stage": "evaluate", "notes": {"calls": 7, "prompt_tokens_bought": 9}},
        ],
        scores=[score("vstar", "overall", 0.6)],
        before={"base": [score("vstar", "overall", 0.25, model="base model")]},
        shown=file,
        machine="a machine",
        commit="0123456789abcdef0123456789abcdef01234567 with changes",
    )
    report.write(tmp_path / "report.html", facts)
    html = (tmp_path / "report.html").read_text("utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.split("</style>")[1]))
    for expected in (
        "1970-01-01 00:01 UTC",
        "3.00 CNY, 0.50 USD (2,400 calls, 30 tokens)",
        "Seconds, calls, tokens and cost are those of all tries.",
        "tokens of the annotator for these rows",
        "0123456789ab with changes",
        "a machine",
        "Base GRPO Paper",
        "25.0 10.0 – 90.0",
        "base model",
    ):
        assert expected in text, expected
    places = [html.index(f'id="{name}"') for name in ("outcome", "replies", "scores", "dataset", "training")]
    assert places == sorted(places)
    assert places[-1] < html.index('id="stages"') < html.index('id="provenance"')
    assert "&lt;b&gt;Which?&lt;/b&gt;" in html and html.count("data:image/jpeg") == 2
    unpriced = dataclasses.replace(facts, stages=[stage | {"notes": {"calls": 5}}])
    report.write(tmp_path / "report.html", unpriced)
    assert "unknown: no prices are set (5 calls, 0 tokens)" in (tmp_path / "report.html").read_text("utf-8")
