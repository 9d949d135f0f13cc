"""The two sets of exact versions."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DIFFERENT = {"torch", "transformers", "huggingface_hub"}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_set_for_python_3_12_differs_where_it_must_and_nowhere_else():
    usual, other = pins("constraints.txt"), pins("constraints-py312.txt")
    assert usual.keys() == other.keys()
    assert {name for name in usual if usual[name] != other[name]} == DIFFERENT
