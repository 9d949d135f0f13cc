"""Trains a mid-sized random model on one GPU, and says how fast that is: `make gpu-check`.

    python -m sifthinker.training.gpu_check [--cpu-smoke] [--steps N] [--pairs N] [--json FILE]

SFT and GRPO of a random Qwen2.5-VL of about 100 M parameters, bf16, ZeRO-3 with one rank, on made-up pictures, with
the stand-in judge. Each is measured twice: our program as it is ("ours"), and TRL's own trainer with the same
arguments and rows, without our callbacks and with a constant reward ("trl"). Every measurement is a process of its
own; the two alternate. The first step of each (warm-up) does not count. Where a `vllm` is on the PATH, GRPO is also sampled by
it ("vllm_lora"): with its start, and the difference of log-probabilities between vLLM and the trainer in bf16.

`--cpu-smoke` does the same with the tiny model in fp32 on the CPU. It tests this program; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from PIL import Image
from transformers import TrainerCallback

from sifthinker.config import Grpo
from sifthinker.core import chain, depth_maps, records, tables
from sifthinker.core.errors import UserError
from sifthinker.llm import standin
from sifthinker.models import loading, serving
from sifthinker.system import commands
from sifthinker.training import adapters, grpo, harness, json_files, memory, rows, samplers, sft

ROWS = 32
VLLM = "vllm_lora"
SIZES = {"cuda": (448, 336), "cpu": (84, 56)}  # pixels of the pictures: width, height
COLOURS = ("red", "green", "blue", "yellow")
TEXT = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT |= {"num_key_value_heads": 4}
VISION = {"hidden_size": 512, "intermediate_size": 1024, "out_hidden_size": 768, "depth": 8, "num_heads": 8}
SECTIONS = [8, 12, 12]  # of the rotary embedding: half a head of 64


def main() -> None:
    """Runs the check that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cpu-smoke", action="store_true", help="the tiny model on the CPU: tests this program"
    )
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps of each measurement")
    parser.add_argument("--pairs", type=int, default=2, help="measurements of each kind")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--plain", nargs=2, metavar=("STAGE", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.plain[0], Path(options.plain[1]))
        return
    try:
        found = check(options.cpu_smoke, options.steps, options.pairs)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    if options.json:
        json_files.write_json(options.json, found)
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n\n{table(found)}\n")


def check(smoke: bool, steps: int, pairs: int) -> dict[str, Any]:
    """Runs all measurements.

    Raises:
        UserError: there is no CUDA GPU and this is no smoke run, or a training failed.
    """
    if not smoke and not torch.cuda.is_available():
        raise UserError(
            "no CUDA GPU (torch.cuda.is_available() is false): nothing is measured. "
            "`--cpu-smoke` tests this program without one"
        )
    if steps < 2:
        raise UserError(f"--steps {steps}: the first step does not count; give 2 or more")
    with tempfile.TemporaryDirectory() as name, standin.running(Path(name) / "standin.log") as judge:
        folder = Path(name)
        parameters = build(folder / "base", smoke)
        tables.write(folder / "rows.parquet", tables.SIF, made_up(SIZES["cpu" if smoke else "cuda"]))
        measured: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for stage in ("sft", "grpo"):
            kinds = measured.setdefault(stage, {"ours": [], "trl": []})
            for turn in range(pairs):
                for kind in kinds if turn % 2 == 0 else reversed(kinds):
                    config = write_config(folder, stage, f"{stage}-{kind}-{turn}", smoke, steps, judge)
                    kinds[kind].append(measure(stage, kind, config))
        vllm = with_vllm(folder, smoke, steps, pairs, judge)
        measured["grpo"] |= {VLLM: vllm["measured"]} if vllm["measured"] else {}
    return {
        "vllm": {name: value for name, value in vllm.items() if name != "measured"},
        "device": "cpu (smoke: figures mean nothing)" if smoke else torch.cuda.get_device_name(),
        "parameters": parameters,
        "steps": steps,
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__}
        | {"transformers": transformers.__version__},
        **{
            stage: {kind: summarise(each) for kind, each in kinds.items()}
            for stage, kinds in measured.items()
        },
    }


def with_vllm(folder: Path, smoke: bool, steps: int, pairs: int, judge: str) -> dict[str, Any]:
    """GRPO sampled by `vllm_lora`: the server's version and start, the difference of log-probabilities, and `measured`.

    Where no vLLM is found, `measured` is empty and `why` says so.
    """
    try:
        command = serving.vllm()
    except UserError as error:
        return {"measured": [], "why": str(error)}
    settings = Grpo(ranks=1, generation=VLLM)
    measured, began = [], time.monotonic()
    with samplers.of(settings).serving(
        folder / "base", settings, folder, [] if smoke else memory.visible_gpus()[:1]
    ) as servers:
        started = time.monotonic() - began
        for turn in range(pairs):
            name = f"grpo-{VLLM}-{turn}"
            measured.append(
                measure("grpo", VLLM, write_config(folder, "grpo", name, smoke, steps, judge, servers))
            )
    return {
        "version": commands.version(command, "vllm"),
        "start_seconds": started,
        "logp_difference": max(each["logp_difference"] for each in measured),
        "measured": measured,
    }


