"""LoRA: which layers are trained, and the adapter's files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from sifthinker.config import Lora
from sifthinker.models.families.family import TRAINED
from sifthinker.training.json_files import write_json
from sifthinker.training.ranks import barrier, rank


def lora(settings: Lora) -> Any:
    """LoRA on the linear layers of the language model; the vision tower and the projector stay as they are."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=TRAINED,
        task_type="CAUSAL_LM",
    )


def save_adapter(trainer: Any, folder: Path, here: bool | None = None) -> None:
    """Writes the adapter as PEFT reads it; equal weights give equal bytes (no path, no order of a set).

    Every rank calls it, and none goes on before it is written.

    Args:
        trainer: with its model.
        folder: made where it is not there.
        here: whether this rank writes; None: the first does.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with _gathered(parameter for parameter in model.parameters() if parameter.requires_grad):
        if rank() == 0 if here is None else here:
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
