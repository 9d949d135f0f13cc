"""Whether a converted Bunny-LLaMA3 answers as the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from sifthinker.core import prompts
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.models.bunny_layout import TOWER, renamed, tensors

TOLERANCE = 1e-4  # of the logits, as a share of the largest


@torch.no_grad()
def compare(source: Path, converted: Path) -> float:
    """The largest difference of the logits on a conversation with two pictures, as a share of the largest logit.

    One side is the converted model. The other is put together from the published tensors as Bunny does it: SigLIP, the
    projector, and LLaMA among whose embeddings the patches are placed.
    """
    processor = loading.load_processor(converted)
    ramp = np.add.outer(np.arange(90), 2 * np.arange(60)).astype(np.uint8)
    pictures = [Image.fromarray(ramp), Image.fromarray(ramp.T)]
    inputs = loading.encode(
        processor, prompts.policy_messages("What is nearest?", chain="It is red."), pictures
    )
    config = transformers.LlavaConfig.from_pretrained(converted, trust_remote_code=False)
    wanted = _reference(source, config, inputs)
    model, told = transformers.LlavaForConditionalGeneration.from_pretrained(
        converted,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if wrong := sorted({*told["missing_keys"], *told["unexpected_keys"]}):
        raise UserError(
            f"{converted}: weights without a place, or a place without weights: {', '.join(wrong[:5])}"
        )
    found = model.eval()(**inputs).logits
    return float((found - wanted).abs().max() / wanted.abs().max())


def _reference(source: Path, config: Any, inputs: Any) -> torch.Tensor:
    """The logits, from the published tensors, (1, tokens, vocabulary)."""
    tower = _filled(transformers.SiglipVisionModel, config.vision_config, tensors(source, TOWER))
    seen = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
    projector = tensors(source, "model.mm_projector.")
    for layer in ("0", "2"):
        seen = torch.nn.functional.linear(seen, projector[f"{layer}.weight"], projector[f"{layer}.bias"])
        seen = torch.nn.functional.gelu(seen) if layer == "0" else seen
    del tower
    weights = {f"model.{name}": value for name, value in tensors(source, "model.").items()}
    weights = {name: value for name, value in weights.items() if renamed(name).startswith("language_model.")}
    weights |= {f"lm_head.{name}": value for name, value in tensors(source, "lm_head.").items()}
    rows = config.text_config.vocab_size
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:rows]
    language = _filled(transformers.LlamaForCausalLM, config.text_config, weights)
    embedded = language.get_input_embeddings()(inputs["input_ids"])
    embedded[inputs["input_ids"] == config.image_token_id] = seen.flatten(0, 1)
    logits: torch.Tensor = language(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits
    return logits


def _filled(kind: Any, config: Any, weights: dict[str, torch.Tensor]) -> Any:
    """A model of transformers with given weights, all of which it must have a place for."""
    model = kind(config)
    own = model.state_dict()
    renamed_ = {
        name if name in own else name.removeprefix("vision_model."): value for name, value in weights.items()
    }
    fitting = {name: value for name, value in renamed_.items() if ".head." not in f".{name}"}
    model.load_state_dict(fitting, assign=True)
    return model.eval()
