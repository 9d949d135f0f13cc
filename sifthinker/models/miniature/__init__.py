"""The miniature: small models of the real architectures, trained from scratch on rendered scenes.

They stand in for the pre-trained weights that a real reproduction starts from. `build.py` makes both as they begin,
`python -m sifthinker.pretraining.pretrain` trains them, `policy/` and `depth/` hold them trained, with a card each.
`looks/next/` holds a policy that was trained further, to find one thing after another.
"""

from pathlib import Path
from typing import Literal

Kind = Literal["policy", "depth"]
NAME = "miniature"  # in a configuration, in the place of a folder or hub id
LOOKS = "miniature-looks"  # the same, of the policy that was trained further
_FOLDERS: dict[tuple[str, Kind], str]
_FOLDERS = {(NAME, "policy"): "policy", (NAME, "depth"): "depth", (LOOKS, "policy"): "looks/next"}


def folder(kind: Kind) -> Path:
    """Where the trained weights of a kind of model are."""
    return Path(__file__).with_name(kind)


def find(weights: str, kind: Kind) -> Path | None:
    """Where the weights are that a configuration names; None where they are not of the miniature."""
    found = _FOLDERS.get((weights, kind))
    return None if found is None else Path(__file__).parent / found
