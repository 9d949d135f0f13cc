"""The average of models that were trained from the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sifthinker.core.errors import UserError
from sifthinker.pretraining.average import average, main


def model(folder: Path, values: list[float], kind: torch.dtype = torch.float16) -> Path:
    folder.mkdir()
    save_file({"w": torch.tensor(values, dtype=kind)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(folder.name)
    (folder / "README.md").write_text("a card of one of them")
    return folder


def test_weights_are_averaged_in_their_type_and_the_rest_is_the_firsts(tmp_path: Path) -> None:
    folders = [
        model(tmp_path / name, values) for name, values in (("a", [1, 2.5, 60000]), ("b", [0, -1, 60000]))
    ]
    main([str(tmp_path / "out"), *map(str, folders)])
    (found,) = load_file(tmp_path / "out" / "model.safetensors").values()
    assert found.dtype == torch.float16 and found.tolist() == [0.5, 0.75, 60000]  # whose sum is no float16
    assert (tmp_path / "out" / "config.json").read_text() == "a"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}


def test_what_cannot_be_averaged_is_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", [1, 2]), model(tmp_path / "b", [1, 2, 3])
    with pytest.raises(UserError, match=r"b/model\.safetensors: has other tensors than .*a/model"):
        average(tmp_path / "out", [a, b])
    with pytest.raises(UserError, match=r"c: holds no model\.safetensors"):
        average(tmp_path / "out", [a, tmp_path / "c"])
    with pytest.raises(UserError, match="is there already"):
        average(b, [a, a])
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out"), str(a)])
