"""What the training programs have in common: their start, their checkpoints, their progress and their results.

A program is started as `python -m sifthinker.training.<name> CONFIG.yaml`, alone or under torchrun, and writes

* `work/progress.jsonl`: a line for every optimiser step, as it happens;
* `work/checkpoint-<step>/`: the Trainer's checkpoints. One is complete when it holds `complete.json`, which is
  written after every rank has finished and lists the files with their sizes;
* `out/`: the results, written at the end.

Started again with the same file it goes on from the last complete checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
import transformers
from transformers import PrinterCallback, TrainerCallback

from sifthinker import config
from sifthinker.config import Lora, Section, Train
from sifthinker.core.errors import UserError
from sifthinker.models.families import frozen_modules
from sifthinker.system import processes
from sifthinker.system.disk_errors import explained

logger = logging.getLogger(__name__)
Run = TypeVar("Run", bound=Section)

DEEPSPEED = Path(__file__).with_name("deepspeed")
COMPLETE = "complete.json"
# LoRA trains all linear layers of the language model. The vision tower and the projector stay frozen (release,
# train_grpo_sif.sh; LLaMA-Factory's default in SFT). The pattern matches a module's whole name, in every family.
FROZEN = frozen_modules()


def main(program: Callable[[Path], None]) -> None:
    """Runs `program(config file)` of the command line; a `UserError` ends it with code 2 and its message."""
    parser = argparse.ArgumentParser(description=program.__doc__)
    parser.add_argument("config", type=Path, help="YAML file, see the module's docstring")
    path = parser.parse_args().config
    processes.hold()
    logging.basicConfig(
        level=logging.INFO if rank() == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank()} %(levelname)s %(name)s: %(message)s",
    )
    for library in (transformers.utils.logging, datasets.utils.logging):
        library.disable_progress_bar()
    try:
        with explained("training"):
            program(path)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def load(path: Path, kind: type[Run]) -> Run:
    """The program's configuration file.

    Raises:
        UserError: it cannot be read, or a field is missing, unknown or has a wrong value.
    """
    return config.load_section(kind, path)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_world(settings: Train) -> None:
    """Raises:
    UserError: the number of processes is not the configured one, which would change the batch unnoticed.
    """
    if world() != settings.ranks:
        raise UserError(
            f"ranks: {settings.ranks} are configured and {world()} started; start the program with "
            f"`torchrun --nproc_per_node={settings.ranks}` (plain python for 1) or change `ranks`"
        )


def arguments(settings: Train, work: Path) -> dict[str, Any]:
    """What the Trainer is told in both stages. Departures from its defaults: precision is explicit (TRL's default
    is bf16), every step is logged, a loss that is not finite is shown as it is, and only the configured trackers are
    told."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(work),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": settings.precision == "bf16",
        "use_cpu": not cuda,
        "deepspeed": _deepspeed_file(settings.deepspeed),
        "seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,  # the newest may be incomplete
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": report_to(settings, work),
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def report_to(settings: Train, work: Path) -> list[str]:
    """The configured trackers, with their files in `work` and nothing sent anywhere unless the environment says so:
    W&B needs WANDB_API_KEY or WANDB_MODE, MLflow MLFLOW_TRACKING_URI.

    Raises:
        UserError: one is not installed.
    """
    for name in settings.trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: {name} is not installed; `pip install {name}`, or take it out of `trackers`"
            )
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(work / "tensorboard")
    os.environ.setdefault("WANDB_DIR", str(work))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{work}/mlflow.sqlite")
    if "WANDB_API_KEY" not in os.environ:
        os.environ.setdefault("WANDB_MODE", "offline")
    return list(settings.trackers)


def _deepspeed_file(name: str) -> str | None:
    """The DeepSpeed configuration called `name`. A single process gets the environment torchrun would give it."""
    if name == "none":
        return None
    file = DEEPSPEED / f"{name}.json"
    if not file.is_file():
        raise UserError(f"deepspeed: {name}: {file} is not there")
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return str(file)


