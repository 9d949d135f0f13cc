"""What a training goes on from after a power loss or a full disk, and how often it then makes checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerState

from sifthinker.core.errors import UserError
from sifthinker.rewards import answer
from sifthinker.training import checkpoints, scoring


def arguments(work: Path, **intervals: Any) -> SimpleNamespace:
    return SimpleNamespace(
        output_dir=str(work),
        device="cpu",
        **{"logging_steps": 1, "eval_steps": None, "save_steps": 2, **intervals},
    )


def saved(work: Path, step: int, extra: Any = lambda folder: None) -> Path:
    """A checkpoint of this step, completed as the Trainer has it completed."""
    folder = work / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    (folder / "global_step" / "optimizer.pt").write_bytes(b"moments")
    (folder / "adapter.safetensors").write_bytes(b"weights")
    state = TrainerState(global_step=step, max_steps=9)
    checkpoints.Checkpoints(extra).on_save(arguments(work), state, SimpleNamespace())
    return folder


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what the disk was waited for, in order."""
    names: list[str] = []
    waits = os.fsync

    def wait(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        waits(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    return names


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b'{"adapter.safe'], ids=["empty", "zeros", "half"])
def test_a_checkpoint_whose_mark_a_power_loss_has_emptied_is_passed_over_for_an_older_one(
    tmp_path: Path, left: bytes
) -> None:
    old, young = saved(tmp_path, 2), saved(tmp_path, 4)
    (young / checkpoints.COMPLETE).write_bytes(left)
    assert checkpoints.last_complete(tmp_path) == old
    assert not young.exists()


def test_a_checkpoint_is_on_the_disk_before_it_is_marked_complete(tmp_path: Path, synced: list[str]) -> None:
    folder = saved(tmp_path, 2, lambda folder: (folder / "book.json").write_text("{}"))
    assert checkpoints.is_complete(folder)
    [mark] = [place for place, name in enumerate(synced) if name.startswith(checkpoints.COMPLETE)]
    files = {"optimizer.pt", "adapter.safetensors", "book.json"}
    assert files | {"global_step", "checkpoint-2", tmp_path.name} <= set(synced[:mark])
    assert "checkpoint-2" in synced[mark + 1 :], "the name of the mark, too"


def test_the_completions_are_on_the_disk_before_the_checkpoint_that_counts_them(
    tmp_path: Path, synced: list[str]
) -> None:
    scorer = scoring.Scorer.__new__(scoring.Scorer)
    scorer.file, scorer.book = tmp_path / "completions.jsonl", answer.Book()
    scorer.file.write_text('{"step": 1}\n')
    saved(tmp_path, 2, scorer.save)
    assert "completions.jsonl" in synced[: synced.index("book.json")]


def test_a_resumed_training_makes_its_checkpoints_as_often_as_its_settings_say(tmp_path: Path) -> None:
    """`save_steps` may be changed between two starts; the Trainer loads that of the first."""
    state = TrainerState(global_step=50, max_steps=900, save_steps=50, logging_steps=5, eval_steps=7)
    args = arguments(tmp_path, save_steps=10, eval_steps=20)
    checkpoints.Checkpoints().on_train_begin(args, state, SimpleNamespace())
    assert (state.save_steps, state.logging_steps, state.eval_steps) == (10, 1, 20)


def test_a_full_disk_at_a_resume_loses_no_completion_of_earlier_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scoring.Scorer.__new__(scoring.Scorer)
    scorer.file, scorer.book = tmp_path / "completions.jsonl", answer.Book()
    lines = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    scorer.file.write_text(lines)
    checkpoint = saved(tmp_path, 2, scorer.save)
    whole = Path.write_text

    def cut_off(path: Path, text: str, **options: Any) -> None:
        whole(path, text[:5], **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_text", cut_off)
        scorer.restore(checkpoint)
    assert scorer.file.read_text() == lines
    scorer.restore(checkpoint)
    assert [json.loads(line)["step"] for line in scorer.file.read_text().splitlines()] == [1, 2]


def test_an_identity_is_on_the_disk_before_anything_is_trained(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints.config, "identity", lambda settings: settings)
    checkpoints.check_identity(tmp_path, {"r": 4})
    assert any(name.startswith("identity.json") for name in synced)
    checkpoints.check_identity(tmp_path, {"r": 4})
    with pytest.raises(UserError, match="another configuration"):
        checkpoints.check_identity(tmp_path, {"r": 8})
