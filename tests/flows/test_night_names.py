"""What a night names is checked before anything runs: tiers and benchmarks. No server runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import nightly as flow
from flows.commands import main
from sifthinker.config import Config
from sifthinker.core.errors import UserError

SOURCES = [{"name": "a", "format": "viscot", "path": "a.json"}]
VSTAR = {"benchmarks": [{"name": "vstar", "path": "x", "images": "x"}]}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"nightly": {"benchmarks": ["pope"]}},
            "nightly.benchmarks: pope not configured; evaluate.benchmarks and scenes.benchmarks have: none",
        ),
        (
            {"scenes": {}, "nightly": {"margins": {"refcooc": 0.05}}},
            "nightly.margins: refcooc not configured; did you mean 'refcoco'?; ",
        ),
        (
            {"evaluate": VSTAR, "nightly": {"margins": {"vstar sampled": 0.05}}},
            "nightly.margins: vstar sampled not configured; evaluate.benchmarks and scenes.benchmarks have: vstar",
        ),
        (
            {"evaluate": VSTAR, "nightly": {"tiers": {"nightly": {"benchmarks": ["vstat"]}}}},
            "nightly.tiers.nightly.benchmarks: vstat not configured; did you mean 'vstar'?; ",
        ),
    ],
)
def test_a_benchmark_that_is_not_there_is_refused_by_name(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as told:
        flow.chosen(Config.model_validate({"sources": SOURCES, **sections}), None, None, False, None)
    assert str(told.value).startswith(message)


def test_names_of_files_of_rendered_scenes_and_of_sampled_replies_are_known() -> None:
    evaluate = {**VSTAR, "sampled": 0.7}
    margins = {"vstar": 0.1, "vstar sampled": 0.1, "refcoco": 0.1, "refcoco sampled": 0.1}
    nightly = {"benchmarks": ["refcoco"], "margins": margins, "tiers": {"weekly": {"benchmarks": ["gone"]}}}
    of = Config.model_validate(
        {"scenes": {"benchmarks": ["refcoco"]}, "evaluate": evaluate, "nightly": nightly}
    )
    assert flow.chosen(of, None, ["vstar"], False, None).nightly.benchmarks == ("vstar",)
    assert flow.chosen(of, None, None, False, "quick").nightly.chain == ("quick", "nightly")
    with pytest.raises(UserError, match=r"nightly\.tiers\.weekly\.benchmarks: gone not configured"):
        flow.chosen(of, None, None, False, "weekly")


def test_the_command_ends_with_2_for_a_benchmark_that_is_not_there_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "nightly",
        "--config",
        "nightly",
        "--store",
        str(tmp_path / "store"),
        "--benchmark",
        "nonsense",
    ]
    monkeypatch.setattr(flow, "nightly", None)  # no night begins
    for more in ([], ["--plan"]):
        monkeypatch.setattr("sys.argv", ["sif", *options, *more])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 2
        assert "nightly.benchmarks: nonsense not configured" in capsys.readouterr().err
    assert not (tmp_path / "store" / "history").exists()
