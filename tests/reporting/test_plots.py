"""The plots: what is drawn of a training's history, and equal bytes for equal input."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from sifthinker.reporting import plots


def test_curves_plot_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None, "kl": 0.1}, {"step": 3, "loss": 1.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = plots.curves(path, ["loss"]), plots.curves(path, ["loss", "kl", "absent"])
    assert Image.open(io.BytesIO(two)).width == 2 * Image.open(io.BytesIO(one)).width
    assert plots.curves(path, ["loss"]) == one, "equal history, equal bytes"
    with pytest.raises(ValueError, match="no row has a number for any of absent"):
        plots.curves(path, ["absent"])