def start_deepspeed(settings: Train) -> None:
    """Starts DeepSpeed where it is asked for: after the Trainer's arguments exist, before the model is loaded.

    On CPU without the shared-memory operation, which would want a compiler, and with its world set up here, or
    ZeRO-3 loads the model for a world of one.
    """
    if settings.deepspeed == "none" or torch.cuda.is_available():
        return
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def lora(settings: Lora) -> Any:
    """LoRA on the linear layers of the language model."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        exclude_modules=FROZEN,
        task_type="CAUSAL_LM",
    )


def fit(trainer: Any, resumed: Path | None) -> None:
    """Trains from the start or from a checkpoint; `Progress` logs the steps, not transformers' print."""
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)


# --- checkpoints ------------------------------------------------------------------------------------------------


def last_complete(work: Path) -> Path | None:
    """The newest complete checkpoint in `work`; rank 0 removes the incomplete ones, so that nothing builds on them."""
    complete = []
    for folder in work.glob("checkpoint-*"):
        if _is_complete(folder):
            complete.append(folder)
        elif rank() == 0:
            logger.warning("%s is incomplete and passed over", folder.name)
            shutil.rmtree(folder)
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / COMPLETE).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except FileNotFoundError:
        return False


class Checkpoints(TrainerCallback):
    """Adds files of our own to each checkpoint (`extra(folder)`, on rank 0) and then marks it complete."""

    def __init__(self, extra: Callable[[Path], None] = lambda folder: None) -> None:
        self.extra = extra

    def on_save(self, args, state, control, **kwargs):
        barrier()  # every rank has written its part
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.extra(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_json(folder / COMPLETE, {str(f.relative_to(folder)): f.stat().st_size for f in files})


# --- progress and results ---------------------------------------------------------------------------------------


class Progress(TrainerCallback):
    """Appends every logged step to `work/progress.jsonl`, and adds what the Trainer does not log itself."""

    def __init__(self, work: Path) -> None:
        self.file = work / "progress.jsonl"

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = self.last = time.monotonic()
        self.first_step = state.global_step
        self.tokens = state.num_input_tokens_seen

    def on_log(self, args, state, control, logs=None, **kwargs):
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
        shown = {k: line[k] for k in ("loss", "eval_loss", "reward", "kl", "completion_length") if k in line}
        values = ", ".join(f"{k} {v:.4g}" for k, v in shown.items() if v is not None)
        logger.info(
            "step %d of %d: %s; %.0f s left", state.global_step, state.max_steps, values, line["eta_seconds"]
        )


def write_history(trainer: Any, out: Path) -> list[dict[str, Any]]:
    """Writes `out/history.jsonl`, a line for every logged step since the first start."""
    history = [finite(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
    (out / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    return history


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with None for numbers that JSON has not."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def write_json(path: Path, value: Any) -> None:
    """Writes `value` under a temporary name, then renames: a reader never sees half a file."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def save_adapter(trainer: Any, folder: Path) -> None:
    """Writes the adapter as PEFT reads it; equal weights give equal bytes (no path, no order of a set)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with _gathered(parameter for parameter in model.parameters() if parameter.requires_grad):
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            state = get_peft_model_state_dict(model, save_embedding_layers=False)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            values = {**model.peft_config["default"].to_dict(), "inference_mode": True}
            values["base_model_name_or_path"] = None
            plain = {k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in values.items()}
            write_json(folder / "adapter_config.json", plain)
    barrier()


@contextlib.contextmanager
def _gathered(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Within it the parameters are whole on every rank, also where ZeRO-3 has cut them up."""
    cut = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not cut:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(cut):
        yield


def check_identity(work: Path, settings: Section) -> None:
    """Refuses a work folder that holds another configuration's checkpoints.

    Raises:
        UserError: `work/identity.json` is there and differs.
    """
    file = work / "identity.json"
    now = json.loads(json.dumps(config.identity(settings), default=str))
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != now:
        raise UserError(
            f"{work}: holds checkpoints of another configuration; give another `work` or empty it"
        )
    barrier()
    if rank() == 0 and not file.exists():
        write_json(file, now)


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
