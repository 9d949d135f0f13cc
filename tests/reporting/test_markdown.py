"""Text from data inside Markdown, read again by a Markdown parser."""

from __future__ import annotations

import doctest
import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sifthinker.reporting import markdown


def read(text: str) -> str:
    """What a reader sees, and that it is one paragraph without marks."""
    made = MarkdownIt("commonmark").enable("table").render(f"**Question.** {markdown.inline(text)}")
    inside = re.fullmatch(r"<p><strong>Question.</strong> ?(.*)</p>\n", made, re.DOTALL)
    assert inside, made
    assert not re.search(r"<(?!br>)", inside[1]), made
    return html.unescape(inside[1].replace("<br>", "\n"))


@pytest.mark.parametrize(
    "text",
    [
        "Which one is nearer?\n(A) the cup\n(B) the plate",
        "# A\n## B\n- c\n1. d\n> e",
        "A\n===\nB\n---",
        "a | b\n|---|---|\n| c | d |",
        "*a* _b_ `c` ~~d~~ [e](http://f) ![g](h) <script>i</script> &amp; &lt;",
        "a\\b \\( \\[x\\]",
        "http://example.org/a_b",
    ],
)
def test_a_question_with_options_is_one_paragraph_that_reads_as_it_was_written(text: str) -> None:
    assert read(text) == text


@given(st.text(alphabet="ab (AB)#*_`-+1.>|=~[]<&\\!:\n", min_size=1, max_size=40))
def test_whatever_it_holds_it_is_one_paragraph(text: str) -> None:
    assert read("a" + text).split() == ("a" + text).split()


def test_the_docstrings_example_runs() -> None:
    assert doctest.testmod(markdown).failed == 0
