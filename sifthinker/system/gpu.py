"""The memory of this machine's GPUs that torch keeps for later."""

from __future__ import annotations

import gc
import sys


def free() -> None:
    """Gives back what nothing in this process uses any more: torch keeps it, and other processes see it as taken.

    A process that has not loaded torch has nothing to give back, and does not load it for this.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()  # a model that is part of a cycle is freed by this alone
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
