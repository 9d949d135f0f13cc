"""The page about a training under way, from the files in its work folder."""

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sifthinker.core import tables
from sifthinker.system import json_lines
from sifthinker.training import progress, progress_page
from tasks.runtime import programs
from tests.training.canned_grpo import TEXTS
from tests.training.conftest import row


@pytest.fixture
def work(tmp_path: Path) -> Path:
    logged = [{"step": n, "total": 9, "loss": 1 / n, "reward": n / 4, "eta_seconds": 1.0} for n in (1, 2, 2)]
    lines = "".join(json.dumps(entry) + "\n" for entry in logged)
    (tmp_path / "progress.jsonl").write_text(lines + '{"step": 3, "tot')
    entries = [
        {
            "step": step,
            "epoch": 0,
            "id": f"toy/patches/{index // 3}",
            "text": text,
            "format": float("<think>" in text),
            "answer": None if step == 2 and index == 1 else 0.5,
            "grounding": 0.1 * index,
            "depth": 0.0,
            "judge": 0.5,
        }
        for step in (1, 2)
        for index, text in enumerate([*TEXTS, "<script>alert(1)</script>"])
    ]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    tables.write(tmp_path / "rl.parquet", tables.SIF, (row(i) for i in range(4)))
    return tmp_path


def test_the_page_shows_curves_and_the_best_and_worst_completion_of_two_samples(work):
    page = progress_page.page(work, [work / "rl.parquet"])
    assert page.startswith("### Step 2 of 9")
    assert page.count("data:image/png") == 1
    assert page.count("data:image/jpeg") == 4
    assert "| format | answer | grounding | depth | judge |" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    folder = work / "watch/step-000002"
    assert (folder / "page.md").read_text() == page
    with Image.open(folder / "completion-0.jpeg") as picture, Image.open(folder / "curves.png") as curves:
        assert min(*picture.size, *curves.size) > 100


def test_without_completions_the_page_shows_curves_and_before_the_first_step_there_is_none(work, tmp_path):
    assert progress_page.page(work).count("data:image") == 1
    assert progress_page.page(tmp_path / "nothing") is None


def test_only_whole_lines_of_the_end_of_a_file_are_read(work):
    entries = json_lines.whole_lines(work / "completions.jsonl", 1500)
    assert 0 < len(entries) < 12
    assert entries[-1]["text"] == "<script>alert(1)</script>"


def logging_at(step: int) -> SimpleNamespace:
    """The state of a Trainer that has just logged a step."""
    return SimpleNamespace(
        log_history=[{"step": step, "loss": 0.5}],
        global_step=step,
        max_steps=4,
        is_world_process_zero=True,
        num_input_tokens_seen=0,
    )


def test_a_line_that_a_full_disk_has_cut_off_is_gone_when_the_training_goes_on(work, caplog):
    again = progress.Progress(work)
    again.on_train_begin(None, logging_at(2), None)
    again.on_log(None, logging_at(3), None)
    lines = [json.loads(line) for line in (work / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3]
    assert "its last line was cut off, and is removed" in caplog.text
    progress.Progress(work)
    assert len((work / "progress.jsonl").read_text().splitlines()) == 4, "a whole file stays as it is"


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 3, "tot{"step": 3, "total": 9}', b"\0" * 40, b"\xff\xfe", b"3"],
    ids=["half and whole", "zeros", "no text", "a number"],
)
def test_a_damaged_line_is_passed_over_and_told(work, caplog, damage):
    file = work / "progress.jsonl"
    file.write_bytes(b'{"step": 1, "total": 9}\n' + damage + b'\n{"step": 4, "total": 9, "loss": 0.5}\n')
    assert [row["step"] for row in json_lines.whole_lines(file)] == [1, 4]
    assert "1 damaged lines are passed over" in caplog.text
    assert progress_page.page(work).startswith("### Step 4 of 9")


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory")])
def test_what_cannot_be_said_of_its_end_fails_no_training_and_hides_no_error(
    work, monkeypatch, caplog, error
):
    monkeypatch.setattr(programs, "whole_lines", lambda *_: 1 / 0)
    job = SimpleNamespace(work=work, log=logging.getLogger(), order=SimpleNamespace(label="grpo"))
    with nullcontext() if error is None else pytest.raises(RuntimeError, match="out of memory"):  # noqa: SIM117
        with programs.Page(job, [], steps=5):
            if error:
                raise error
    assert "grpo: how it ended is not shown" in caplog.text


def test_the_artifact_is_renewed_in_place_every_few_steps_and_once_a_minute_at_most(work, monkeypatch):
    sent = []

    def show(text: str, key: str, description: str, artifact: str | None) -> str:
        sent.append(artifact or key)
        return "it"

    monkeypatch.setattr(programs.ui_artifacts, "page", show)
    clock = iter([0, 0, 0, 61, 61, 90])
    monkeypatch.setattr(
        programs, "time", SimpleNamespace(monotonic=lambda: next(clock))
    )  # of no other thread
    job = SimpleNamespace(work=work, log=logging.getLogger(), order=SimpleNamespace(label="grpo"))
    page = programs.Page(job, [], steps=5)
    for step in (
        4,
        5,
        9,
        10,
        20,
    ):  # the clock is asked at the start and from the fifth step on, twice where the page is shown
        page.at(step)
    assert sent == ["grpo-training", "it"]


def test_a_page_that_cannot_be_shown_does_not_end_the_training(work, monkeypatch, caplog):
    monkeypatch.setattr(programs.progress_page, "page", lambda *_: 1 / 0)
    job = SimpleNamespace(work=work, log=logging.getLogger(), order=SimpleNamespace(label="grpo"))
    programs.Page(job, [], steps=5).show()
    assert "grpo: its page is not shown" in caplog.text