def build(out: Path, smoke: bool) -> int:
    """Builds the random model with the tiny one's processor; returns its parameters."""
    loading.build_tiny("qwen2_5_vl", 0, out)
    if not smoke:
        config = transformers.AutoConfig.from_pretrained(out, trust_remote_code=False)
        for part, sizes in ((config.text_config, TEXT), (config.vision_config, VISION)):
            for name, value in sizes.items():
                setattr(part, name, value)
        config.text_config.rope_parameters |= {"mrope_section": SECTIONS}
        config.text_config.layer_types = ["full_attention"] * TEXT["num_hidden_layers"]
        config.vision_config.fullatt_block_indexes = [VISION["depth"] - 1]
        torch.manual_seed(0)
        made = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
        made.generation_config = transformers.GenerationConfig.from_pretrained(out)
        made.save_pretrained(out)
    return sum(parameter.numel() for parameter in loading.load_policy(out, "bf16").parameters())


def made_up(size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Rows with a patch on noise."""
    width, height = size
    noise = np.random.default_rng(0)
    near = np.tile(np.linspace(1, 0.4, height, dtype=np.float32)[:, None], (1, width))
    box = (0.25, 0.25, 0.75, 0.75)
    regions = depth_maps.regions([[records.WHOLE], [box]], near)
    for index in range(ROWS):
        photo = Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        colour = COLOURS[index % len(COLOURS)]
        photo.paste(colour, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
        steps = tuple(chain.Step(look, f"A {colour} patch in the noise.") for look in regions)
        yield {
            "id": f"made-up/{index}",
            "source": "made-up",
            "dataset": "patches",
            "split": "train",
            "question": "What color is the patch?",
            "answer": colour,
            "width": width,
            "height": height,
            "boxes": [list(box)],
            "image": {"bytes": _png(photo), "path": f"{index}.png"},
            "depth_image": {"bytes": depth_maps.picture(near), "path": f"{index}_d.png"},
            "depth_map": depth_maps.encode(near),
            "steps": [[{"box": list(r.box), "depth": r.depth} for r in look] for look in regions],
            "chain": chain.render(chain.Chain(steps, colour)),
            "model": "made-up",
            "attempts": 1,
            "prompt_tokens": 0,
            "completion_tokens": 0,
        }


def _png(photo: Image.Image) -> bytes:
    out = io.BytesIO()
    photo.save(out, "PNG")
    return out.getvalue()


def write_config(
    folder: Path,
    stage: str,
    name: str,
    smoke: bool,
    steps: int,
    judge: str,
    servers: Sequence[str] = (),
) -> Path:
    """A program's configuration file; all kinds are made from the same. `servers` sample, where there are some."""
    settings: dict[str, Any] = {
        "ranks": 1,
        "deepspeed": "none" if smoke else "zero3",
        "precision": "fp32" if smoke else "bf16",
        "epochs": 1000,
        "max_steps": steps,
        "save_steps": 10 * steps,
        "batch": 8,
        "accumulation": 1,
        "trackers": [],
    }
    top: dict[str, Any] = {"model": str(folder / "base"), "dataset": [str(folder / "rows.parquet")]}
    if stage == "grpo":
        settings |= {"max_completion": 16 if smoke else 256, "judge": {"model": "standin"}}
        # The model is random: it differs by what suppressed tokens would have had, which is measured and stops nothing.
        settings |= {"generation": VLLM if servers else "transformers", "max_logprob_gap": 100.0}
        top["servers"] = list(servers)
        top |= {"judge_base_url": judge, "ledger": str(folder / f"{name}.sqlite")}
    top |= {"work": str(folder / name / "work"), "out": str(folder / name / "out")}
    top["settings"] = {"model": {"weights": "tiny", "max_pixels": 262_144}, stage: settings}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(top), encoding="utf-8")
    return path


