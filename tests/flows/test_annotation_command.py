"""`sif annotate --retry` on the command line: what it refuses before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flows.commands import annotation
from flows.commands.main import app
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject


def retry(*arguments: str, store: Path) -> None:
    wanted = [
        "annotate",
        "--retry",
        "--model",
        "m",
        *arguments,
        "--config",
        "smoke",
        "--set",
        f"store={store}",
    ]
    done = CliRunner().invoke(app, wanted)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Stands in for runs, of which it lists the last stages. Annotate rejects two rows once it was made."""
    rejects = tmp_path / "rejects.parquet"
    rows = [Reject("annotate", "boxes", "", str(number), "s") for number in range(2)]
    tables.write(rejects, tables.REJECTS, rows)

    def begin(made_before: str) -> list[str]:
        made, ran = {made_before}, []

        def run(*_: object, stop_after: str, **__: object) -> None:
            ran.append(stop_after)
            made.add(stop_after)

        artifact = SimpleNamespace(rejects=lambda: [rejects])
        monkeypatch.setattr(annotation, "_made", lambda _, label: artifact if label in made else None)
        monkeypatch.setattr(annotation, "run", run)
        monkeypatch.setattr(annotation, "_dead_letters", lambda _: None)
        return ran

    return begin


@pytest.mark.parametrize(("made", "first"), [("annotate", []), ("ingest", ["annotate"])])
def test_a_reason_that_no_row_has_is_refused_before_a_row_is_asked_again(
    tmp_path: Path, runs: Callable[[str], list[str]], made: str, first: list[str]
) -> None:
    ran = runs(made)
    with pytest.raises(UserError, match=r"no row was rejected for bocses; .* asked again: boxes \(2\)"):
        retry("--reason", "bocses", "--reason", "boxes", store=tmp_path)
    assert ran == first


@pytest.mark.parametrize("reasons", [(), ("--reason", "boxes")])
def test_a_reason_that_rows_have_is_asked_for(
    tmp_path: Path, runs: Callable[[str], list[str]], reasons: tuple[str, ...]
) -> None:
    ran = runs("annotate")
    retry(*reasons, store=tmp_path)
    assert ran == ["retry"]


def test_with_passes_in_the_configuration_the_rows_that_they_reject_count(
    tmp_path: Path, runs: Callable[[str], list[str]]
) -> None:
    ran = runs("annotate")
    passes = 'retry.passes=[{"model": "other"}]'
    retry("--set", passes, "--reason", "boxes", store=tmp_path)
    assert ran == ["retry", "retry"]  # theirs alone, then with one more


def test_a_prompt_that_is_no_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes("Write the chain.\nFür Straßen".encode("latin-1"))
    with pytest.raises(UserError, match=r"prompt.txt: line 2: not UTF-8 text; save the file"):
        retry("--prompt", str(prompt), store=tmp_path)


def test_an_empty_system_text_is_refused(runs: Callable[[str], list[str]], tmp_path: Path) -> None:
    ran, text = runs("annotate"), tmp_path / "system.txt"
    text.write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"annotate --prompt .*system\.txt: it is empty"):
        retry("--prompt", str(text), store=tmp_path)
    assert not ran
