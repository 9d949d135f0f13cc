"""The identity of a stage: what changes it, what does not, and the reasons that are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.config import Config, identity
from tasks import evaluate
from tasks import identity as identities

MODULE = '"""Docs."""\nfrom sifthinker import b\n\ndef f(x):\n    """What f does."""\n    return x + 1\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three modules: a imports b, b imports c inside a function; config is imported by all."""
    folder = tmp_path / "sifthinker"
    (folder / "sub").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "config.py": "LIMIT = 1\n",
        "a.py": MODULE,
        "b.py": "import sifthinker.config\n\ndef g():\n    from sifthinker.sub.c import h\n    return h()\n",
        "sub/__init__.py": "",
        "sub/c.py": "def h():\n    return 1\n",
        "unrelated.py": "X = 1\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(identities, "PACKAGE", folder)
    forget()
    yield folder
    forget()


def forget() -> None:
    identities._tree.cache_clear()
    identities._closure.cache_clear()


def code(**changes: str) -> dict[str, str]:
    forget()
    return identities.identity("s", ["sifthinker.a"], {}, {}, {})["code"]


def test_the_code_of_a_stage_is_its_modules_and_what_they_import_anywhere(package: Path) -> None:
    assert set(code()) == {"sifthinker.a", "sifthinker.b", "sifthinker.sub", "sifthinker.sub.c"}


@pytest.mark.parametrize(
    ("file", "text", "changed"),
    [
        ("a.py", MODULE.replace("x + 1", "x + 2"), {"sifthinker.a"}),  # a line of code
        ("sub/c.py", "def h():\n    return 2\n", {"sifthinker.sub.c"}),  # a line two imports away
        ("a.py", MODULE.replace("return", "# why\n    return"), set()),  # a comment
        ("a.py", MODULE.replace("What f does", "Another text"), set()),  # a docstring
        ("a.py", MODULE.replace("x + 1", "(x +\n            1)"), set()),  # layout
        ("config.py", "LIMIT = 2\n", set()),  # its values are in the identity anyway
        ("unrelated.py", "X = 2\n", set()),
    ],
)
def test_only_code_that_is_run_changes_the_identity(
    package: Path, file: str, text: str, changed: set[str]
) -> None:
    before = code()
    (package / file).write_text(text)
    after = code()
    assert {name for name in before if before[name] != after[name]} == changed


def test_every_difference_is_named() -> None:
    old = identities.identity("s", [], {"lr": 1e-5, "lora": {"r": 8}}, {"data": "1"}, {"file": "1"})
    new = identities.identity(
        "s", [], {"lr": 2e-5, "lora": {"r": 8}}, {"data": "2", "more": "1"}, {"file": "2"}
    )
    assert identities.differences(old, new) == [
        "input data changed",
        "input more is new",
        "file file changed",
        "config lr: 1e-05 -> 2e-05",
    ]
    assert identities.key(old) != identities.key(new)


def test_paths_limits_and_names_of_keys_are_no_part_of_an_identity() -> None:
    config = Config.model_validate({"scenes": {}})
    assert set(identity(config.annotate.api)) == {"base_url", "model", "mode", "batch_chat_path"}
    assert "concurrency" not in identity(config.evaluate)


def test_a_benchmark_that_is_there_twice_has_the_digests_of_both_files(tmp_path: Path) -> None:
    folders = [tmp_path / language for language in ("en", "cn", "lost")]
    for folder in folders[:2]:
        folder.mkdir()
    entries = [{"name": "mmbench", "path": folder, "images": folder} for folder in folders]
    config = Config.model_validate({"scenes": {}, "evaluate": {"benchmarks": entries}})
    assert evaluate._files(config) == {
        "mmbench.path": folders[0],
        "mmbench.images": folders[0],
        "mmbench#2.path": folders[1],
        "mmbench#2.images": folders[1],
    }