def measure(stage: str, kind: str, config: Path) -> dict[str, Any]:
    """Runs one training to its end; seconds a step, tokens a second and most memory.

    Raises:
        UserError: it failed; the end of its output is in the message.
    """
    module = (
        ["-m", __spec__.name, "--plain", stage] if kind == "trl" else ["-m", f"sifthinker.training.{stage}"]
    )
    done = subprocess.run(
        [sys.executable, *module, str(config)],
        env={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{stage} ({kind}) ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    lines = (Path(values["work"]) / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    notes = json.loads((Path(values["out"]) / "summary.json").read_text(encoding="utf-8"))["notes"]
    seconds = [later["seconds"] - earlier["seconds"] for earlier, later in itertools.pairwise(logged)]
    return {
        "seconds": seconds,
        "tokens_per_second": statistics.fmean(entry["tokens_per_second"] for entry in logged[1:]),
        "peak_memory_bytes": notes["peak_memory_bytes"],
        "logp_difference": max((entry.get(samplers.GAP) or 0.0 for entry in logged), default=0.0),
    }


def summarise(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The median step, and its range from the 10th to the 90th percentile of all steps."""
    seconds = [value for each in measured for value in each["seconds"]]
    low, high = np.percentile(seconds, [10, 90])
    memory = [each["peak_memory_bytes"] for each in measured if each["peak_memory_bytes"]]
    return {
        "step_seconds": statistics.median(seconds),
        "step_seconds_low": float(low),
        "step_seconds_high": float(high),
        "tokens_per_second": statistics.fmean(each["tokens_per_second"] for each in measured),
        "peak_memory_bytes": max(memory) if memory else None,
    }


def table(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [f"{found['device']}, {found['parameters']:,} parameters, {found['versions']}", ""]
    lines += [
        "| | step, s (p10 to p90) | tokens/s | memory, GB | step against TRL |",
        "|---|---|---|---|---|",
    ]
    for stage in ("sft", "grpo"):
        for kind, row in found[stage].items():
            memory = f"{row['peak_memory_bytes'] / 1e9:.2f}" if row["peak_memory_bytes"] else "-"
            against = row["step_seconds"] / found[stage]["trl"]["step_seconds"] - 1
            lines.append(
                f"| {stage}, {kind} | {row['step_seconds']:.3f} ({row['step_seconds_low']:.3f} to "
                f"{row['step_seconds_high']:.3f}) | {row['tokens_per_second']:.0f} | {memory} | {against:+.1%} |"
            )
    if vllm := found.get("vllm"):
        said = vllm.get("why") or (
            f"vLLM {vllm['version']} started in {vllm['start_seconds']:.0f} s; log-probabilities differ by at most "
            f"{vllm['logp_difference']:.2g} in a step's mean"
        )
        lines += ["", f"{VLLM}: {said}"]
    return "\n".join(lines)


# --- TRL's own trainers -----------------------------------------------------------------------------------------


class Clock(TrainerCallback):
    """Writes seconds and tokens of each step as `progress.Progress` does, and nothing else."""

    def __init__(self, file: Path) -> None:
        """Writes `file` when the training ends."""
        self.file = file
        self.lines: list[dict[str, float]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts the clock."""
        self.started = self.last = time.monotonic()
        self.tokens = 0.0

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Notes a step."""
        if "num_tokens" not in logs:
            return
        now = time.monotonic()
        speed = (logs["num_tokens"] - self.tokens) / (now - self.last)
        self.tokens, self.last = logs["num_tokens"], now
        self.lines.append({"seconds": now - self.started, "tokens_per_second": speed})

    def on_train_end(self, args, state, control, **kwargs):
        """Writes the steps."""
        self.file.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")


def plain(stage: str, config: Path) -> None:
    """Trains with TRL's own trainer what the program of `stage` would train with `config`."""
    kinds: dict[str, Any] = {"sft": sft.SftRun, "grpo": grpo.GrpoRun}
    task = harness.load(config, kinds[stage])
    settings = getattr(task.settings, stage)
    for folder in (task.work, task.out):
        folder.mkdir(parents=True, exist_ok=True)
    trainer = {"sft": plain_sft, "grpo": plain_grpo}[stage](task, settings)
    trainer.add_callback(Clock(task.work / "progress.jsonl"))
    harness.fit(trainer, None)
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    json_files.write_json(task.out / "summary.json", {"notes": {"peak_memory_bytes": memory}})


def plain_sft(task: Any, settings: Any) -> Any:
    """TRL's own SFT trainer, with our model, rows and arguments."""
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(**harness.arguments(settings, task.work), max_length=None)
    harness.start_deepspeed(settings)
    processor = loading.load_processor(task.model, task.settings.model.max_pixels)
    dataset, _ = sft.fitting(task, processor)
    return SFTTrainer(
        model=loading.load_policy(task.model, settings.precision),
        args=arguments,
        train_dataset=sft.examples(dataset, task.settings.model.depth_input, settings.target),
        processing_class=processor,
        peft_config=adapters.lora(settings.lora),
    )


def plain_grpo(task: Any, settings: Any) -> Any:
    """TRL's own GRPO trainer, with our model, rows and arguments, and a constant reward."""
    from trl import GRPOConfig, GRPOTrainer

    def constant(completions: list[Any], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    arguments = GRPOConfig(
        **harness.arguments(settings, task.work), **{**grpo.grpo_arguments(settings), "reward_weights": None}
    )
    harness.start_deepspeed(settings)
    processor = loading.load_processor(task.model, task.settings.model.max_pixels)
    processor.tokenizer.padding_side = "left"
    arguments.generation_kwargs = samplers.of(settings).suppression(loading.picture_tokens(processor))
    columns = ["id", "question", "image", "depth_image"]
    return GRPOTrainer(
        model=loading.load_policy(task.model, settings.precision),
        reward_funcs=constant,
        args=arguments,
        train_dataset=grpo.examples(
            rows.open_parquet(task.dataset, columns, task.work), task.settings.model.depth_input
        ),
        processing_class=processor,
        peft_config=adapters.lora(settings.lora),
    )


if __name__ == "__main__":
    main()
