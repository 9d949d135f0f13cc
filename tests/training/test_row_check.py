"""A row that would break a training is named: before it starts, or where it breaks it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers

from sifthinker.config import Grpo, Model, Sft
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.training import grpo, preflight, row_check, rows, sft
from tests.training.conftest import row

POLICY = Model(weights="tiny", max_pixels=3136)
SMALL = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def processor(base: Path) -> Any:
    return loading.load_processor(base, 3136)


def written(path: Path, **changed: Any) -> Path:
    """Four rows, of which the third is changed."""
    tables.write(path, tables.SIF, [row(i) | (changed if i == 2 else {}) for i in range(4)])
    return path


@pytest.mark.parametrize(
    ("settings", "column"),
    [(Sft(**SMALL), "question"), (Sft(**SMALL), "chain"), (Grpo(**SMALL, batch=8), "question")],
)
def test_a_special_token_of_the_model_in_a_published_row_ends_it_before_the_start(
    base, tmp_path, judge, settings, column
):
    path = written(
        tmp_path / "a.parquet", **{column: row(2)[column].replace("patch", "patch <|video_pad|>", 1)}
    )
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    with pytest.raises(UserError, match=rf"toy/patches/2: its {column} holds '<\|video_pad\|>'"):
        preflight.check(base, [path], tmp_path / "work", POLICY, settings, url)


def test_a_token_that_only_the_models_own_tokenizer_knows_is_found(processor):
    assert {"<|im_end|>", "<|image_pad|>", "<|endoftext|>"} <= row_check.reserved(processor)
    added = tokenizers.AddedToken
    known = {
        1: added("@@OWN[7]@@", special=True),
        2: added("<think>", special=False),  # Qwen3's: a tag of the chain
        3: added("<b>", special=False),  # Gemma's: text like any other
        4: added("<tool_call>", special=False),  # Qwen's: not marked, and listed
        5: added("!", special=True),  # a tokenizer that pads with a sign
    }
    tokenizer = SimpleNamespace(added_tokens_decoder=known, all_special_tokens=["</s>", "!"])
    fake = SimpleNamespace(tokenizer=tokenizer, image_token="[picture]", chat_template="<x>")
    tokens = row_check.reserved(fake)
    assert tokens == {"@@OWN[7]@@", "<tool_call>", "</s>", "[picture]"}
    row_check.check_texts(
        tokens, [{"id": "s/d/1", "question": "<b>Well!</b>", "chain": "<think>"}], ["question", "chain"]
    )
    with pytest.raises(UserError, match=r"s/d/1: its question holds '@@OWN\[7\]@@'"):
        row_check.check_texts(tokens, [{"id": "s/d/1", "question": "a @@OWN[7]@@"}], ["question"])


def test_an_sft_names_the_row_that_cannot_be_processed(config_file, tmp_path, base):
    path = written(tmp_path / "a.parquet", question="What is <|image_pad|> here?")
    file = config_file("sft", "named", {"max_steps": 1, "batch": 4}, dataset=[str(path)])
    with pytest.raises(
        UserError, match=r"toy/patches/2: this row cannot be processed: ValueError: .*image_pad"
    ):
        sft.main(file)


def test_a_grpo_names_the_row_that_cannot_be_processed(config_file, tmp_path, base, judge):
    path = written(tmp_path / "a.parquet", question="What is <|image_pad|> here?")
    settings = {"max_steps": 4, "batch": 8, "accumulation": 1, "generations": 2, "max_completion": 16}
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    more = {"ledger": str(tmp_path / "calls.sqlite"), "judge_base_url": url}
    file = config_file("grpo", "named", settings, dataset=[str(path)], **more)
    with pytest.raises(
        UserError, match=r"toy/patches/2: this row cannot be processed: ValueError: .*image_pad"
    ):
        grpo.main(file)


def test_a_picture_that_cannot_be_read_names_its_row():
    broken = row(2) | {"image": {"bytes": b"no picture", "path": "2.png"}}
    with pytest.raises(UserError, match="toy/patches/2: a picture of this row cannot be read"):
        rows.conversation(broken, depth_input=True)


def test_a_batch_that_fails_as_a_whole_keeps_its_own_error():
    def collate(examples: list[dict[str, Any]]) -> Any:
        if len(examples) > 1:
            raise RuntimeError("together")
        return io.BytesIO()

    with pytest.raises(RuntimeError, match="together"):
        row_check.NamedRows(collate)([{"sample_id": "a", "prompt": 1}, {"sample_id": "b", "prompt": 2}])
