"""The rows of the paper's Table 5: what differs between them, what they share, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.ablation import made_with, row
from sifthinker.config import Config, Variant, identity
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.evaluation import ablation, scoring
from sifthinker.store.artifacts import Store
from tests import nights
from tests.flows.test_reproduce import Drawing

CONFIG = Config.model_validate({"scenes": {}, "name": "table"})
VARIANTS = {variant.name: variant for variant in CONFIG.ablation.variants}


def drawn(name: str) -> Drawing:
    drawing = Drawing(ablation.configured(CONFIG, VARIANTS[name], 0))
    row(drawing, VARIANTS[name].trained)  # type: ignore[arg-type]
    return drawing


def sections(name: str) -> dict[str, str]:
    """The configuration that each stage of a row depends on."""
    drawing = drawn(name)
    return {
        label: json.dumps(identity(stage.config(drawing.config)), default=str)
        for label, stage in drawing.stages.items()
    }


def test_a_row_is_trained_as_far_as_it_says() -> None:
    assert list(drawn("base").graph) == ["scenes", "depth-weights", "policy-weights", "evaluate"]
    assert drawn("base").graph["evaluate"] == "model=policy-weights weights=depth-weights"
    assert drawn("cot-sft").graph["evaluate"] == "model=merge-sft weights=depth-weights"
    assert drawn("full").graph["grpo"] == "base=merge-sft subset=subset"
    assert drawn("full").graph["evaluate"] == "model=merge-grpo weights=depth-weights"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("cot-sft", set()),  # a part of the full run
        ("vqa-sft", {"sft", "evaluate"}),  # learns and is asked the plain question
        ("no-format-reward", {"grpo"}),
        ("no-answer-reward", {"grpo"}),
        ("no-grounding-reward", {"grpo"}),
        ("no-depth-reward", {"grpo"}),
        ("no-progress", {"grpo"}),
        ("no-depth-image", {"sft", "merge-sft", "grpo", "merge-grpo", "evaluate"}),
        ("base", {"evaluate"}),
    ],
)
def test_a_row_differs_from_the_full_run_in_its_own_stages_only(name: str, own: set[str]) -> None:
    full, this = sections("full"), sections(name)
    assert {label for label in this if this[label] != full[label]} == own


def test_a_row_of_an_unknown_field_is_refused() -> None:
    with pytest.raises(UserError, match=r"ablation, row x: .*grpo\.rewards\.colour"):
        ablation.configured(CONFIG, Variant(name="x", fields={"grpo.rewards.colour": 0}), 0)
    with pytest.raises(ValueError, match="hold the reference 'full'"):
        Config.model_validate({"scenes": {}, "ablation": {"variants": [{"name": "base"}]}})
    with pytest.raises(ValueError, match=r"ablation\.pairs: there is no row 'ful'.*full"):
        Config.model_validate({"scenes": {}, "ablation": {"pairs": [["cot-sft", "ful"]]}})


def test_the_table_has_every_row_with_its_difference_and_says_that_toys_learn_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    full = [1.0] * 60 + [0.0] * 40
    rows = {
        "base": [nights.evaluated(store, "00", {"vstar": [0.0] * 30 + [1.0] * 30 + [0.0] * 40}).folder],
        "full": [nights.evaluated(store, "01", {"vstar": full}).folder],
        "no-progress": [nights.evaluated(store, "02", {"vstar": full}, missing={"pope": "no files"}).folder],
    }
    text = ablation.write(tmp_path, rows, "full", "tiny")
    assert text == (tmp_path / "table.md").read_text().rstrip("\n")
    assert ablation.NOTICES["tiny"] in text
    assert "| base | 30.0, 0 % |" in text
    assert "| base | vstar | -30.0 | " in text
    assert "| no-progress | vstar | +0.0 | " in text
    assert "VisCoT-s, which was not asked here" in text
    document = json.loads((tmp_path / "table.json").read_text())
    assert [entry["row"] for entry in document["rows"]] == list(rows)
    assert document["rows"][2]["missing"] == {"pope": "no files"}
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    assert document["limit"] is None and "quick look" not in text


def test_every_trained_row_is_made_once_a_seed() -> None:
    config = Config.model_validate({"scenes": {}, "name": "table", "ablation": {"seeds": [3, 5]}})
    made = made_with(config, config.ablation.variants)
    assert [name for name in made if name.startswith(("base", "full"))] == ["base.3", "full.3", "full.5"]
    assert (made["full.5"][1].sft.seed, made["full.5"][1].grpo.seed) == (5, 5)
    assert made["full.5"][1].name == "table.full.5"
    more = {"name": "cot-sft", "trained": "sft", "seeds": [3, 5, 7]}
    variants = [{"name": "base", "trained": "no", "seeds": [4, 6]}, more, {"name": "full"}]
    own = Config.model_validate({"scenes": {}, "ablation": {"seeds": [3], "variants": variants}})
    assert [*made_with(own, own.ablation.variants)] == [
        "base.4",
        "cot-sft.3",
        "cot-sft.5",
        "cot-sft.7",
        "full.3",
    ]
    assert [*made_with(one := ablation.only(own, [5]), one.ablation.variants)] == [
        "base.5",
        "cot-sft.5",
        "full.5",
    ]
    with pytest.raises(ValueError, match="seeds must be unique"):
        Config.model_validate({"scenes": {}, "ablation": {"seeds": [1, 1]}})


def test_seeds_are_pooled_question_by_question(tmp_path: Path) -> None:
    """Of 4 questions one seed has 2 right, the other 3: mean 0.625, and a standard error of 0.25 / 2."""
    store = Store(tmp_path / "store")
    one, other = [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]
    rows = {
        "base": [nights.evaluated(store, "00", {"vstar": [0.0] * 4}).folder],
        "full": [
            nights.evaluated(store, name, {"vstar": of}).folder for name, of in (("01", one), ("02", other))
        ],
    }
    text = ablation.write(tmp_path, rows, "full", "published")
    assert "| full | 62.5 ± 12.5, 0 % |" in text
    assert "| base | 0.0, 0 % |" in text
    assert "| base | vstar | -62.5 | " in text
    assert "Means over 2 seeds" in text
    document = json.loads((tmp_path / "table.json").read_text())
    (score,) = document["rows"][1]["scores"]
    assert score["by_seed"] == [0.5, 0.75] and score["error"] == pytest.approx(0.125)
    assert score["low"] < 0.625 - 1.96 * 0.125  # the questions' own uncertainty comes on top
    (compared,) = document["rows"][0]["compared"]
    assert (compared["lost"], compared["won"], compared["n"]) == (3, 0, 4)


def test_what_is_scored_of_a_reply_is_compared_one_by_one_and_by_data_set(tmp_path: Path) -> None:
    """Of 2 questions `full` looks right at both and answers one; `base` looks at neither."""
    folders = {}
    for name, boxes in (("base", 0.0), ("full", 1.0)):
        folders[name] = folder = tmp_path / name
        folder.mkdir()
        rows = [
            {
                "benchmark": "sif", "id": str(i), "group": f"scenes-{i}", "question": "?", "reference": "x",
                "image_sha256": str(i), "strict": float(i), "official": float(i),
                "parts": {"answer": float(i), "boxes": boxes},
            }
            for i in (0, 1)
        ]  # fmt: skip
        tables.write(folder / "predictions.parquet", scoring.PREDICTIONS, rows)
        scores = [("answer", 0.5), ("boxes", boxes), ("boxes/scenes-0", boxes), ("boxes/scenes-1", boxes)]
        entry = {"benchmark": "sif", "n": 2, "unparsable": 0, "unit": "share", "limit": None, "missing": None}
        made = [
            {**entry, "metric": name, "strict": value, "official": value, "low": value, "high": value}
            for name, value in scores
        ]
        (folder / "scores.json").write_text(json.dumps({"scores": made}))
    text = ablation.write(tmp_path, {name: [f] for name, f in folders.items()}, "full", "miniature")
    assert "| | sif answer | sif boxes |" in text
    assert "sif boxes by the data set that the question is from:\n\n| | scenes-0 | scenes-1 |" in text
    assert "| base | sif boxes | -100.0 | " in text and "| base | sif answer | +0.0 | " in text
    assert text.startswith(f"**{ablation.NOTICES['miniature']}**")


def test_the_interval_of_a_share_ends_at_one() -> None:
    score = {"benchmark": "vstar", "metric": "overall", "n": 4, "unit": "share", "unparsable": 0}
    one, other = ({**score, "strict": s, "official": s, "low": s - 0.2, "high": 1.0} for s in (1.0, 0.75))
    (found,) = ablation.pooled([[one], [other]])
    assert found["high"] == 1.0
    assert found["low"] == pytest.approx(0.875 - (0.2**2 + (1.96 * 0.125) ** 2) ** 0.5)


def test_a_bound_of_zero_is_as_far_from_the_score_as_it_says() -> None:
    score = {"benchmark": "vstar", "metric": "overall", "n": 40, "unit": "share", "unparsable": 0}
    one, other = ({**score, "strict": 0.05, "official": 0.05, "low": 0.0, "high": 0.12} for _ in range(2))
    (found,) = ablation.pooled([[one], [other]])
    assert found["low"] == 0.0 and found["high"] == pytest.approx(0.12)


def test_seeds_that_answered_other_questions_are_not_pooled(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folders = [nights.evaluated(store, str(n), {"vstar": [1.0] * n}).folder for n in (2, 3)]
    with pytest.raises(ValueError, match="differ in vstar"):
        ablation.write(tmp_path, {"full": folders}, "full", "published")


def test_the_table_of_a_quick_look_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = nights.evaluated(store, "00", {"vstar": [1.0, 0.0]}).folder
    scores = json.loads((folder / "scores.json").read_text())
    for score in scores["scores"]:
        score["limit"] = 2
    (folder / "scores.json").write_text(json.dumps(scores))
    text = ablation.write(tmp_path, {"full": [folder]}, "full", "published")
    assert text.startswith(
        "**This is a quick look: at most 2 questions of each benchmark, a seeded sample.**"
    )
    assert json.loads((tmp_path / "table.json").read_text())["limit"] == 2


def test_rows_scored_by_other_rules_are_not_compared_and_the_papers_numbers_stand_by_its_benchmark_only(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    rows = {
        name: [nights.evaluated(store, key, {"vstar": [value] * 20}, rules=rules).folder]
        for name, key, value, rules in (("full", "aa", 1.0, 2), ("base", "bb", 0.0, 2), ("old", "cc", 0.0, 1))
    }
    text = ablation.write(tmp_path, rows, "full", "published")
    assert "| base | vstar | -100.0 |" in text and "| old | vstar |" not in text
    assert "Scored by other rules than full, and not compared with it: old." in text
    assert "which was not asked here: its numbers are not comparable" in text and "0.76 of 1" not in text
    asked = {"row": "full", "scores": [{"benchmark": "viscot", "rendered": False}]}
    assert "full run, viscot average 0.76 of 1, VQA-SFT 0.536, CoT-SFT 0.582" in ablation._published([asked])
    asked["scores"][0]["rendered"] = True
    assert "not comparable" in ablation._published([asked])
