"""The miniature's pre-training: both of its models from scratch, on rendered scenes made while it runs.

    python -m sifthinker.pretraining.pretrain policy WORK [--steps N] [--seed S] [--batch B] [--lessons L] [--threads T]
                                                         [--keep FOLDER]
    python -m sifthinker.pretraining.pretrain far    WORK --start FOLDER [--steps N] ...   (from a policy's weights)
    python -m sifthinker.pretraining.pretrain lists  WORK --start FOLDER [--steps N] ...   (from those of `far`)
    python -m sifthinker.pretraining.pretrain next   WORK --start FOLDER [--steps N] ...   (from those of `far`)
    python -m sifthinker.pretraining.pretrain depth  WORK [--steps N] ...

An interrupted training resumes from WORK/checkpoint.pt with losses that are equal to the last bit, because the scenes
and lessons of a step are drawn from the seed and the step's number. A process of its own renders the scenes into
WORK/pool (scene_pool.py). Each scene is used `recipe.PASSES` times, and they share no random number with those of SIF
data and benchmarks. WORK/history.jsonl has a line every `loop.LOG` steps, WORK/model the weights of each checkpoint.

Departures from how such models are trained otherwise:

1. Several short conversations share one look at the pictures, exactly (packed_attention.py).
2. The policy has two more losses, from the scenes' truth (losses.py). Each token of its vision tower learns what it
   shows, in the embeddings of the words and numbers that say it; the first steps train this alone (`Cells`). Some
   heads learn to attend to a thing where its name is said, and where an answer is about it (`Looks`). Without either,
   5,929 steps of an earlier recipe had not learnt to find a thing by its name; without the names, 8,500 had not. The
   parameters that these losses add are thrown away.
3. The rate rises, stays, and falls to 0 over the last third. A run can be made longer or shorter until it falls.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText

from sifthinker.pretraining.loop import TRAININGS, train
from sifthinker.pretraining.recipe import RECIPES, Recipe
from sifthinker.system import program_files


def keep(what: str, trained: Path, folder: Path) -> None:
    """Copies a trained model under the name of the miniature, its weights rounded to 16 bits (float16)."""
    kind = AutoModelForDepthEstimation if what == "depth" else AutoModelForImageTextToText
    model = kind.from_pretrained(trained, trust_remote_code=False, use_safetensors=True, dtype=torch.float16)
    model.config.miniature, model.config.toy = model.config.toy, ""  # no random toy any more
    model.save_pretrained(folder)
    for file in trained.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder)


def main(arguments: list[str] | None = None) -> None:
    """Trains a model as the command line says, and ends as every program of ours (`system/program_files.py`)."""
    parser = argparse.ArgumentParser(prog="python -m sifthinker.pretraining.pretrain", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=sorted(TRAININGS))
    parser.add_argument(
        "work",
        type=Path,
        help="folder of checkpoints, history and scenes; an empty one starts a new training",
    )
    for name in ("steps", "batch", "lessons", "seed", "looking", "fewest", "most"):
        parser.add_argument(f"--{name}", type=int, help="another value than the recipe's")
    for name in ("rate", "alike"):
        parser.add_argument(f"--{name}", type=float, help="another value than the recipe's")
    parser.add_argument(
        "--start", help="folder of the model that `far`, `lists` or `next` starts from", default=""
    )
    parser.add_argument("--keep", type=Path, help="folder for the trained model, in 16 bits")
    parser.add_argument("--save-minutes", type=float, default=3.0, help="between checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more than one a core is slower")
    given = parser.parse_args(arguments)
    if bool(given.start) != (given.what in ("far", "lists", "next")):
        parser.error(
            "--start is for `far`, `lists` and `next`, which need it: the folder of the earlier training's model"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    values = asdict(RECIPES[given.what])
    values |= {name: value for name in values if (value := getattr(given, name, None)) is not None}

    def work() -> None:
        made = train(given.work, Recipe(**values), given.save_minutes)
        if given.keep:
            keep(given.what, made, given.keep)

    program_files.run("pretrain", work)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
