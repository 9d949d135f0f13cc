"""Which modules no model family trains, as one pattern."""

from __future__ import annotations

from sifthinker.models.families import FAMILIES


def frozen_modules() -> str:
    """The pattern of the modules that are not trained, in any family: it matches a whole name."""
    parts = dict.fromkeys(part for family in FAMILIES.values() for part in family.frozen)
    return f".*({'|'.join(parts)}).*"
