"""What the training programs have in common: their command line, and what the Trainer is told.

A program is started as `python -m sifthinker.training.<name> CONFIG.yaml`, alone or under torchrun, and writes

* `work/progress.jsonl`: a line for every optimiser step, as it happens;
* `work/checkpoint-<step>/`: the Trainer's checkpoints. One is complete when it holds `complete.json`, which is
  written after every rank has finished and lists the files with their sizes;
* `out/`: the results, written at the end.

A program that is started again with the same file resumes from the last complete checkpoint. One that is told to stop
makes a checkpoint first (stopping.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
import transformers
from transformers import PrinterCallback

from sifthinker import config
from sifthinker.config import Grpo, Section, Train
from sifthinker.core.errors import UserError
from sifthinker.system import program_files
from sifthinker.system.disk_errors import explained
from sifthinker.training import stopping
from sifthinker.training.ranks import rank

Run = TypeVar("Run", bound=Section)

# Seconds that ranks wait for each other in a collective call, at least. NCCL's half an hour is less than a judge or a server of
# vLLM may take that one of them waits for. A rank that ends does not cost the others that long: stopping.py sees it.
COLLECTIVE = 3 * 3600.0
BACKOFF = 60.0  # most seconds between two tries of a call to the judge

DEEPSPEED = Path(__file__).with_name("deepspeed")


def main(program: Callable[[Path], None]) -> None:
    """Runs `program(config file)` of the command line.

    It keeps the contract of `program_files`: a mistake of the user's ends it with code 2 and its message, and a
    training that was told to stop ends with code 75 after its checkpoint.
    """
    parser = argparse.ArgumentParser(description=program.__doc__)
    parser.add_argument("config", type=Path, help="YAML file, see the module's docstring")
    path = parser.parse_args().config
    name = Path(sys.argv[0]).stem
    if rank() == 0:
        program_files.write_status(name, "starting")
    stopping.watch().start()
    logging.basicConfig(
        level=logging.INFO if rank() == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank()} %(levelname)s %(name)s: %(message)s",
    )
    for library in (transformers.utils.logging, datasets.utils.logging):
        library.disable_progress_bar()

    def work() -> None:
        with explained("training"):
            program(path)

    try:
        program_files.run(name, work, rank())
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def load(path: Path, kind: type[Run]) -> Run:
    """The program's configuration file.

    Raises:
        UserError: it cannot be read, or a field is missing, unknown or has a wrong value.
    """
    return config.load_section(kind, path)


def arguments(settings: Train, work: Path) -> dict[str, Any]:
    """What the Trainer is told in both stages.

    It departs from the Trainer's defaults: the precision is explicit (TRL's default is bf16), every step is logged, a
    loss that is not finite is shown as it is, and only the configured trackers are told.
    """
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
        "ddp_timeout": collective_timeout(settings),
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


def collective_timeout(settings: Train) -> int:
    """Seconds that ranks wait for each other: more than the judge may keep one of them (training/outages.py)."""
    if not isinstance(settings, Grpo):
        return round(COLLECTIVE)
    judge = settings.judge
    one_round = (judge.retries + 1) * max(judge.max_pause, judge.timeout + BACKOFF)
    return round(max(COLLECTIVE, one_round + BACKOFF))


def report_to(settings: Train, work: Path) -> list[str]:
    """The configured trackers, with their files in `work`.

    Nothing is sent anywhere unless the environment says so: W&B needs WANDB_API_KEY or WANDB_MODE, and MLflow
    MLFLOW_TRACKING_URI.

    Raises:
        UserError: one is not installed.
    """
    for name in settings.trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: {name} is not installed; `pip install {name}` (the extra `trackers` pins MLflow and W&B), or take it "
                "out of `trackers`"
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
    timeout = timedelta(seconds=collective_timeout(settings))
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, timeout=timeout)


def fit(trainer: Any, resumed: Path | None) -> None:
    """Trains from the start or from a checkpoint; `Progress` logs the steps, not transformers' print."""
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
