"""infra/README.md: the tests that its table names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_of_the_table_exists() -> None:
    text = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    section = text.split("## What this project relies on in Prefect")[1]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        files = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", row)
        assert named or files or "| the same |" in row, row
        missing = [name for name in named if f"def {name}(" not in code]
        missing += [f for f in files if not (ROOT / f).is_file() and not (ROOT / "tests/infra" / f).is_file()]
        assert not missing
