"""What a training reports: its steps as they happen, its history, its summary."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sifthinker.system import json_lines
from sifthinker.training.json_files import finite
from sifthinker.training.ranks import rank, world

logger = logging.getLogger(__name__)


class Progress(TrainerCallback):
    """Appends every logged step to `work/progress.jsonl`, and adds what the Trainer does not log itself."""

    def __init__(self, work: Path) -> None:
        """Appends to the file of an earlier start, if there is one, without the half line that its end may have left."""
        self.file = work / "progress.jsonl"
        if rank() == 0:
            json_lines.cut(self.file)

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts the clock."""
        self.started = self.last = time.monotonic()
        self.first_step = state.global_step
        self.tokens = state.num_input_tokens_seen

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Completes the entry on every rank; rank 0 writes and shows it."""
        entry = state.log_history[-1]
        now = time.monotonic()
        if "num_tokens" in entry:
            tokens = entry.pop("num_tokens")  # counted from the last start, not from the first
            entry["tokens_per_second"] = (tokens - self.tokens) / (now - self.last)
            self.tokens, self.last = tokens, now
        if "completions/mean_length" in entry:
            entry["completion_length"] = entry["completions/mean_length"]
        if not state.is_world_process_zero or "train_runtime" in entry:
            return
        done, seconds = state.global_step - self.first_step, now - self.started
        line = {
            **entry,
            "total": state.max_steps,
            "seconds": round(seconds, 3),
            "eta_seconds": round((state.max_steps - state.global_step) * seconds / max(done, 1), 1),
        }
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
        shown = {
            k: line[k]
            for k in ("loss", "eval_loss", "reward", "kl", "completion_length", "held_out/reward")
            if k in line
        }
        values = ", ".join(f"{k} {v:.4g}" for k, v in shown.items() if v is not None)
        logger.info(
            "step %d of %d: %s; %.0f s left", state.global_step, state.max_steps, values, line["eta_seconds"]
        )


def write_history(trainer: Any, out: Path) -> list[dict[str, Any]]:
    """Writes `out/history.jsonl`, a line for every logged step since the first start."""
    history = [finite(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
    (out / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    return history


def notes(
    trainer: Any, history: list[dict[str, Any]], resumed: Path | None, started: float
) -> dict[str, Any]:
    """What `summary.json` says about a training."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    numels = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    speeds = [e["tokens_per_second"] for e in history if "tokens_per_second" in e]
    losses = [e["loss"] for e in history if e.get("loss") is not None]
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": round(time.monotonic() - started, 3),
        "tokens_per_second": sum(speeds) / len(speeds) if speeds else None,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "parameters": sum(n for n, _ in numels),
        "parameters_trained": sum(n for n, trained in numels if trained),
        "resumed_from": resumed.name if resumed else None,
        "world": world(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "versions": {"torch": torch.__version__},
    }
