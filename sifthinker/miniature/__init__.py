"""The miniature: small models of the real architectures, trained from scratch on rendered scenes.

They stand in for the pre-trained weights that a real reproduction starts from. `build.py` makes both as they begin,
`python -m sifthinker.training.pretrain` trains them. `depth/` holds the trained depth model, `weights: miniature`. The
policy has not been trained well enough to be kept: demos start from a random one.
"""

from pathlib import Path
from typing import Literal

from sifthinker.config import UserError

NAME = "miniature"  # in a configuration, in the place of a folder or hub id
_FOLDERS = {"depth": Path(__file__).with_name("depth")}  # by kind of model


def folder(kind: Literal["policy", "depth"]) -> Path:
    """Where the trained weights of a kind of model are.

    Raises:
        UserError: there are none.
    """
    if kind not in _FOLDERS:
        raise UserError(
            f"weights: 'miniature': no {kind} has been trained yet; take 'tiny', which is a random toy, a folder, or a "
            "hub id"
        )
    return _FOLDERS[kind]
