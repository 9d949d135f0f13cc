"""Rows of an ablation that are kept over days: what is kept, what may be compared, and what the tables say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.evaluation import gathered, kept_rows, scoring
from sifthinker.evaluation.benchmarks.question import rules
from sifthinker.store.lineage import Node

PAIRS = (("vqa-sft", "cot-sft"), ("cot-sft", "full"))


def evaluation(folder: Path, right: dict[str, list[float]], asked: str = "?", per_image: int = 1) -> Path:
    """An evaluation with these answers, 1 or 0 a question, by group ("count-4")."""
    folder.mkdir(parents=True)
    rows = [
        {
            "benchmark": "sif", "id": f"{group}/{i}", "group": group, "question": asked, "reference": "x",
            "image_sha256": f"{group}{i // per_image}", "reply": "long " * 99, "strict": value, "official": value,
            "parts": {"answer": value, "boxes": 0.5},
        }
        for group, values in right.items()
        for i, value in enumerate(values)
    ]  # fmt: skip
    tables.write(folder / "predictions.parquet", scoring.PREDICTIONS, rows)
    entry = {
        "benchmark": "sif",
        "n": len(rows),
        "unparsable": 0,
        "unit": "share",
        "limit": None,
        "missing": None,
    }
    scores = [
        {**entry, "metric": metric, "strict": 0.5, "official": 0.5, "low": 0.4, "high": 0.6}
        for metric in ("answer", "answer/count-4")
    ]
    (folder / "scores.json").write_text(json.dumps({"scores": scores, "rules": 2}))
    return folder


def lineage(digest: str, weights: str = "w" * 64, code: str = "a", made: float = 0.0) -> dict[str, Node]:
    def node(label: str, digest: str, seconds: float) -> Node:
        manifest: dict[str, Any] = {
            "label": label, "identity": {"code": {"module": code}}, "seconds": seconds, "made": made,
        }  # fmt: skip
        return Node(f"{label}/0123456789abcdef", digest, manifest, ())

    nodes = [node("policy-weights", weights, 1.0), node("sft", digest, 300.0), node("evaluate", digest, 59.0)]
    return {node.name: node for node in nodes}


def keep(folder: Path, row: str, seed: int, right: dict[str, list[float]], **of: Any) -> bool:
    asked = of.pop("asked", "?")
    place = folder.parent / f"{row}.{seed}.{len(list(folder.parent.iterdir()))}"
    made = evaluation(place, right, asked, of.pop("per_image", 1))
    return kept_rows.keep(
        folder, row, seed, made, lineage(of.pop("digest", row * 9), **of), f"sif {row}, commit abc"
    )


def test_what_is_kept_is_small_and_says_what_it_was_made_from(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert keep(folder, "cot-sft", 3, {"count-4": [1.0, 0.0]}, made=86_400.0)
    place = folder / "cot-sft.3"
    files = {"made.json", "predictions.parquet", "scores.json", "curves.json"}
    assert {path.name for path in place.iterdir()} == files
    made = json.loads((place / "made.json").read_text())
    assert (made["row"], made["seed"], made["seconds"]) == ("cot-sft", 3, 360.0)
    assert (made["made"], made["run"]) == ("1970-01-02 00:00 UTC", "sif cot-sft, commit abc")
    assert set(made["stages"]) == {"policy-weights", "sft", "evaluate"}
    (one, _) = tables.read(place / "predictions.parquet")
    assert "reply" not in one and dict(one["parts"]) == {"answer": 1.0, "boxes": 0.5}
    scores = json.loads((place / "scores.json").read_text())["scores"]
    assert [score["metric"] for score in scores] == ["answer"]  # by kind: from the questions themselves
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_a_killed_process_left_behind_is_no_row(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / ".drawn.77").mkdir(parents=True)  # killed as it drew the tables
    (folder / ".full.3.77").mkdir()  # as it kept a row
    (folder / ".full.3.77" / "made.json").write_text('{"row": "full", "seed": 3}')
    assert keep(folder, "cot-sft", 3, {"count-4": [1.0, 0.0]})
    assert [row.folder.name for row in kept_rows.rows(folder)] == ["cot-sft.3"]


def test_the_same_result_is_kept_once_and_another_one_never_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert keep(folder, "full", 0, {"count-4": [1.0]}, digest="one")
    (folder / "full.0" / "curves.json").unlink()  # as one that was kept before curves were
    assert not keep(folder, "full", 0, {"count-4": [1.0]}, digest="one")
    assert json.loads((folder / "full.0" / "curves.json").read_text()) == {}
    with pytest.raises(UserError, match=r"full\.0: holds another result .* keep this one in another folder"):
        keep(folder, "full", 0, {"count-4": [0.0]}, digest="two")
    assert keep(folder, "full", 1, {"count-4": [0.0]}, digest="two")
    assert [(row.name, row.made["seed"]) for row in kept_rows.rows(folder)] == [("full", 0), ("full", 1)]


def test_rows_with_other_questions_or_weights_are_never_in_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    right = {"count-4": [1.0, 0.0]}
    keep(folder, "vqa-sft", 0, right)
    keep(folder, "cot-sft", 0, right)
    keep(folder, "full", 0, right, asked="another question?")
    keep(folder, "base", 0, right, weights="v" * 64)
    sets = [{row.name for row in alike} for alike in gathered.comparable(kept_rows.rows(folder))]
    assert sets[0] == {"vqa-sft", "cot-sft"} and sorted(map(sorted, sets[1:])) == [["base"], ["full"]]
    text = gathered.draw(folder, ["base", "vqa-sft", "cot-sft", "full"], PAIRS, "miniature")
    assert text.count("Questions ") == 3
    assert "cot-sft against vqa-sft" in text and "full against cot-sft" not in text


def test_rows_scored_by_other_rules_are_never_in_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for row in ("vqa-sft", "cot-sft"):
        keep(folder, row, 0, {"count-4": [1.0, 0.0]})
    assert "Scored by" not in gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature")
    file = folder / "cot-sft.0" / "scores.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rules": 3}))
    assert [len(alike) for alike in gathered.comparable(kept_rows.rows(folder))] == [1, 1]
    text = gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature")
    assert "Scored by the rules 2." in text and "Scored by the rules 3." in text
    assert "cot-sft against vqa-sft" not in text


def test_rows_with_one_number_for_all_rules_stand_beside_rows_with_one_for_each_benchmark(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "kept"
    for row in ("vqa-sft", "cot-sft"):
        keep(folder, row, 0, {"count-4": [1.0, 0.0]})
    file = folder / "vqa-sft.0" / "scores.json"
    older = json.loads(file.read_text())
    bare = [{k: v for k, v in score.items() if k != "rules"} for score in older["scores"]]
    file.write_text(json.dumps({**older, "scores": bare, "rules": rules("sif")}))
    file = folder / "cot-sft.0" / "scores.json"
    newer = {key: value for key, value in older.items() if key != "rules"}
    file.write_text(json.dumps({**newer, "scores": [{**s, "rules": rules("sif")} for s in bare]}))
    assert [len(alike) for alike in gathered.comparable(kept_rows.rows(folder))] == [2]


def test_answers_are_shown_by_kind_and_compared_two_sided_over_all_tests(tmp_path: Path) -> None:
    """Of 40 counts, five seeds of cot-sft have 30 to 32 right, 31 on average; vqa-sft 10. Single looks are alike."""
    folder = tmp_path / "kept"
    looks = {"scenes-4": [1.0] * 10}
    keep(folder, "vqa-sft", 0, {"count-4": [1.0] * 10 + [0.0] * 30, **looks})
    for seed, many in enumerate((30, 31, 31, 31, 32)):
        keep(
            folder,
            "cot-sft",
            seed,
            {"count-4": [1.0] * many + [0.0] * (40 - many), **looks},
            digest=str(seed),
        )
    text = gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature")
    assert "| row | seeds | answer | answer, count | answer, scenes | boxes |" in text
    assert "| vqa-sft | 1 | 40 ± 7 | 25 ± 7 | 100 ± 0 | 50 ± 0 |" in text
    assert "| cot-sft | 5 | 82 " in text
    rows = {line.split("|")[2].strip(): line for line in text.splitlines() if "cot-sft against" in line}
    assert set(rows) == {"answer", "answer, count", "answer, scenes", "boxes"}
    assert (
        "| 40 | 1 and 5 | +52.5 |" in rows["answer, count"]
        and "| 10 | 1 and 5 | +0.0 |" in rows["answer, scenes"]
    )
    assert float(rows["answer, count"].split("|")[7]) < 0.002
    assert float(rows["answer, scenes"].split("|")[7]) == 1.0
    assert "corrected over the 4 tests" in text
    assert "other seeds would be apart is not known of vqa-sft, which have one" in text
    assert (folder / "results.md").read_text() == text
    for picture in ("table.png", "by-number.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def _table(text: str, first: str) -> list[dict[str, str]]:
    """The rows of the first table of a text whose first head this is."""
    lines = text[text.index(f"| {first} |") :].splitlines()
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:end]]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_a_data_set_without_a_number_is_a_kind_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    right = {
        "kitchen": [1.0] * 45 + [0.0] * 5,
        "count-4": [1.0] * 15 + [0.0] * 35,
        "refcoco-val": [1.0] * 40 + [0.0] * 10,
    }
    for row in ("vqa-sft", "cot-sft"):
        keep(folder, row, 0, right)
    text = gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature")
    shown = _table(text, "row")[0]
    assert {name: cell.split(" ")[0] for name, cell in shown.items() if name.startswith("answer")} == {
        "answer": "67", "answer, count": "30", "answer, kitchen": "90", "answer, refcoco-val": "80",
    }  # fmt: skip
    assert "questions a seed: 50 count, 50 kitchen, 50 refcoco-val." in text
    tested = {row["score"]: row["questions"] for row in _table(text, "paired by question")}
    assert tested == {
        "answer": "150", "answer, count": "50", "answer, kitchen": "50", "answer, refcoco-val": "50",
        "boxes": "150",
    }  # fmt: skip


def test_questions_of_one_kind_alone_are_shown_and_tested_once(tmp_path: Path) -> None:
    """Were the kind tested beside all of its questions, Holm would double p."""
    folder = tmp_path / "kept"
    for row, right in (("vqa-sft", 10), ("cot-sft", 20)):
        keep(folder, row, 0, {"kitchen": [1.0] * right + [0.0] * (50 - right)})
    text = gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature")
    assert "| row | seeds | answer | boxes |" in text and "questions a seed: 50 kitchen." in text
    answer, boxes = _table(text, "paired by question")
    assert (answer["score"], boxes["score"]) == ("answer", "boxes")
    assert float(answer["p, Holm"]) == pytest.approx(2 * 2 * 0.5**10, rel=0.05)


def test_a_standard_error_takes_the_questions_about_one_image_as_one(tmp_path: Path) -> None:
    """Thirty images, twelve of them right at all of their three questions: the error is that of thirty."""
    folder = tmp_path / "kept"
    keep(folder, "vqa-sft", 0, {"count-4": [1.0] * 36 + [0.0] * 54}, per_image=3)
    text = gathered.draw(folder, ["vqa-sft"], (), "miniature")
    assert _table(text, "row")[0]["answer"] == "40 ± 9"  # 100 sqrt(0.4 * 0.6 / 29); of ninety it were 5
    replies = [tables.read(folder / "vqa-sft.0" / "predictions.parquet")]
    assert gathered._mean([[*of] for of in replies], "answer", "count", "4")[1] == pytest.approx(
        100 * (0.4 * 0.6 / 29) ** 0.5
    )


def test_the_error_of_a_single_image_is_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    keep(folder, "vqa-sft", 0, {"count-4": [1.0, 0.0]}, per_image=2)
    text = gathered.draw(folder, ["vqa-sft"], (), "miniature")
    assert _table(text, "row")[0]["answer"] == "50"


def test_a_stage_made_with_other_code_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    keep(folder, "vqa-sft", 0, {"count-4": [1.0]})
    keep(folder, "cot-sft", 0, {"count-4": [1.0]})
    assert "not made with the same code" not in gathered.draw(folder, [], PAIRS, "miniature")
    keep(folder, "cot-sft", 1, {"count-4": [1.0]}, digest="x", code="b")
    text = gathered.draw(folder, [], PAIRS, "miniature")
    assert "not made with the same code" in text and "in cot-sft.0, vqa-sft.0" in text
    assert "| cot-sft | 1 | 1970-01-01 00:00 UTC | 6 | sif cot-sft, commit abc |" in text


def test_an_empty_folder_and_a_broken_row_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no row yet; `sif ablation --row NAME --keep"):
        gathered.draw(tmp_path, [], PAIRS, "miniature")
    (tmp_path / "full.0").mkdir()
    with pytest.raises(UserError, match=r"full\.0.made\.json: cannot be read"):
        kept_rows.rows(tmp_path)


def test_sampled_replies_have_columns_and_comparisons_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for seed in (0, 1):
        for row, greedy, sampled in (("cot-sft", [1.0, 0.0], [0.0, 0.0]), ("full", [1.0, 0.0], [1.0, 1.0])):
            place = evaluation(tmp_path / f"{row}.{seed}", {"count-4": greedy})
            warm = evaluation(tmp_path / f"{row}.{seed} sampled", {"count-4": sampled})
            rows = list(tables.read(place / "predictions.parquet"))
            rows += [
                {**found, "benchmark": f"{found['benchmark']} sampled"}
                for found in tables.read(warm / "predictions.parquet")
            ]
            tables.write(place / "predictions.parquet", scoring.PREDICTIONS, rows)
            kept_rows.keep(folder, row, seed, place, lineage(f"{row}{seed}" * 9), "sif, commit abc")
    said = gathered.draw(folder, ["cot-sft", "full"], [("cot-sft", "full")], "miniature")
    head, cot, full = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in said.splitlines()
        if line.startswith(("| row | seeds | answer", "| cot-sft | 2", "| full | 2"))
    )
    means = [dict(zip(head, (cell.split(" ±")[0] for cell in row), strict=True)) for row in (cot, full)]
    assert [(one["answer"], one["answer, sampled"]) for one in means] == [("50", "0"), ("50", "100")]
    assert "questions a seed: 2 count." in said  # each counts once
    assert "| full against cot-sft | answer, sampled | 2 | 2 | +100.0 |" in said
    assert "| full against cot-sft | answer | 2 | 2 | +0.0 |" in said
