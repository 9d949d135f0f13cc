"""Which model a server that runs already is said to serve."""

import logging
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.evaluation.running_server import identify

URL = "http://10.0.0.7:8000/v1"


def folder(path: Path, weights: str = "ours", file: str = "model.safetensors") -> Path:
    path.mkdir()
    (path / file).write_text(weights)
    return path


def identified(tmp_path: Path, *listed: dict, wanted: str = ""):
    return identify(URL, list(listed), wanted, tmp_path / "ours", Path.read_text)


def test_a_folder_of_this_machine_with_the_same_weights_is_verified_whatever_it_is_called(tmp_path):
    folder(tmp_path / "ours")
    copy = folder(tmp_path / "copy", file="model-00001-of-00001.safetensors")
    running = identified(tmp_path, {"id": "mine", "root": str(copy)})
    assert (running.name, running.verified) == ("mine", True)
    assert running.mark == f" (mine at {URL})"


def test_a_folder_of_this_machine_with_other_weights_is_refused(tmp_path):
    folder(tmp_path / "ours")
    other = folder(tmp_path / "other", weights="somebody else's")
    with pytest.raises(
        UserError, match=r"serves 'policy' from .*/other, which has other weights than .*/ours"
    ):
        identified(tmp_path, {"id": "policy", "root": str(other)})


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "policy"},  # says nothing
        {"id": "policy", "root": None},
        {"id": "policy", "root": "/models/on/another/host"},
        {"id": "policy", "root": "Qwen/Qwen2.5-VL-7B-Instruct"},
    ],
)
def test_a_server_that_says_nothing_of_its_weights_is_marked_and_remembered_apart(entry, tmp_path, caplog):
    folder(tmp_path / "ours")
    with caplog.at_level(logging.WARNING):
        running = identified(tmp_path, entry)
    assert not running.verified
    # Its replies may have been paid for: what they are remembered under stays as it is.
    assert running.scope == f"{URL} policy {entry.get('root') or '-'} unverified"
    assert "cannot be seen from here" in caplog.text
    assert running.mark == f" (policy at {URL}, whose weights nobody has verified)"
    known = identified(tmp_path, {"id": "policy", "root": str(tmp_path / "ours")})
    assert len({running.scope, known.scope}) == 2
    assert running.as_json() == {
        "url": URL,
        "model": "policy",
        "root": entry.get("root") or "",
        "verified": False,
        "otherwise": [],
    }


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["anything"], "", "anything"),  # the only one
        (["base", "policy"], "", "policy"),  # by the name of our own servers
        (["base", "policy"], "base", "base"),
    ],
)
def test_the_model_is_the_named_one_or_the_only_one(names, wanted, chosen, tmp_path):
    folder(tmp_path / "ours")
    assert identified(tmp_path, *({"id": name} for name in names), wanted=wanted).name == chosen


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["one", "two"], "", "has several models or none: 'one', 'two'; set evaluate.served_model"),
        ([], "", "has several models or none: none"),
        (["one"], "two", "evaluate.served_model: .* has no model 'two'; it has: 'one'"),
    ],
)
def test_a_model_that_cannot_be_told_is_asked_for(names, wanted, message, tmp_path):
    folder(tmp_path / "ours")
    with pytest.raises(UserError, match=message):
        identified(tmp_path, *({"id": name} for name in names), wanted=wanted)
