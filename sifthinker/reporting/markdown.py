"""Text from data inside Markdown: shown as it is, whatever it holds."""

from __future__ import annotations

import re

_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|~=:>])")  # what can begin something in Markdown


def inline(text: str) -> str:
    r"""The text as one paragraph that reads as it was written.

    >>> inline("Which?\n(A) a <b>\n# B_c")
    'Which?<br>\\(A\\) a &lt;b&gt;<br>\\# B\\_c'
    """
    lines = (
        _MARKS.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;") for line in text.splitlines()
    )
    return "<br>".join(line.replace("\\>", "&gt;") for line in lines)
