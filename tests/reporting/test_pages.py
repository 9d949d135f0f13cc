"""What templates make of messages: HTML in them stays text."""

from __future__ import annotations

import jinja2
import pytest

from sifthinker.reporting.pages import TEMPLATES


@pytest.mark.parametrize(
    ("message", "html"),
    [
        ("nothing to mark", "nothing to mark"),
        ("`sif promote RUN` pins one", "<code>sif promote RUN</code> pins one"),
        ("ask `a` or `b`", "ask <code>a</code> or <code>b</code>"),
        ("one ` alone", "one ` alone"),
        ("<b> in `<i>` & out", "&lt;b&gt; in <code>&lt;i&gt;</code> &amp; out"),
    ],
)
def test_commands_of_a_message_are_code_and_the_rest_is_escaped(message: str, html: str) -> None:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    module = environment.get_template("commands.html.jinja").module
    assert str(module.marked(message)) == html  # type: ignore[attr-defined]
