"""Bunny-Llama-3-8B-V as transformers' LLaVA: renames its weights, writes config and processor, and compares the logits.

    python -m sifthinker.models.convert_bunny FOLDER OUT

FOLDER is a download of `BAAI/Bunny-Llama-3-8B-V` (v1.0, 384 pixels). Its own code is neither needed nor run. OUT is then a
folder of the family `bunny_llama3`. The comparison holds the model in fp32: 34 GB of memory for the 8B.

What Bunny computes (BAAI-DCAI/Bunny, bunny/model; `google/siglip-so400m-patch14-384`):

1. A picture is padded to a square with grey (127), resized to 384 pixels (bicubic), and scaled to -1..1.
2. SigLIP's hidden states before its last layer, all 729 patches, go through Linear, GELU (erf), Linear.
3. They take the place of `<image>` among the embeddings of the text, and LLaMA-3 reads the whole.

`<image>` has no token of its own there. Here the last reserved token of LLaMA-3 is renamed, so that no matrix grows.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from sifthinker.core.errors import UserError
from sifthinker.models import bunny_layout, loading
from sifthinker.models.bunny_check import TOLERANCE, compare
from sifthinker.models.bunny_layout import COPIED, TOWER, renamed
from sifthinker.models.families.bunny_llama3 import END, FAMILY

logger = logging.getLogger(__name__)


def convert(source: Path, out: Path) -> float:
    """Writes the converted folder.

    Args:
        source: download of the published checkpoint.
        out: new folder; it appears when all is written and compared.

    Returns:
        The largest difference of the logits, as a share of the largest logit.

    Raises:
        UserError: the folder is of another layout or incomplete, `out` is there, or the logits differ.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give a new folder")
    published = bunny_layout.published(source)
    shapes = bunny_layout.shapes(source)
    bunny_layout.check_complete(source, shapes, published["num_hidden_layers"])
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    picture_token = _write_tokenizer(source, partial)
    tokens = _write_processor(partial, shapes, published)
    config = _config(published, shapes, picture_token, tokens)
    config.save_pretrained(partial)
    transformers.GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=config.text_config.eos_token_id,
        pad_token_id=config.text_config.pad_token_id,
    ).save_pretrained(partial)
    _write_weights(source, partial, config.text_config.vocab_size)
    loading.check_policy(partial, "bunny_llama3")
    difference = compare(source, partial)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{partial}: the converted model answers otherwise than the published one: the logits differ by "
            f"{difference:.3g} of the largest, and {TOLERANCE:g} is allowed. Compare the installed transformers with the "
            "constraints file"
        )
    partial.rename(out)
    return difference


# --- what is written ---------------------------------------------------------------------------------------------


def _write_tokenizer(source: Path, out: Path) -> int:
    """Copies the tokenizer, with `<image>` in the place of its last reserved token; returns the token's id."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (source / name).is_file():
            raise UserError(f"{source / name}: is missing; copy it from the published checkpoint")
    values = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    reserved = [
        token
        for token in values["added_tokens"]
        if re.fullmatch(r"<\|reserved_special_token_\d+\|>", token["content"])
    ]
    if not reserved:
        raise UserError(f"{source / 'tokenizer.json'}: LLaMA-3's reserved tokens are not in it")
    last = max(reserved, key=lambda token: int(token["id"]))
    number: int = last["id"]
    last["content"] = "<image>"
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    decoder = settings.get("added_tokens_decoder", {})
    if str(number) in decoder:
        decoder[str(number)]["content"] = "<image>"
    # The end of a turn is Bunny's own, and no code of the folder's is named.
    settings |= {"eos_token": END, "pad_token": END, "tokenizer_class": "PreTrainedTokenizerFast"}
    settings.pop("auto_map", None)
    settings.pop("chat_template", None)
    (out / "tokenizer.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return number


def _write_processor(out: Path, shapes: dict[str, list[int]], published: dict[str, Any]) -> Any:
    """Writes the processor; returns its tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        out, trust_remote_code=False, local_files_only=True
    )
    side = bunny_layout.side(published)
    transformers.LlavaProcessor(
        image_processor=transformers.LlavaImageProcessorPil(
            do_pad=True,
            do_center_crop=False,
            size={"height": side, "width": side},
            crop_size={"height": side, "width": side},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=shapes[f"{TOWER}vision_model.embeddings.patch_embedding.weight"][-1],
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=FAMILY.template,
    ).save_pretrained(out)
    return tokenizer


def _config(published: dict[str, Any], shapes: dict[str, list[int]], picture: int, tokenizer: Any) -> Any:
    """The config of the converted model; the tower's sizes are read off its tensors."""
    embeddings, layers = f"{TOWER}vision_model.embeddings.", f"{TOWER}vision_model.encoder.layers."
    hidden, _, _, patch = shapes[f"{embeddings}patch_embedding.weight"]
    tower = transformers.SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=shapes[f"{layers}0.mlp.fc1.weight"][0],
        num_hidden_layers=bunny_layout.tower_layers(shapes),
        num_attention_heads=hidden
        // (72 if hidden == 1152 else 64),  # so400m has 16 of 72, the others' are of 64
        image_size=bunny_layout.side(published),
        patch_size=patch,
        vision_use_head=False,
    )
    text = transformers.LlamaConfig(
        **{field: published[field] for field in COPIED},
        vocab_size=len(tokenizer),
        rope_parameters={"rope_type": "default", "rope_theta": published["rope_theta"]},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = transformers.LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=picture,
        image_seq_length=(bunny_layout.side(published) // patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        tie_word_embeddings=False,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = published.get("torch_dtype") or published.get("dtype")
    return config


def _write_weights(source: Path, out: Path, vocabulary: int) -> None:
    """Writes the weights file by file under their new names, so that memory holds one file (5 GB)."""
    files = bunny_layout.files(source)
    index: dict[str, str] = {}
    total = 0
    for number, file in enumerate(files, 1):
        kept = {}
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if new := renamed(name):
                    tensor = opened.get_tensor(name)
                    if name in ("model.embed_tokens.weight", "lm_head.weight"):
                        tensor = tensor[:vocabulary]  # the first upload has a row for padding
                    kept[new] = tensor.contiguous()
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file(kept, out / name, metadata={"format": "pt"})
        index |= dict.fromkeys(kept, name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
        logger.info("%s: %d tensors", name, len(kept))
    written = {"metadata": {"total_size": total}, "weight_map": index}
    (out / "model.safetensors.index.json").write_text(json.dumps(written, indent=2), encoding="utf-8")


def main() -> None:
    """Converts the folder that the command names."""
    parser = argparse.ArgumentParser(
        prog="python -m sifthinker.models.convert_bunny", description="Bunny-LLaMA3 as transformers' LLaVA."
    )
    parser.add_argument("folder", type=Path, help="download of BAAI/Bunny-Llama-3-8B-V")
    parser.add_argument("out", type=Path, help="new folder: weights of the family bunny_llama3")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        difference = convert(arguments.folder, arguments.out)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    logger.info("%s: the logits differ by %.2g of the largest", arguments.out, difference)


if __name__ == "__main__":
    main()
