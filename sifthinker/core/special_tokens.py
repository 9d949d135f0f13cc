"""Text that a data set may not hold: special tokens of the model families, tags of the chain, control characters.

A tokenizer does not tell a special token that somebody wrote into a question from one that the chat template wrote. A
picture token in a question asks for a picture that is not there, which ends a training. A role token ends the user's
turn. Ingest therefore rejects such a text before anything is paid for, and `acceptance.check` refuses a chain with one.

The list covers every family of policies that the project trains or has looked at, whichever of them is trained: a data
set outlives a model. What an unlisted tokenizer adds is found before a training starts (`training/row_check.py`).
"""

from __future__ import annotations

import re

# Anything that looks like a tag. Possessive (++), so a failed match never goes back; "<" is no word character, so no
# character is read twice.
TAG = re.compile(r"</?\w++>")
CHAIN_TAGS = frozenset(
    f"<{slash}{name}>" for name in ("think", "area", "text", "answer") for slash in ("", "/")
)

# Tokens that are spelt out; patterns cover the rest. By family, where the spelling says which.
_TOKENS = (
    *(
        "<image>",
        "</image>",
        "<video>",
        "<audio>",
    ),  # LLaVA, SmolVLM, Idefics3, PaliGemma; pictures in prompts
    *("<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "<sep>", "<cls>"),  # Llama 2, Gemma, BERT
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),  # Llama 2, Mistral
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),  # Pixtral, Mistral
    *(
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),  # Mistral
    *(
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    ),  # Gemma 3
    *("<start_of_audio>", "<end_of_audio>", "<audio_soft_token>"),  # Gemma 3n
    *(
        "<IMG_CONTEXT>",
        "<img>",
        "</img>",
        "<ref>",
        "</ref>",
        "<box>",
        "</box>",
        "<quad>",
        "</quad>",
    ),  # InternVL
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),  # Qwen
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),  # SmolVLM, Idefics3
)
_FORMS = (
    r"<[|｜][^<>|｜\n]{1,80}[|｜]?>",  # <|im_start|>, <|image_pad|>, <|begin_of_text|>, DeepSeek's; Gemma 4: <|turn>
    r"<[^<>|｜\s]{1,80}[|｜]>",  # Gemma 4: <turn|>, <image|>
    r"<row_\d+_col_\d+>",  # SmolVLM, Idefics3: a tile of a picture
    r"<(?:loc\d{4}|seg\d{3})>",  # PaliGemma: coordinates, masks
    r"<(?:unused|reserved_?|extra_id_)\d+>",  # Gemma and others: kept free
)
_TOKEN = re.compile("|".join([*map(re.escape, _TOKENS), *_FORMS]))
# Unicode's control characters but tab, line feed and carriage return. NUL above all: files and databases cut at it.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def find(text: str) -> str | None:
    """The first special token or control character of a text, as a message can show it; None where there is none."""
    # Nearly every text, and soon told: all tokens begin with one of the two, and no control character is printable.
    if "<" not in text and "[" not in text and text.isprintable():
        return None
    if token := _TOKEN.search(text):
        return ascii(token[0])
    if control := _CONTROL.search(text):
        return f"the control character U+{ord(control[0]):04X}"
    return None
