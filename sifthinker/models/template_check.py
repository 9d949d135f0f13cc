"""Whether a folder's chat template can carry our conversations through training, sampling and serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sifthinker.core import prompts
from sifthinker.core.errors import UserError


def check_template(processor: Any, path: Path) -> None:
    """Renders a prompt and a whole conversation, and compares the two.

    Args:
        processor: of the folder, as `processors.load_processor` gives it.
        path: the folder, for messages.

    Raises:
        UserError: there is none; it loses a picture, changes or cuts a chain, has its own `<think>` in the prompt, or
            does not end an answer. Or the tokenizer loses a text.
    """
    todo = "use the family's instruction-tuned checkpoint, and copy its chat template here"
    if not processor.chat_template:
        raise UserError(f"{path}: holds no chat template (chat_template.jinja); {todo}")
    chain = "<think>\n<area>[]</area>\n<text>It is red.</text>\n</think>\n<answer>\nred\n</answer>"
    _check_tokenizer(processor.tokenizer, chain, path)
    prompt = _rendered(processor, prompts.policy_messages("Which colour?"), path)
    whole = _rendered(processor, prompts.policy_messages("Which colour?", chain=chain), path)
    end = processor.tokenizer.eos_token
    opened = prompt.rpartition("Which colour?")[2].removeprefix(prompts.THINK_SUFFIX)
    wrong = {
        "writes another number of pictures than the two of a prompt": prompt.count(_placeholder(processor))
        != 2,
        "opens or closes <think> in the prompt": "<think>" in opened,
        "writes a prompt that does not begin the whole conversation": not whole.startswith(prompt),
        "changes a chain": chain not in whole,
        f"does not end an answer with {end}": whole.partition(chain)[2].strip() != end,
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise UserError(f"{path}: its chat template {', and '.join(found)}; {todo}")


def _check_tokenizer(tokenizer: Any, text: str, path: Path) -> None:
    """Refuses an empty vocabulary, which is what transformers makes of a folder without the tokenizer's file."""
    read = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    if "".join(read.split()) != "".join(text.split()):  # some tokenizers change blanks
        raise UserError(
            f"{path}: its tokenizer loses a text: {text!r} becomes {read!r}; copy the base model's tokenizer files here"
        )


def _rendered(processor: Any, messages: list[dict[str, Any]], path: Path) -> str:
    try:
        text: str = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user"
        )
    except Exception as error:  # a template can raise whatever it likes
        raise UserError(
            f"{path}: its chat template refuses a conversation ({type(error).__name__}: {error})"
        ) from error
    return text


def _placeholder(processor: Any) -> str:
    """What a chat template writes where a picture stands."""
    found: str = getattr(processor, "boi_token", None) or processor.image_token
    return found
