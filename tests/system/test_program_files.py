"""What programs say to their starters: progress, and why they ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.system import program_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in program_files.environment(tmp_path, 7).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_mistake_of_the_users_is_written_with_its_rank_and_ends_with_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program_files.run("sft", raising(UserError("line 3: no such colour")), rank=5)
    assert ended.value.code == program_files.USER_ERROR
    found = program_files.failure(folder)
    assert found and (found.kind, found.program, found.rank) == ("user", "sft", 5)
    assert found.message == "line 3: no such colour"
    assert "start again" in found.advice
    assert capsys.readouterr().err == "error: line 3: no such colour\n"


def test_another_error_passes_and_is_written_with_the_end_of_its_traceback(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        program_files.run("sft", raising(ZeroDivisionError("in the loss")), rank=1)
    found = program_files.failure(folder)
    assert found and found.kind == "failure"
    assert found.message.endswith("ZeroDivisionError: in the loss")


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        ([RuntimeError("peer is gone"), UserError("the cause")], "the cause"),  # ranks that wait fail first
        ([UserError("the cause"), RuntimeError("peer is gone")], "the cause"),
        ([UserError("first"), UserError("second")], "first"),
    ],
)
def test_of_several_ranks_the_users_mistake_and_then_the_first_counts(
    folder: Path, errors: list[Exception], kept: str
) -> None:
    for rank, error in enumerate(errors):
        with pytest.raises((SystemExit, RuntimeError)):
            program_files.run("sft", raising(error), rank)
    found = program_files.failure(folder)
    assert found and found.message == kept
    assert [path.name for path in folder.iterdir()] == [program_files.ERROR], "no half-written file is left"


def test_a_stopped_program_has_not_failed(folder: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        program_files.run("sft", raising(program_files.Stopped("after step 3")))
    assert ended.value.code == program_files.STOPPED
    assert program_files.failure(folder) is None


def test_a_status_is_read_as_it_was_written_and_cleared(folder: Path) -> None:
    assert program_files.status(folder) == {}
    program_files.write_status("sft", "training", step=3, total=9)
    said = program_files.status(folder)
    assert (said["state"], said["step"], said["total"]) == ("training", 3, 9)
    program_files.clear(folder)
    assert program_files.status(folder) == {}
    assert program_files.grace() == 7


def test_a_program_that_was_started_by_hand_writes_no_files_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(program_files.FOLDER, raising=False)
    program_files.write_status("sft", "training")
    with pytest.raises(SystemExit, match="2"):
        program_files.run("sft", raising(UserError("no such file")))
    assert not [*tmp_path.iterdir()]


def test_an_error_file_that_cannot_be_written_is_said_and_the_code_still_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program_files, "write_json", full)
    with pytest.raises(SystemExit, match="2"):
        program_files.run("sft", raising(UserError("the disk is full")))
    assert "cannot be written: [Errno 28]" in capsys.readouterr().err


def test_the_error_file_is_plain_json_that_other_tools_read(folder: Path) -> None:
    with pytest.raises(SystemExit):
        program_files.run("merge", raising(UserError("no adapter")))
    said = json.loads((folder / program_files.ERROR).read_text())
    assert set(said) == {"kind", "program", "message", "rank", "host", "advice"}
