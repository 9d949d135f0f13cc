"""The files of the context that an image is made with: by .dockerignore and the COPY lines of its Dockerfile."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]


@cache
def context() -> list[Path]:
    """What reaches the builder, as paths below the root: the last rule that matches a file or a folder above it wins."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert rules[0] == "*", "without it every file of the folder would have to be looked at"
    named = [path for rule in rules if rule.startswith("!") for path in ROOT.glob(rule[1:])]
    files = {
        file for path in named for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
    }
    relative = [file.relative_to(ROOT) for file in sorted(files)]
    return [file for file in relative if _kept(file, rules)]


def _kept(file: Path, rules: list[str]) -> bool:
    kept = True
    for rule in rules:
        pattern = _pattern(rule.removeprefix("!"))
        if any(pattern.fullmatch(path.as_posix()) for path in (file, *file.parents[:-1])):
            kept = rule.startswith("!")
    return kept


def _pattern(rule: str) -> re.Pattern[str]:
    """Docker's: `*` stays within a folder, a leading `**/` is any folder."""
    inside = re.escape(rule.removeprefix("**/")).replace(r"\*", "[^/]*")
    return re.compile(f"(.*/)?{inside}" if rule.startswith("**/") else inside)


def build(dockerfile: str, folder: Path) -> Path:
    """Copies into a folder, as to the WORKDIR, what the COPY lines of all stages of a Dockerfile copy from the context."""
    text = (ROOT / "docker" / dockerfile).read_text(encoding="utf-8").replace("\\\n", " ")
    every = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ")]
    copies = [words for words in every if not words[0].startswith("--from=")]  # of an earlier stage
    assert copies and not any(word.startswith("--") for words in copies for word in words)
    for *sources, target in copies:
        for source in sources:
            for file in context():
                if source != "." and not file.is_relative_to(source):
                    continue
                # A folder's content is copied, a file under its own name.
                name = file if source == "." else PurePosixPath(file.name)
                there = folder / target / name
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, there)
    return folder
