"""Scores as files hold them and as people see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sifthinker.core import scores

SHARE: scores.Score = {
    "benchmark": "vstar",
    "metric": "overall",
    "official": None,
    "strict": 0.5,
    "n": 8,
    "unparsable": 2,
    "refused": 1,
    "rules": 2,
    "rejected": 0,
    "low": 0.25,
    "high": float("inf"),
    "unit": "share",
    "limit": None,
    "missing": None,
    "rendered": False,
    "shrunk": 0.5,
    "shrunk_to": 0.25,
}


@pytest.mark.parametrize(
    ("unit", "strict", "low"),
    [
        ("share", 50, 25),
        ("points", 0.5, 0.25),  # points are shown as the benchmark counts them
    ],
)
def test_shares_are_shown_of_100_and_what_is_no_number_is_none(unit: str, strict: float, low: float) -> None:
    shown = scores.of_100({**SHARE, "unit": unit})  # type: ignore[typeddict-item]
    assert (shown["official"], shown["strict"], shown["low"], shown["high"]) == (None, strict, low, None)
    assert list(shown) == list(SHARE)


def test_the_unparsable_rate_is_in_per_cent_and_0_without_questions() -> None:
    assert scores.unparsable_rate(SHARE) == 25
    assert scores.unparsable_rate({**SHARE, "n": 0, "unparsable": 0}) == 0


def test_scores_are_read_from_the_folder_of_an_evaluation_with_the_models_name(tmp_path: Path) -> None:
    plain = {**SHARE, "high": 0.75}
    (tmp_path / scores.FILE).write_text(json.dumps({"model": "tiny", "scores": [plain]}))
    assert scores.read(tmp_path) == [plain]
    assert scores.read_with_model(tmp_path) == [
        {"model": "tiny", "box_frame": "image", "think": True, "max_pixels": None, **plain}
    ]
    summary = {"model": "tiny", "max_pixels": 262_144, "scores": [plain]}
    (tmp_path / scores.FILE).write_text(json.dumps(summary))
    assert scores.read_with_model(tmp_path)[0]["max_pixels"] == 262_144
    assert scores.rules(tmp_path) == {"vstar": 2}
    later = ("refused", "rules", "shrunk", "shrunk_to")
    older = {name: value for name, value in plain.items() if name not in later}
    (tmp_path / scores.FILE).write_text(json.dumps({"model": "tiny", "rules": 2, "scores": [older]}))
    assert scores.read(tmp_path) == [
        {
            **plain,
            "refused": 0,
            "rules": 2,
            "shrunk": None,
            "shrunk_to": None,
        }  # one number for all benchmarks
    ]
    assert scores.rules(tmp_path) == {"vstar": 2}
    (tmp_path / scores.FILE).write_text(json.dumps({"model": "tiny", "scores": [older]}))
    assert scores.rules(tmp_path) == {"vstar": 1}
