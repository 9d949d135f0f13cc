"""Folds a LoRA adapter into its base model, and proves that it did.

    python -m sifthinker.training.merge CONFIG.yaml

    model: <folder of the base model>
    adapter: <folder of the adapter>
    out: <folder of the merged model; summary.json lies with it>
    work: <not used; every program is given one>
    dataset: [<SIF Parquet files>]   # optional: the rows that the models are compared on; else a made-up picture
    settings: {model: <config.Model>, merge: <config.Merge>}

1. Everything is computed in fp32. The weights are cast to `merge.precision` when they are saved.
2. The merged model has to answer as base and adapter do, and the saved one too, but for what the cast costs:
   merge_check.py has the rule. A merge that changes nothing is an error (unless `merge.unchanged: note`).
3. Memory holds one fp32 copy of the model: the adapter is folded into it layer by layer, the weights are cast one by
   one, and the files are read back after that model is gone.
4. The processor goes along with the pixel budget in it, so that the merged model is served as it was trained.

The model is loaded and saved by transformers and folded by PEFT, not tensor by tensor from file to file. Files and
modules have other names for the same weight in several families, some weights are tied, and the scale of an adapter
depends on its kind (rsLoRA, DoRA, alpha by layer): the libraries know this. The comparison needs the whole model in
fp32 anyhow, so that a fold from file to file would save no memory.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from sifthinker.config import Merge, Model, Section
from sifthinker.core import prompts, tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.training import harness, json_files, merge_check, rows
from sifthinker.training.merge_check import Answers, Difference, Prompt

logger = logging.getLogger(__name__)
POSITIONS = (
    256  # of a chain that are compared, the last ones: their logits take 156 MB with Qwen's vocabulary
)
SHARD = "5GB"
ROOM = 4e9  # bytes of a GPU kept free for activations
MADE_UP_CHAIN = (
    '<think>\n<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.5}]</area>\n<text>It gets brighter to the right.'
    "</text>\n</think>\n<answer>\nThe left side.\n</answer>"
)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Settings(Section):
    """The sections that a merge reads."""

    model: Model
    merge: Merge


class MergeRun(Section):
    """The configuration file of a merge: what is merged, and where the result goes."""

    model: Path
    adapter: Path
    out: Path
    work: Path | None = None
    dataset: tuple[Path, ...] = ()
    settings: Settings


def main(path: Path) -> None:
    """Folds an adapter into its base model."""
    merge(harness.load(path, MergeRun))


def merge(task: MergeRun) -> None:
    """Writes the merged model.

    Raises:
        UserError: the adapter cannot be read or does not fit the model; the merge changes nothing, or something else
            than the adapter does. No model is written then.
    """
    started = time.monotonic()
    torch.set_float32_matmul_precision(
        "highest"
    )  # an environment may ask for TF32, whose rounding the check would refuse
    tensors = read_adapter(task.adapter)
    trained = is_trained(tensors)
    if not trained:
        _unchanged(task.settings.merge, f"{task.adapter}: every lora_B is zero: the adapter is untrained")
    task.out.mkdir(parents=True, exist_ok=True)
    processor = loading.load_processor(task.model, task.settings.model.max_pixels)
    given = list(
        compared(task.dataset, task.settings.merge.prompts, task.settings.model.depth_input, processor)
    )
    with (
        tempfile.TemporaryDirectory(dir=task.out, prefix="answers.") as answers,
        tempfile.TemporaryDirectory(dir=task.out, prefix="merged.") as merged,
    ):
        try:
            notes = _merge(task, tensors, trained, Answers(Path(answers), given), Path(merged))
        except UserError as error:
            raise UserError(f"{task.adapter}: {error}") from error
        processor.save_pretrained(merged)
        _publish(Path(merged), task.out)
    notes |= {
        "prompts": len(given),
        "prompts_from": "data set" if task.dataset else "made-up picture",
        "precision": task.settings.merge.precision,
        "seconds": round(time.monotonic() - started, 3),
    }
    json_files.write_json(task.out / "summary.json", {"in": 1, "kept": 1, "rejected": {}, "notes": notes})


def _merge(
    task: MergeRun, tensors: dict[str, torch.Tensor], trained: bool, answers: Answers, folder: Path
) -> dict[str, Any]:
    """Folds, compares, and saves into `folder`; returns the notes on what was compared."""
    precision = task.settings.merge.precision
    model = loading.load_policy(task.model, "fp32")
    model = model.to(device_for(model))
    answers.ask("base", model)
    adapted = attach(model, task.adapter, tensors)
    answers.ask("adapter", adapted)
    brought = answers.difference("adapter", "base")
    answers.drop("base")
    probes = merge_check.probe_layers(adapted)
    model, changed = fold(adapted, DTYPES[precision])
    del adapted
    if not changed and trained:
        _unchanged(
            task.settings.merge,
            f"in {precision} the adapter is lost by rounding, the weights are the base model's; train longer or set "
            "merge.precision: fp32",
        )
    layers = merge_check.check_layers(model, probes)
    answers.ask("merged", model)
    for step in (_cast, save) if precision == "bf16" else (save, _cast):
        step(model, folder)
    answers.ask("cast", model)
    device = model.device
    del model, probes
    gc.collect()  # modules and their hooks refer to each other; two models would lie in memory
    fold_cost, cast = answers.difference("adapter", "merged"), answers.difference("merged", "cast")
    merge_check.check_fold(fold_cost, cast)
    answers.ask("saved", loading.load_policy(folder, precision).to(device))
    saved = answers.difference("adapter", "saved")
    merge_check.check_saved(saved, cast, precision)
    if precision == "bf16" and trained and cast.kl > brought.kl:
        logger.warning("rounding to bf16 changes the answers more than the adapter does: %s", _said(cast))
    logger.info("adapter %s; merged and saved %s; the cast alone %s", *map(_said, (brought, saved, cast)))
    return {
        "kl": saved.kl,  # adapter against saved, the largest of all positions, nats
        "argmax_share": saved.argmax_share,
        "kl_fold": fold_cost.kl,  # adapter against merged, both in fp32
        "kl_cast": cast.kl,  # merged against its cast to bf16, whatever the files hold
        "argmax_share_cast": cast.argmax_share,
        "kl_adapter": brought.kl,  # adapter against base
        "positions": saved.positions,
        "layers": layers,  # largest error of a layer, as a share of what its adapter adds
        "changed": changed,  # share of the adapted weights that differ from the base model's, in the files
    }


def _said(difference: Difference) -> str:
    return f"KL {difference.kl:.3g}, equal argmax {difference.argmax_share:.1%}"


def _unchanged(settings: Merge, what: str) -> None:
    if settings.unchanged == "error":
        raise UserError(f"{what}; the merge would change nothing. merge.unchanged: note lets it pass")
    logger.warning("%s; the merge changes nothing", what)


def device_for(model: Any) -> str:
    """The GPU, if there is one with room for the fp32 model; else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    free, _ = torch.cuda.mem_get_info()
    needed = sum(p.numel() * p.element_size() for p in model.parameters()) + ROOM
    if needed > free:
        logger.warning(
            "the GPU has %.0f GB free and the merge takes %.0f: it runs on the CPU", free / 1e9, needed / 1e9
        )
        return "cpu"
    return "cuda"


