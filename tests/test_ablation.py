"""The rows of the paper's Table 5: what differs between them, what they share, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.ablation import row
from sifthinker import ablation
from sifthinker.config import Config, UserError, Variant, identity
from sifthinker.store import Store
from tests import nights
from tests.flows.test_reproduce import Drawing

CONFIG = Config.model_validate({"scenes": {}, "name": "table"})
VARIANTS = {variant.name: variant for variant in CONFIG.ablation.variants}


def drawn(name: str) -> Drawing:
    drawing = Drawing(ablation.configured(CONFIG, VARIANTS[name]))
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
    with pytest.raises(UserError, match=r"ablation, row x: .*\n.*grpo\.rewards\.colour"):
        ablation.configured(CONFIG, Variant(name="x", fields={"grpo.rewards.colour": 0}))
    with pytest.raises(ValueError, match="hold the reference 'full'"):
        Config.model_validate({"scenes": {}, "ablation": {"variants": [{"name": "base"}]}})


def test_the_table_has_every_row_with_its_difference_and_says_that_toys_learn_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    full = [1.0] * 60 + [0.0] * 40
    rows = {
        "base": nights.evaluated(store, "00", {"vstar": [0.0] * 30 + [1.0] * 30 + [0.0] * 40}).folder,
        "full": nights.evaluated(store, "01", {"vstar": full}).folder,
        "no-progress": nights.evaluated(store, "02", {"vstar": full}, missing={"pope": "no files"}).folder,
    }
    text = ablation.write(tmp_path, rows, "full", toy=True)
    assert text == (tmp_path / "table.md").read_text().rstrip("\n")
    assert ablation.TOY in text
    assert "| base | 30.0 (30.0), 0 % |" in text
    assert "| base | vstar | -30.0 | " in text
    assert "| no-progress | vstar | +0.0 | " in text
    assert "full run, viscot average 0.76 of 1, VQA-SFT 0.536, CoT-SFT 0.582" in text
    document = json.loads((tmp_path / "table.json").read_text())
    assert [entry["row"] for entry in document["rows"]] == list(rows)
    assert document["rows"][2]["missing"] == {"pope": "no files"}
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    assert document["limit"] is None and "quick look" not in text


def test_the_table_of_a_quick_look_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = nights.evaluated(store, "00", {"vstar": [1.0, 0.0]}).folder
    scores = json.loads((folder / "scores.json").read_text())
    for score in scores["scores"]:
        score["limit"] = 2
    (folder / "scores.json").write_text(json.dumps(scores))
    text = ablation.write(tmp_path, {"full": folder}, "full", toy=False)
    assert text.startswith(
        "**This is a quick look: at most 2 questions of each benchmark, a seeded sample.**"
    )
    assert json.loads((tmp_path / "table.json").read_text())["limit"] == 2
