"""The miniature: small models of the real architectures, trained from scratch on rendered scenes.

They stand in for the pre-trained weights that a real reproduction starts from. `build.py` makes both as they begin,
`python -m sifthinker.pretraining.pretrain` trains them, `policy/` and `depth/` hold them trained, with a card each.
"""

from pathlib import Path
from typing import Literal

NAME = "miniature"  # in a configuration, in the place of a folder or hub id


def folder(kind: Literal["policy", "depth"]) -> Path:
    """Where the trained weights of a kind of model are."""
    return Path(__file__).with_name(kind)
