"""What an entry of the table of samplers offers; what it does not define is as transformers samples."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sifthinker.config import Grpo


class Sampler:
    """A back end that samples completions for GRPO.

    Attributes:
        libraries: Distributions that decide what is sampled, besides those of every training.
        modules: Likewise, logical names of modules (tasks/runtime/results.py).
        refused: Why no training may use it; "" where one may.
        scored: It gives the log-probabilities of what it sampled, so that they can be held to the trainer's.
    """

    libraries: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    refused: str = ""
    scored: bool = False

    def arguments(self, settings: Grpo) -> dict[str, Any]:
        """The arguments of TRL's `GRPOConfig` that name it."""
        return {"use_vllm": False, "vllm_mode": "colocate", "vllm_server_base_url": None}

    def suppression(self, tokens: Sequence[int]) -> dict[str, Any]:
        """TRL's `generation_kwargs` that keep `tokens` from being sampled."""
        return {"suppress_tokens": list(tokens)}

    def unfit(self, settings: Grpo) -> str:
        """Why no machine can train with these settings, and what to do; "" where one can. A configuration is refused by it."""
        return ""

    def preflight(self, settings: Grpo, gpus: int) -> None:
        """Before ranks are started, in the stage's process.

        Args:
            settings: of the training.
            gpus: that the stage sees; 0: it computes on processors.

        Raises:
            UserError: it cannot sample for this training here.
        """

    def check(self, settings: Grpo, servers: Sequence[str]) -> None:
        """On each rank, before anything is loaded.

        Args:
            settings: of the training.
            servers: base URLs of those that `serving` has started.

        Raises:
            UserError: it cannot sample for this training here.
        """

    def share(self, settings: Grpo) -> float:
        """The share of each rank's GPU memory that it takes beside the trainer."""
        return 0.0

    def serving(
        self, folder: Path, settings: Grpo, work: Path, gpus: Sequence[str], context: int | None = None
    ) -> AbstractContextManager[tuple[str, ...]]:
        """The base URLs of the servers that the training needs, for as long as it runs.

        Args:
            folder: of the model that the training starts from.
            settings: of the training.
            work: folder of the servers' logs.
            gpus: the GPUs that the stage sees, as CUDA_VISIBLE_DEVICES names them; none: it computes on processors.
            context: most tokens of a prompt, its pictures and its completion; None: not known.
        """
        return contextlib.nullcontext(())

    def attach(self, trainer: Any, servers: Sequence[str], work: Path, tokens: Sequence[int]) -> None:
        """Makes a trainer sample by it, where TRL's own arguments do not.

        Args:
            trainer: GRPO's, with its model.
            servers: base URLs of those that `serving` has started.
            work: folder for what passes between trainer and servers.
            tokens: that are never sampled.
        """
