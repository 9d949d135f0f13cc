"""A command that is refused leaves nothing behind: no store, no home of Prefect, no note of a mistyped remote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.commands import main
from flows.commands.options import load, looking, refusing
from sifthinker.core.errors import UserError
from sifthinker.store import s3
from sifthinker.store.artifacts import Store

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's terminal: Prefect's home is in the store. The server is on another host, so that none is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://192.0.2.1:9/api")
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--start-at", "grpo"),
        ("run", "--set", "sft.epochs=-1"),
        ("run", "--start-at", "sft", "--reuse-run", "none"),
        ("nightly", "--tier", "none"),
        ("nightly", "--benchmark", "none"),
        ("nightly", "--plan", "--tier", "none"),
        ("ablation", "--row", "none"),
        ("plan", "--start-at", "grpo"),
        ("accept", "ingest", "--why", "because"),
        ("accept", "--all", "--why", "because"),
        ("annotate", "--rejected"),
        ("annotate", "--again"),
        ("annotate", "--retry"),
        ("ask", "picture.png", "what?", "--model", "none"),
        ("serve", "none"),
        ("depth", "none", "--out", "out"),
        ("judge-agreement", "--other", "model=other"),
        ("status",),
        ("logs", "grpo"),
        ("chains", "0"),
        ("compare", "a", "b"),
        ("lineage",),
        ("prune",),
        ("metrics", "--once"),
        ("pages",),
        ("view",),
        ("export", "out"),
        ("promote", "none", "--alias", "mine"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_refused_leaves_nothing(command: tuple[str, ...], tmp_path: Path) -> None:
    done = RUNNER.invoke(main.app, [*command, "--store", "deep/store"])
    assert isinstance(done.exception, UserError) or done.exit_code in (0, 2), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    "command", [("status",), ("lineage",), ("compare", "a", "b"), ("run", "--start-at", "grpo"), ("plan",)]
)
def test_a_remote_that_cannot_be_read_leaves_nothing(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3.Remote, "list", lambda *_: (_ for _ in ()).throw(UserError("no credentials")))
    mine = {"extends": "smoke", "store": str(tmp_path / "deep/store"), "remote": "s3://mistyped/prefix"}
    (tmp_path / "mine.yaml").write_text(json.dumps(mine))
    done = RUNNER.invoke(main.app, [*command, "--config", "mine.yaml"])
    assert "no credentials" in str(done.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "picture.png"]


@pytest.mark.parametrize("around", [looking, refusing], ids=["looking", "refusing"])
def test_a_mistyped_remote_is_not_remembered(around: type[looking], tmp_path: Path) -> None:
    config = load(["demo"], [], store=tmp_path / "store")
    with pytest.raises(UserError, match="no answer"), around(config):
        Store(config.store, "s3://mistyped/prefix")
        raise UserError("no answer")
    Store(config.store, "s3://bucket/prefix")


@pytest.mark.parametrize("file", ["runs/one.json", "alive/one.json", "calls.sqlite"])
def test_what_a_run_that_began_meanwhile_has_written_stays(file: str, tmp_path: Path) -> None:
    config = load(["demo"], [], store=tmp_path / "store")
    with pytest.raises(UserError, match="refused"), refusing(config):
        Store(config.store, "s3://bucket/prefix")
        (config.store / file).parent.mkdir(exist_ok=True)
        (config.store / file).write_text("theirs")
        raise UserError("refused")
    assert (config.store / file).read_text() == "theirs"
    assert json.loads((config.store / "remote.json").read_text()) == {"url": "s3://bucket/prefix"}


def test_a_store_that_was_there_stays_though_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    RUNNER.invoke(main.app, ["run", "--start-at", "grpo", "--store", "store"])
    assert (tmp_path / "store").is_dir()