# --- the adapter ------------------------------------------------------------------------------------------------


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter.

    Raises:
        UserError: no adapter in safetensors there.
    """
    file = folder / "adapter_model.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot read the adapter: {error}") from error


def is_trained(tensors: dict[str, torch.Tensor]) -> bool:
    """Whether an adapter changes anything: some lora_B is not zero, or there is something else than LoRA."""
    started = ("lora_A", "lora_magnitude_vector")  # not zero from the start
    return any(bool(t.any()) for name, t in tensors.items() if not any(kind in name for kind in started))


def attach(model: Any, folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
    """The model with the adapter beside it, and every tensor of the adapter in its place.

    Raises:
        UserError: the adapter does not fit the model, or is of a kind that cannot be merged.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel.from_pretrained(model, folder).eval()
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"does not fit the model {model.name_or_path}: {error}") from error
    if (kind := adapted.peft_config["default"].peft_type) != "LORA":
        raise UserError(f"the adapter is of the kind {kind.value}; only LoRA can be merged")
    loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # PEFT only warns of tensors without a place, and leaves layers without a tensor as they are.
    wrong = sorted(tensors.keys() ^ loaded.keys()) or [
        name for name, tensor in tensors.items() if not torch.equal(loaded[name].cpu(), tensor.float())
    ]
    if wrong:
        raise UserError(
            f"does not fit the model {model.name_or_path}: {len(wrong)} tensors of the adapter's file have no place "
            f"in the model or none for their layer in the file, as {wrong[0]}; give the model that it was trained on"
        )
    return adapted


