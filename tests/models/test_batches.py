"""Replies made in one batch: each is the one that is made alone."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sifthinker.core import prompts
from sifthinker.models import batches, families, generation, loading, miniature
from sifthinker.models.generation import Sampling

QUESTIONS = (  # of different lengths
    "What is it?",
    "How many spheres are in front of the large green cone at the left edge of the picture?",
    "Are there more cubes than spheres?",
    "Which is closer, the red cube or the blue sphere?",
)
NEVER = threading.Event()


@pytest.fixture(scope="module")
def policy() -> generation.Policy:
    torch.set_num_threads(1)
    return generation.Policy(miniature.folder("policy"))


@pytest.fixture(scope="module")
def conversations(policy: generation.Policy) -> list[Any]:
    return seen(policy)


def seen(policy: generation.Policy) -> list[Any]:
    """Two pictures each, of different sizes."""
    colours = np.random.default_rng(0).integers(0, 256, (len(QUESTIONS), 6, 8, 3), dtype=np.uint8)
    made = []
    for place, (question, picture) in enumerate(zip(QUESTIONS, colours, strict=True)):
        size = (224, 168) if place % 2 else (168, 168)
        shown = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
        messages = prompts.policy_messages(question, depth_input=True)
        for message in messages:
            for part in message["content"]:
                if part["type"] == "image":
                    part["image"] = shown
        made.append(policy.conversation(messages))
    return made


def asked(conversations: list[Any], **more: Any) -> list[tuple[Any, Sampling, Any]]:
    return [
        (inputs, Sampling(**{"max_tokens": 30, "temperature": 0, "seed": place} | more), NEVER)
        for place, inputs in enumerate(conversations)
    ]


@pytest.mark.parametrize("temperature", [0, 0.7, 2.0])
def test_a_reply_of_a_batch_is_the_one_that_is_made_alone(
    policy: generation.Policy,
    conversations: list[Any],
    temperature: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the draws. The limit is that of the differences themselves, so that most replies are compared."""
    monkeypatch.setattr(batches, "CLOSE", 1e-4)
    settings = policy.model.generation_config
    monkeypatch.setattr(settings, "suppress_tokens", [*settings.suppress_tokens, *policy.ends])
    wanted = asked(conversations, temperature=temperature)
    wanted[1] = (wanted[1][0], Sampling(7, temperature, seed=-5), NEVER)  # one that ends before the others
    alone = [policy.reply(*one) for one in wanted]
    together = policy.together(wanted)
    assert len({one.prompt_tokens for one in alone}) > 1, "filled up on the left"
    assert sum(one is not None for one in together) >= 3
    assert [two for two in together if two] == [one for one, two in zip(alone, together, strict=True) if two]
    assert alone[1].completion_tokens == 7


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name != "qwen2_5_vl"])
def test_every_family_can_be_filled_up_on_the_left(tmp_path: Path, family: str) -> None:
    found = loading.fetch("tiny", None, "policy", family, 0, tmp_path)
    policy = generation.Policy(Path(found["folder"]))
    wanted = asked(seen(policy), max_tokens=8, temperature=0.7)
    alike: dict[Any, list[int]] = {}
    for place, one in enumerate(wanted):
        alike.setdefault(batches.kind(one[0]), []).append(place)
    groups = [of for of in alike.values() if len(of) > 1]
    assert groups, "else nothing is compared"
    for of in groups:
        alone = [policy.reply(*wanted[place]) for place in of]
        together = policy.together([wanted[place] for place in of])
        assert any(together)
        assert [two or one for one, two in zip(alone, together, strict=True)] == alone


def test_logits_differ_by_far_less_than_what_counts_as_close(
    policy: generation.Policy, conversations: list[Any]
) -> None:
    pad = policy.model.generation_config.pad_token_id
    with torch.inference_mode():
        together = policy.model(**batches.padded(conversations, pad)).logits[:, -1]
        alone = torch.cat([policy.model(**one).logits[:, -1] for one in conversations])
    torch.testing.assert_close(together, alone, atol=batches.CLOSE / 5, rtol=0)


def test_a_close_choice_is_left_to_the_reply_alone(
    policy: generation.Policy, conversations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = list[torch.Tensor]()
    look = batches._Choosing.look

    def counted(choosing: batches._Choosing, tokens: torch.Tensor) -> torch.Tensor:
        steps.append(tokens)
        return look(choosing, tokens)

    monkeypatch.setattr(batches._Choosing, "look", counted)
    monkeypatch.setattr(batches, "CLOSE", 1e9)
    assert policy.together(asked(conversations)) == [None] * len(conversations)
    assert len(steps) == 1, "the batch ends with its last reply"


def test_a_reply_that_nobody_waits_for_ends_and_the_others_go_on(
    policy: generation.Policy, conversations: list[Any]
) -> None:
    wanted = asked(conversations)
    whole = policy.together(wanted)
    gone = threading.Event()
    gone.set()
    wanted[2] = (*wanted[2][:2], gone)
    found = policy.together(wanted)
    assert found[2] is None
    assert [one for place, one in enumerate(found) if place != 2] == [
        one for place, one in enumerate(whole) if place != 2
    ]


def test_a_reply_that_ends_by_itself_says_so(policy: generation.Policy) -> None:
    texts = [policy.continuation(text) for text in ("red", "large red cone and blue")]
    most = asked(texts, max_tokens=200, temperature=1.0)
    alone = [policy.reply(*one) for one in most]
    assert {one.finish_reason for one in alone} & {"stop"}, "else nothing is shown here"
    assert [two or one for one, two in zip(alone, policy.together(most), strict=True)] == alone


def test_what_has_an_entry_for_each_token_is_filled_up_on_the_left() -> None:
    def row(length: int, patches: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.arange(1, length + 1)[None],
            "attention_mask": torch.ones(1, length, dtype=torch.long),
            "pixel_values": torch.full((patches, 4), float(patches)),
        }

    whole = batches.padded([row(2, 3), row(4, 1)], pad=9)
    assert whole["input_ids"].tolist() == [[9, 9, 1, 2], [1, 2, 3, 4]]
    assert whole["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert whole["pixel_values"][:, 0].tolist() == [3, 3, 3, 1]
