"""What a reasoning model writes before its answer: put aside, where it is certain where the answer begins.

Such a model opens its reply with `<think>...</think>`; some leave the block empty, some open it in the prompt so that
the reply has the closing tag alone, some never close it. The chain asked for begins with `<think>` itself, so a block
is reasoning only where the whole chain comes after it.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = "<think>", "</think>"
_FENCE = re.compile(r"```\w*\s*\Z")


def before_chain(reply: str) -> tuple[str, bool]:
    """A reply from where its chain, with its fence, begins; and whether reasoning was put aside.

    The chain begins at the last `<think>`. What stands before is reasoning if it ends with `</think>`, whatever it
    holds, or if it opens with `<think>` and answers nothing. The reply stays as it is where that is not certain: an
    answer between the two blocks belongs to a chain of its own.
    """
    text = reply.strip()
    begins = text.rfind(_OPEN)
    before = text[: max(begins, 0)]
    reasoning, closing, between = before.rpartition(_CLOSE)
    if not closing:
        if not before.startswith(_OPEN):  # talk at most, which is no reasoning block
            return text, False
        fence = _FENCE.search(before)
        reasoning, between = before[: fence.start() if fence else begins], before
    if "<answer>" in between or "</answer>" in between:
        return text, False
    return text[len(reasoning) + len(closing) :].strip(), True


def before_answer(reply: str) -> str:
    """A reply behind its reasoning block, for answers that hold no `<think>`; all of it where there is none."""
    return reply.rpartition(_CLOSE)[2].strip()