def fold(adapted: Any, dtype: torch.dtype) -> tuple[Any, float]:
    """Folds the adapter into the weights, one layer after the other.

    Args:
        adapted: a PEFT model in fp32.
        dtype: of the files, in which weights are compared with the base model's.

    Returns:
        The merged model, in fp32, and the share of the adapted weights that changed in `dtype`.

    Raises:
        UserError: the adapter holds numbers that are not finite.
    """
    changed = total = 0
    for name, layer in merge_check.adapted_layers(adapted).items():
        before = layer.get_base_layer().weight.data.to(dtype)
        try:
            layer.merge(safe_merge=True)  # into a new tensor, so that `before` stays
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        changed += int((layer.get_base_layer().weight.data.to(dtype) != before).sum())
        total += before.numel()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # "already merged": it takes the adapter's own modules and biases over
        return adapted.merge_and_unload(safe_merge=True), changed / total


# --- the files --------------------------------------------------------------------------------------------------


def _cast(model: Any, _: Path) -> None:
    """Rounds the weights to bf16 one by one. Buffers stay: loading in bf16 leaves them in fp32, too."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def save(model: Any, folder: Path) -> None:
    """Writes the model in safetensors shards, with the names that its family's published files have."""
    model.save_pretrained(folder, max_shard_size=SHARD)


def _publish(folder: Path, out: Path) -> None:
    """Moves the accepted files into `out`, the weights first: config.json, without which nothing loads, last."""
    for file in sorted(
        folder.iterdir(), key=lambda file: (file.name == "config.json", file.suffix == ".json")
    ):
        file.replace(out / file.name)


# --- the prompts ------------------------------------------------------------------------------------------------


def compared(dataset: tuple[Path, ...], count: int, depth_input: bool, processor: Any) -> Iterator[Prompt]:
    """The first rows of the data set, prompt and chain, or a made-up one; the last `POSITIONS` of a chain count."""
    for question, chain, pictures in _rows(dataset, count, depth_input):
        prompt = loading.encode(processor, prompts.policy_messages(question, depth_input), pictures)
        whole = loading.encode(
            processor, prompts.policy_messages(question, depth_input, chain=chain), pictures
        )
        written = whole["input_ids"].shape[1] - prompt["input_ids"].shape[1]
        yield Prompt(whole, min(written + 1, POSITIONS))


def _rows(
    dataset: tuple[Path, ...], count: int, depth_input: bool
) -> Iterator[tuple[str, str, list[Image.Image]]]:
    if not dataset:
        ramp = np.add.outer(np.arange(84), np.arange(112)).astype(np.uint8)
        pictures = [Image.fromarray(ramp).convert("RGB")] * (2 if depth_input else 1)
        yield "What is nearest?", MADE_UP_CHAIN, pictures
        return
    columns = ["id", "question", "chain", *rows.image_columns(depth_input)]
    for row in islice(tables.read(dataset, columns), count):
        yield row["question"], row["chain"], rows.conversation(row, depth_input)["images"]


if __name__ == "__main__":
    harness.main(main)
