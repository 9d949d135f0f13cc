"""Replies of every kind that models give, and benchmark files built small."""

import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from sifthinker import config

TEMPLATES = (
    "{a}",  # terse
    "{a}.",
    "({a})",
    "{lower}",  # other case
    "{text}",
    "{TEXT}",
    "{a}. {text}",
    "{a}: {text}",
    "({a}) {text}",
    "The answer is {a}.",
    "The answer is {text}.",
    "Answer: {a}",
    "A {text}",  # article
    "It is a {text} one, as far as I can see.",
    "I think the correct choice would be ({a}), because of the {text} part.",
    "{a}. {other_text}",  # contradictory
    "{a} or {b}",  # two answers
    "{text}, not {other_text}",
    "not {text}",
    "The answer is {a}. No, the answer is {b}.",
    "",  # none
    "...",
    "I cannot tell.",
    "Not sure",
    "Yes",
    "no",
    "Yes, there is {text}.",
    "No, there is not.",
    "Red and blue are the colors here",
    "three",
    "2 cars",
    "10",
    " 7 ",
    "{n}",
    "There are {n} of them.",
    "**{a}**",
    "\n{a}\n",
)


@pytest.fixture
def mixed_replies() -> Callable[[Sequence[tuple[str, str]], int], list[str]]:
    """Makes 200 seeded replies about the given (letter, text) options: right and wrong ones, of every kind."""

    def make(options: Sequence[tuple[str, str]], seed: int = 0) -> list[str]:
        generator = random.Random(seed)
        out = []
        for i in range(200):
            (a, text), (b, other_text) = generator.sample(list(options), 2)
            values = {"a": a, "b": b, "lower": a.lower(), "text": text, "TEXT": text.upper()}
            template = TEMPLATES[i % len(TEMPLATES)]
            out.append(template.format(**values, other_text=other_text, n=generator.randint(0, 12)))
        return out

    return make


@pytest.fixture
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (10, 120, 200)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path, picture: bytes) -> Callable[..., config.Benchmark]:
    """Writes files into a benchmark's folder: bytes as they are, a list as JSON lines (.jsonl) or JSON."""

    def write(name: str, files: dict[str, object], split: str = "", path: str = "") -> config.Benchmark:
        folder = tmp_path / name
        for relative, content in files.items():
            file = folder / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            elif relative.endswith(".jsonl"):
                assert isinstance(content, list)
                file.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
            else:
                file.write_text(
                    content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
                )
        # Not validated: several folders of one test have names of their own.
        return config.Benchmark.model_construct(name=name, path=folder / path, images=folder, split=split)

    return write
